"""After the trouble: everything is healed, every rollout must end with no orphan and no lost capacity. Then the engine
must prove that it can still do what it is for: deploy, undo, and nothing when a stop finds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rebake.core.units import FULL
from rebake.judge.metric_rules import EndpointAsk, MetricRule
from rebake.rollout.fleets import GIVE_UP_AFTER
from rebake.rollout.plan import JudgeRules, Strategy
from rebake.testing.simulation.keeping import streak_of
from rebake.testing.simulation.people import digest_in
from rebake.testing.simulation.scenario import KEY, PROBE, SILENT, Happening
from rebake.testing.simulation.watch import LISTEN

if TYPE_CHECKING:
    from rebake.testing.simulation.run import Run

MOST_TICKS = 600
"""Ticks in which every rollout must have ended, once the world is healed."""
QUICK_TICKS, SLOW_TICKS = 60, 200
"""After so many ticks the clock goes faster: only long ramps are left then."""
HOPELESS = ("frail", "sickly", "exits")
ASKED_TICKS = 10
PROVED_SILENT = 4
"""One seed in so many proves that a silent metric is waited for: also each that is about workers."""


def settle(run: Run) -> None:
    """Heal the world, keep one engine, wait for the end of everything, and let the engine prove itself."""
    heal(run)
    if _ends(run) and ended_well(run):
        _prove(run)


def heal(run: Run) -> None:
    """Nothing goes wrong any more, nothing is frozen, and one engine is left."""
    run.reality.heal()
    for scope in list(run.watch.gates.freezes):
        run.lift(scope)
    run.owners = run.owners[:1]


def _ends(run: Run) -> bool:
    """Wait until nothing is left to do; an engine is asked to look when it said it would, or a little later."""
    for tick in range(MOST_TICKS):
        if healed_step(run, tick):
            return not run.watch.violations
    run.watch.fail("9", f"not settled {MOST_TICKS} ticks after the last fault: {where(run)}")
    return False


def healed_step(run: Run, tick: int) -> bool:
    """One look, when it is due or a little later. Returns: whether nothing is left to do, or a promise was broken."""
    owner = run.owners[0]
    wait = run.due[owner] - run.reality.wall.now()
    run.step(max(wait, _pace(tick)), owner)
    if run.watch.violations or settled(run):
        return True
    _answer(run)
    return False


def _pace(tick: int) -> float:
    """How much time passes at least between two looks: in all more than the hour that a clock may be set back, which is
    how long the lease of an engine that is gone then lasts."""
    if tick < QUICK_TICKS:
        return 0.5
    return 5.0 if tick < SLOW_TICKS else 10.0


def _answer(run: Run) -> None:
    """A person answers whatever rebake asks."""
    rollout = run.reality.environment.get("rollout")
    if rollout is not None and rollout["state"] == "asking" and not run.reality.ledger.list("command"):
        run.person(Happening(0, "approve"))


def settled(run: Run) -> bool:
    doc, reality = run.reality.environment, run.reality
    if doc.get("rollout") or doc.get("queue") or doc.get("leaving") or reality.later:
        return False
    if reality.ledger.list("command"):
        return False
    stable = doc.get("stable")
    if stable is None:
        return not reality.platform.processes and reality.route is None
    members = [n for n, p in reality.platform.processes.items() if p.spec.fleet == stable["id"]]
    others = len(reality.platform.processes) - len(members)
    fit = [n for n in members if reality.accepts(n) and not reality.platform.processes[n].drift]
    whole = len(members) == len(fit) == stable["plan"]["instances"]
    if reality.jobs:
        return others == 0 and reality.route is None
    return others == 0 and (whole or _hopeless(run, stable)) and (_routed(run, stable, fit) or not whole)


def _hopeless(run: Run, stable: Mapping[str, Any]) -> bool:
    """Stable cannot stay up by its own nature, or ten failures made rebake call a person."""
    return run.reality.kinds[stable["revision"]["release"]] in HOPELESS or len(streak_of(stable)) >= GIVE_UP_AFTER


def _routed(run: Run, stable: Mapping[str, Any], fit: list[str]) -> bool:
    route = run.reality.route
    if run.reality.unrouted:
        return route is None
    if route is None or route.listen != LISTEN or route.mirror is not None:
        return False
    shares = {f.fleet: f.weight_basis_points for f in route.fleets}
    return shares == {stable["id"]: FULL} and {e.instance for f in route.fleets for e in f.endpoints} == set(fit)


def ended_well(run: Run) -> bool:
    for rollout in run.begun:
        view = run.reality.ledger.get("rollout", f"{KEY}/{rollout}")
        if view is None or view["ended"] is None:
            run.watch.fail("11", f"{rollout} was asked for, and nothing tells how it ended")
        elif view["outcome"] != run.watch.states.get(rollout):
            run.watch.fail("11", f"{rollout} is told as {view['outcome']}, and ended {run.watch.states.get(rollout)}")
    stable = run.reality.environment.get("stable")
    if (stable["id"] if stable else None) != run.watch.stable:
        run.watch.fail("11", f"stable is {stable and stable['id']}, but {run.watch.stable} was promoted last")
    release = stable and stable["revision"]["release"]
    undone = run.watch.people.serving in run.watch.people.taken_back
    if release and not undone and run.reality.ledger.get("success", f"{KEY}/{release}") is None:
        run.watch.fail("11", f"{run.watch.stable} serves, and its release does not count as successful")
    return not run.watch.violations


def _prove(run: Run) -> None:
    """In a world in which nothing goes wrong a good release is promoted, undone, and a late stop does no harm."""
    run.reality.rate = 200
    heard = run.scenario.seed % 4 == 1 or run.scenario.seed % 16 == 7
    run.person(Happening(0, "deploy", "a", value=PROBE), **(_with_a_metric(run) if heard else _plain(run)))
    rollout = run.begun[-1]
    if not _ends(run) or not ended_well(run):
        return
    if run.watch.states.get(rollout) != "promoted":
        run.watch.fail("6", f"{rollout} is good, nothing went wrong, and it ended {run.watch.states.get(rollout)}")
        return
    if heard and rollout in run.watch.causes.approved:
        run.watch.fail("10", f"{rollout} is good and so says its metric, and a person had to be asked")
    _prove_undo(run)
    if run.scenario.seed % PROVED_SILENT == PROVED_SILENT - 1 and not run.watch.violations:
        _prove_silence(run)
    if run.watch.violations:
        return
    run.person(Happening(0, "stop"))
    before = run.reality.environment.get("stable")
    if _ends(run) and (run.reality.environment.get("stable") or {}).get("id") != (before or {}).get("id"):
        run.watch.fail("7", "a stop that found nothing to stop changed what serves")


def _prove_silence(run: Run) -> None:
    """A metric that must be heard, and is silent, keeps a good release from its users: a person is asked."""
    plan = {**_with_a_metric(run, SILENT), "undecided_limit_ms": 2000, "soak_ms": 2000}
    run.person(Happening(0, "deploy", "a", value=PROBE + 1), **plan)
    owner = run.owners[0]
    for tick in range(MOST_TICKS):
        run.step(max(run.due[owner] - run.reality.wall.now(), _pace(tick)), owner)
        state = (run.reality.environment.get("rollout") or {}).get("state")
        if run.watch.violations or state == "asking":
            break
    else:
        run.watch.fail("10", f"nobody is asked about {run.begun[-1]}, whose metric is silent: {where(run)}")
    for _ in range(ASKED_TICKS):  # a person takes a while, and everything stays as it is
        run.step(1.0, owner)
    run.person(Happening(0, "stop"))
    _ends(run)


def _with_a_metric(run: Run, name: str = "failures") -> dict[str, Any]:
    """The same, and in the end a metric of its own lets it go on, or a person."""
    rule = MetricRule(name, EndpointAsk(hits="failed_total", total="answers_total"), interval_ms=1000)
    strategy = Strategy("canary", steps=(2000,), hold_ms=1000)
    judge = JudgeRules(min_requests=2, metrics=(rule,))
    plan = {**_plain(run), "strategy": strategy, "undecided": "hold-on", "judge": judge}
    return {**plan, "undecided_limit_ms": 60_000}


def _plain(run: Run) -> dict[str, Any]:
    """No gate, and no end that depends on how much traffic there is."""
    ways = (Strategy("blue-green"), Strategy("all-at-once"), Strategy("canary", steps=(1000, 5000), hold_ms=1000))
    strategy = ways[run.scenario.seed % len(ways)]
    return {
        "strategy": strategy,
        "undecided": "promote",
        "approval": False,
        "after": None,
        "keep": 3,
        "window": (),
        "freeze": (),
    }


def _prove_undo(run: Run) -> None:
    run.person(Happening(0, "undo"))
    target = f"r-{run.number:03}"
    if not _ends(run):
        return
    stable = run.reality.environment.get("stable")
    revision = run.watch.people.going_back.get(target)
    if revision is None or stable is None:
        return
    fit = run.reality.kinds[run.watch.revisions[revision].release] in ("good", "slow", "harmful", "sour", "unchecked")
    if fit and digest_in(stable) != revision:
        run.watch.fail("8", f"{target} was to go back to {revision[7:13]}, and {digest_in(stable)[7:13]} serves")


def where(run: Run) -> str:
    doc = run.reality.environment
    rollout = doc.get("rollout")
    parts = [f"{rollout['id']} is {rollout['state']} ({rollout['reason']})" if rollout else "no rollout"]
    parts += [f"{len(doc.get(n) or ())} in {n}" for n in ("queue", "leaving")]
    alive = {n: "fit" if run.reality.accepts(n) else "unfit" for n in run.reality.platform.processes}
    parts.append(f"instances {alive}, wanted {(doc.get('stable') or {}).get('id')}")
    return "; ".join(parts)
