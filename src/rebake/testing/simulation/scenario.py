"""What a seed stands for: a list of happenings, each at one step. Pure.

Everything else in a run (the pace of the clock, how a release behaves, what a plan says) is drawn from the seed alone,
so that a happening can be dropped without changing the others: that is what makes a failing history shrink.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from rebake.judge.metric_rules import EndpointAsk, MetricRule
from rebake.release.manifest import Health, Revision, RunContract, Settings
from rebake.rollout.plan import Check, CommandCheck, Dates, HttpCheck, JudgeRules, Plan, Schedule, Strategy, Window
from rebake.rollout.states import FINAL, State

SERVICE, ENVIRONMENT = "shop", "production"
KEY = f"{SERVICE}/{ENVIRONMENT}"
STAGING = "staging"
RELEASES = "abcdef"
SILENT = "silent"
"""A metric whose source never answers."""
FAILING_JOBS = ("exits", "sickly", "frail", "harmful")
"""Releases whose runs fail; of `sickly` and `frail` ones because they never end."""
RUN_LIMIT_MS = 6000
PROBE = 100
"""A variant that no drawn rollout has: its revision cannot be in quarantine."""

VERBS = ("deploy", "undo", "stop", "approve", "down", "resize")
EFFECTS = ("launch", "retire", "apply", "remove", "prepare", "check")
MODES = (
    "kill-before",
    "kill-during",
    "kill-after",
    "lost",
    "twice",
    "failed",
    "failed-done",
    "failed-late",
    "refused",
    "refused-done",
    "delayed",
    "pause-before",
    "pause-after",
)
"""What can befall an effect. `kill`: the engine ends before it, while it is under way (it happens later, or never), or
between it and its record; `lost`: reported done, never done; `failed-done`: done, and reported failed; `failed-late`:
reported failed, and done a while later; `refused`: a failure that no repetition cures, also where it was done; `pause`:
the engine stands still for longer than its lease and then goes on, as after SIGSTOP, while another one may take
over."""
LOOKS = ("failed", "stale", "partial")
COMMITS = ("kill-before", "kill-after", "failed", "full", "slow", "failed-done", "pause-before", "pause-after")
STORE = ("failed", "full", "slow")
"""What can befall the store's other calls: reading from it, and asking it for the lease."""
HOUR = 3600
START = 1_800_000_000.0
"""When a run begins: 8:00 in UTC."""
KINDS = ("good", "good", "good", "good", "good", "exits", "sickly", "slow", "harmful", "unchecked", "frail")
"""How releases behave; most are good, as in life."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens.

    Attributes:
        step: when; steps are counted from 0.
        what: a person's `deploy`, `stop`, `undo`, `approve`, `down`, `resize`, `freeze`, `lift`; `fault` (the next
            call `on` meets `mode`); `aim` (`mode` happens when a rollout comes into the state `on`);
            or something in the world: see `run.Run.happen`.
        on: a release, a call, or a cohort; of a `reboot`: whether the balancer's route is `forgotten`.
        mode: how a fault shows; of a `clock`: `reborn`, when it is set between two lives of the engines; of a
            `reboot`: by what the clock is wrong afterwards.
        value: seconds, a number of an instance, or the variant of a plan.
    """

    step: int
    what: str
    on: str = ""
    mode: str = ""
    value: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run: `steps` of trouble, then healing. `engines`: one or two of them over the same ledger."""

    seed: int
    steps: int
    engines: int
    happenings: tuple[Happening, ...]

    def without(self, dropped: frozenset[int]) -> Scenario:
        """The same run with some happenings left out, by index."""
        return replace(self, happenings=tuple(h for n, h in enumerate(self.happenings) if n not in dropped))


def of_workers(seed: int) -> bool:
    """Whether a seed is about a fleet without a route."""
    return seed % 8 == 7


def of_jobs(seed: int) -> bool:
    """Whether a seed is about a scheduled job."""
    return seed % 16 == 11


def at_home(seed: int, engines: int) -> bool:
    """Whether the machine of the only engine has the instances and the balancer, too, as a laptop has; else they are
    the same from everywhere, as in a cluster."""
    return engines == 1 and seed % 2 == 0


def kind_of(seed: int, release: str) -> str:
    """How a release behaves; `a` is always good. A worker answers nobody: one that does harm comes and goes, or spoils
    half of its work, which only its own metric tells."""
    kind = "good" if release == "a" else random.Random(f"{seed}/kind/{release}").choice(KINDS)
    if kind == "harmful" and of_workers(seed):
        return random.Random(f"{seed}/harm/{release}").choice(("frail", "harmful"))
    return kind


def digest(release: str) -> str:
    return "sha256:" + release[0] * 64


def revision_of(release: str, variant: int) -> Revision:
    """A release with one of three settings: a changed setting is another revision. From `PROBE` on each is its own."""
    name = str(variant if variant >= PROBE else variant % 3)
    return Revision(SERVICE, ENVIRONMENT, digest(release), Settings({"VARIANT": name}))


def _strategy(chance: random.Random) -> Strategy:
    hold_ms = chance.choice((0, 1000, 3000))
    return chance.choice(
        (
            Strategy("all-at-once"),
            Strategy("blue-green"),
            Strategy("canary", steps=(1000,), hold_ms=hold_ms),
            Strategy("canary", steps=(500, 5000), hold_ms=hold_ms),
            Strategy("linear", steps=(3000, 6000), hold_ms=1000),
            Strategy("shadow", mirror_basis_points=2000, mirror_ms=2000),
            Strategy("canary", profile="fast"),
            Strategy("canary", steps=(2000,), hold_ms=hold_ms, mirror_basis_points=5000, mirror_ms=2000),
        )
    )


def _judge(seed: int, variant: int) -> JudgeRules:
    """Some plans name a metric of the service's own. The silent one never has data: nobody may pass by it."""
    chance = random.Random(f"{seed}/metrics/{variant}")
    if chance.random() > (0.4 if of_workers(seed) else 0.3):
        return JudgeRules()
    name = chance.choice(("failures", SILENT))
    missing: Literal["undecided", "ignore"] = "undecided" if chance.random() < 0.7 else "ignore"
    asked = EndpointAsk(hits="failed_total", total="answers_total")
    return JudgeRules(metrics=(MetricRule(name, asked, interval_ms=1000, missing=missing),))


def plan_of(seed: int, variant: int) -> Plan:
    """The plan of one request. Times are short: a rollout should be a few dozen ticks, not a day."""
    chance = random.Random(f"{seed}/plan/{variant}")
    health = Health(start_timeout_ms=8000)
    plan = Plan(
        service=SERVICE,
        environment=ENVIRONMENT,
        platform="simulated",
        run=RunContract(("serve",), port=8080, health=health, drain_ms=2000, env={"VARIANT": str(variant % 3)}),
        instances=chance.choice((1, 2, 2, 3)),
        listen="127.0.0.1:8080",
        strategy=_strategy(chance),
        checks=(HttpCheck("smoke", "/"),) if chance.random() < 0.6 else (),
        undecided=chance.choice(("hold-on", "hold-on", "promote", "roll-back")),
        undecided_limit_ms=4000,
        soak_ms=chance.choice((0, 2000, 5000)),
        hold_back_basis_points=chance.choice((0, 0, 2000)),
        when_busy=chance.choice(("supersede", "supersede", "wait")),
        approval=chance.random() < 0.1,
        drift_interval_ms=5000,
        after=STAGING if chance.random() < 0.15 else None,
        keep=chance.choice((1, 2, 3)),
    )
    plan = replace(plan, soak_ms=20_000, hold_back_basis_points=2000) if chance.random() < 0.15 else plan
    plan = replace(plan, judge=_judge(seed, variant))
    plan = _with_gates(plan, random.Random(f"{seed}/gates/{variant}"))
    if of_workers(seed):
        return _for_workers(plan)
    return _for_jobs(plan, random.Random(f"{seed}/schedule/{variant}")) if of_jobs(seed) else plan


GAPS = ((20, 80), (125, 150), (260, 300))
"""Seconds after the beginning in which the freeze of some plans is in force."""
WINDOWS = tuple(
    Window(opens=opens, closes=closes)
    for opens, closes in ((480, 481), (482, 484), (485, 1440), (0, 480))  # shut at 8:01 and 8:04: a run begins at 8:00
)


def _with_gates(plan: Plan, chance: random.Random) -> Plan:
    """Some plans have windows; some a freeze."""
    if chance.random() < 0.1:
        plan = replace(plan, window=WINDOWS)
    if chance.random() < 0.07:
        plan = replace(plan, freeze=tuple(Dates(START + since, START + until, "feast") for since, until in GAPS))
    return plan


def shut_by_file(plan: Plan, at: float) -> tuple[bool, bool]:
    """Whether the windows, and the freeze, of a plan hold a rollout at a moment: told by these numbers alone."""
    minute = int(at // 60 % 1440)
    since = at - START
    frozen = bool(plan.freeze) and any(begins <= since < ends for begins, ends in GAPS)
    return bool(plan.window) and minute in (481, 484), frozen


def _without_a_route(plan: Plan, needed: int) -> Plan:
    """The same wish for what nobody calls. Little is evidence enough: holds are short here."""
    strategy = Strategy("canary", steps=(2000, 6000), hold_ms=1000) if plan.strategy.mirrors else plan.strategy
    checks: tuple[Check, ...] = tuple(CommandCheck(check.name, ("true",)) for check in plan.checks)
    judge = replace(plan.judge, min_requests=needed)
    run = replace(plan.run, port=None, health=replace(plan.run.health, path=""))
    return replace(plan, listen="", strategy=strategy, checks=checks, judge=judge, run=run)


def _for_workers(plan: Plan) -> Plan:
    return replace(_without_a_route(plan, 4), hold_back_basis_points=0)


def _for_jobs(plan: Plan, chance: random.Random) -> Plan:
    schedule = Schedule(
        every_ms=chance.choice((2000, 3000, 5000)),
        timeout_ms=RUN_LIMIT_MS,
        overlap=chance.choice(("skip", "skip", "allow")),
        missed=chance.choice(("run", "skip")),
    )
    plan = replace(_without_a_route(plan, 2), instances=1, schedule=schedule)
    return _seldom(plan) if chance.random() < 0.3 else plan


def _seldom(plan: Plan) -> Plan:
    """Run so seldom that a slot can be found late; too seldom for a judge."""
    assert plan.schedule is not None
    schedule = replace(plan.schedule, every_ms=100_000, missed="skip")
    return replace(plan, schedule=schedule, strategy=Strategy("all-at-once"), soak_ms=min(plan.soak_ms, 1000))


def succeeded_elsewhere(seed: int, release: str) -> bool:
    """Whether a release counts as successful in the environment that gates name; `a` always does."""
    return release == "a" or random.Random(f"{seed}/staging/{release}").random() < 0.6


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(seed)
    steps = chance.randint(40, 110)
    trouble = chance.choice((0.0, 0.3, 1.0, 2.5))
    happenings = [Happening(0, "deploy", "a", value=0)]
    happenings += [_person(chance, steps) for _ in range(chance.randint(3, 8))]
    happenings += [_fault(chance, steps) for _ in range(round(trouble * chance.randint(2, 12)))]
    happenings += [_world(chance, steps) for _ in range(round(trouble * chance.randint(0, 5)))]
    happenings += _crowd(chance, steps)
    happenings += _rot(chance, steps)
    happenings += _aims(chance, steps) + _set_back(chance, steps)
    happenings += _freezes(random.Random(f"{seed}/freezes"), steps)
    happenings += _set_between_lives(random.Random(f"{seed}/lives"), steps)
    happenings += _slept(random.Random(f"{seed}/slept"), steps) if of_jobs(seed) else []
    engines = 2 if chance.random() < 0.3 else 1
    happenings = _reboot(random.Random(f"{seed}/reboot"), steps, happenings, at_home=at_home(seed, engines))
    ordered = sorted(happenings, key=lambda h: h.step)
    return Scenario(seed, steps, engines, tuple(ordered))


def _person(chance: random.Random, steps: int) -> Happening:
    step = chance.randrange(3, steps)
    what = chance.choices(VERBS, (12, 3, 3, 2, 0.4, 1))[0]
    return Happening(step, what, chance.choice("abcdef"), value=chance.randrange(100))


def _crowd(chance: random.Random, steps: int) -> list[Happening]:
    """Several people at the same instant."""
    if chance.random() > 0.25:
        return []
    step = chance.randrange(3, steps)
    return [replace(_person(chance, steps), step=step) for _ in range(chance.randint(2, 3))]


def _rot(chance: random.Random, steps: int) -> list[Happening]:
    """Stable breaks for good, and then comes its fix: a release that is always good."""
    if chance.random() > 0.1:
        return []
    step = chance.randrange(15, steps - 5)
    fix = Happening(step + chance.randint(1, 4), "deploy", "a", value=chance.randrange(100))
    return [Happening(step, "rot", "stable"), fix]


def _aims(chance: random.Random, steps: int) -> list[Happening]:
    """Requests that wait for a rollout to come into one state: so each state meets each of them."""
    states = [s.value for s in State if s not in FINAL]
    verbs = ("stop", "undo", "deploy", "approve", "down")
    return [
        Happening(
            chance.randrange(3, steps),
            "aim",
            chance.choice(states),
            chance.choices(verbs, (4, 4, 3, 1, 0.3))[0],
            chance.randrange(PROBE),
        )
        for _ in range(chance.choice((0, 1, 2)))
    ]


def _slept(chance: random.Random, steps: int) -> list[Happening]:
    """Hours in which nobody looked, as a machine has them that sleeps: a job's slots come meanwhile."""
    return [Happening(chance.randrange(10, steps), "clock", value=HOUR)] if chance.random() < 0.3 else []


def _freezes(chance: random.Random, steps: int) -> list[Happening]:
    """People who stop the line, and some who let it go on, or let one rollout through."""
    if chance.random() > 0.25:
        return []
    step = chance.randrange(3, steps)
    found = [Happening(step, "freeze", chance.choice(("*", KEY)), value=chance.choice((3, 10, 60, HOUR)))]
    after = chance.choice(("lift", "approve", "stop", "undo", "freeze", ""))
    on = found[0].on
    return [*found, Happening(step + chance.randint(1, 20), after, on, value=10)] if after else found


def _set_back(chance: random.Random, steps: int) -> list[Happening]:
    """A clock set back by an hour while something is waited for."""
    return [Happening(chance.randrange(10, steps), "clock", value=-HOUR)] if chance.random() < 0.08 else []


def _set_between_lives(chance: random.Random, steps: int) -> list[Happening]:
    """The engines end, the clock is set an hour forward or back, and they start again."""
    if chance.random() > 0.15:
        return []
    return [Happening(chance.randrange(5, steps), "clock", mode="reborn", value=chance.choice((-HOUR, HOUR)))]


def _reboot(chance: random.Random, steps: int, others: list[Happening], *, at_home: bool) -> list[Happening]:
    """The same happenings, and perhaps the machine starts again: with everything else that goes wrong, or in the middle
    of a rollout in a world that is well otherwise. Where the machine has all there is its clock may be wrong
    afterwards; elsewhere engines have nothing but their clocks to go by then."""
    if chance.random() > 0.12:
        return others
    if chance.random() < 0.6:
        state = chance.choice((State.LAUNCHING, State.SHIFTING, State.HOLDING, State.HOLDING, State.SOAKING))
        persons = [h for h in others if h.what in VERBS or h.what == "aim"]
        return [*persons, Happening(chance.randrange(3, steps), "aim", state.value, "reboot", chance.randint(1, 2))]
    if not at_home and any(h.what == "clock" for h in others):
        return others
    clock = chance.choice(("", "", "forward", "back")) if at_home else ""
    route = chance.choice(("", "", "forgotten"))
    return [*others, Happening(chance.randrange(5, steps), "reboot", route, clock, chance.randint(0, 2))]


def _fault(chance: random.Random, steps: int) -> Happening:
    step = chance.randrange(steps)
    kind = chance.choices(("effect", "look", "commit", "store"), (6, 2, 3, 1))[0]
    if kind == "effect":
        on = chance.choices(EFFECTS, (5, 4, 6, 1, 2, 1))[0]
        mode = chance.choice(MODES)
        if on in ("apply", "remove") and mode == "pause-before":
            mode = "pause-after"  # a write of the route on its way for longer than a lease: for the router to refuse
        return Happening(step, "fault", on, mode, chance.randint(1, 8))
    if kind == "look":
        return Happening(step, "fault", chance.choice(("observe", "read")), chance.choice(LOOKS), chance.randint(1, 6))
    if kind == "store":
        return Happening(step, "fault", chance.choice(("list", "lease")), chance.choice(STORE), chance.randint(1, 8))
    return Happening(step, "fault", "commit", chance.choice(COMMITS), chance.randint(1, 3))


def _world(chance: random.Random, steps: int) -> Happening:
    step = chance.randrange(steps)
    what = chance.choices(
        (
            *("die", "hang", "lie", "drift", "die-all", "quota", "clock", "edge-restart", "stranger", "reroute"),
            *("quiet", "sour", "pardon"),
        ),
        (4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 2, 2, 1),
    )[0]
    value = chance.choice((-HOUR, HOUR)) if what == "clock" and chance.random() < 0.5 else chance.randint(1, 40)
    return Happening(step, what, chance.choice(("stable", "candidate")), value=value)
