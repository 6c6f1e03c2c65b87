"""Views of what is remembered and observed, in the words of docs/api.md. Pure: the CLI, the API and the dashboard show
nothing else, so they cannot disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebake.core.clock import iso
from rebake.core.digest import short
from rebake.core.units import FULL
from rebake.platforms.model import Instance
from rebake.rollout.events import check_id
from rebake.rollout.fleets import GIVE_UP_AFTER, healthy
from rebake.rollout.judging import Judging
from rebake.rollout.looks import Stuck
from rebake.rollout.places import sentence
from rebake.rollout.plan import Plan
from rebake.rollout.route import stages, weights
from rebake.rollout.schedule import following
from rebake.rollout.shares import candidate_size, has_route, realised
from rebake.rollout.states import EXIT_CODES, FINAL, State
from rebake.rollout.world import Environment, Fleet, Freeze, Place, Rollout, Run, World

Doc = dict[str, Any]


def outcome_of(rollout: Rollout) -> str | None:
    """`promoted` counts from the last step on, not only from the end of the soak."""
    if rollout.state in FINAL:
        return rollout.state.value
    if rollout.promoted_at is not None and rollout.state in (State.SOAKING, State.FINISHING):
        return State.PROMOTED.value
    return None


def rollout_view(
    environment: Environment,
    world: World,
    rollout: Rollout,
    judging: Judging | None,
    now: float,
    *,
    stuck: Stuck | None = None,
) -> Doc:
    """One rollout as everybody sees it. `stuck`: why the engine cannot go on with it now."""
    outcome = outcome_of(rollout)
    ended = rollout.ended_at
    settled = rollout.promoted_at if outcome == State.PROMOTED.value else ended
    requests = {name: {"total": 0, "errors": 0} for name in ("stable", "candidate")}
    verdict, shielded = None, 0
    if judging is not None and judging.rollout == rollout.id:
        shielded = judging.shielded
        requests = {n: {"total": c.requests, "errors": c.errors} for n, c in judging.totals.items()}
        verdict = None if judging.verdict is None else judging.verdict.to_json()
    return {
        "rollout": rollout.id,
        "service": environment.service,
        "environment": environment.environment,
        "release": rollout.revision.release,
        "revision": rollout.revision.digest,
        "kind": rollout.kind,
        "strategy": rollout.plan.strategy.kind,
        "state": rollout.state.value,
        "step": min(rollout.step, stages(rollout.plan.strategy)) + 1,
        "steps": stages(rollout.plan.strategy) + 1,
        "reason": rollout.reason,
        "remedy": rollout.remedy,
        "held": _held(rollout),
        "hindered": hindrances(world, stuck) if ended is None else [],
        "group": None if rollout.group is None else rollout.group.id,
        "taken_along": rollout.taken_along,
        "outcome": outcome,
        "verdict": verdict,
        "routed": rollout.plan.routed,
        "run_kind": rollout.plan.kind,
        "requests": requests,
        "shielded": shielded,
        "route": _shares(environment, world, rollout),
        "instances": {
            "stable": _count(environment.stable, world),
            "candidate": _count(environment.candidate, world, _wanted(environment, rollout)),
        },
        "checks": _checks(world, rollout),
        "log_tail": list(rollout.log_tail),
        "evidence": [] if judging is None else [list(point) for point in judging.course],
        "undone": rollout.undone,
        "requested_by": rollout.requested_by,
        "started": iso(rollout.requested_at),
        "ended": None if ended is None else iso(ended),
        "seconds": round((settled or now) - rollout.requested_at, 3),
        "exit_code": EXIT_CODES[State(outcome)] if outcome is not None else None,
    }


def _held(rollout: Rollout) -> Doc | None:
    """What a gate in time says that holds it."""
    if rollout.held is None:
        return None
    return {"why": rollout.held, "until": None if rollout.held_until is None else iso(rollout.held_until)}


def freeze_view(freeze: Freeze) -> Doc:
    """A person's freeze as everybody sees it; `environment` is `SERVICE/ENV`, or null for every one."""
    return {
        "environment": None if freeze.scope == "*" else freeze.scope,
        "by": freeze.by,
        "at": iso(freeze.at),
        "until": iso(freeze.until),
        "reason": freeze.reason,
    }


def _shares(environment: Environment, world: World, rollout: Rollout) -> Doc:
    """Read back from the balancer where it answers; as intended otherwise. Without a route: of the live instances."""
    stable, candidate = environment.stable, environment.candidate
    if not rollout.plan.routed:
        return {**realised(environment, world)}
    if world.route is not None:
        weights = world.route.weights
        return {
            "stable": weights.get(stable.id, 0) / FULL if stable is not None else 0.0,
            "candidate": weights.get(candidate.id, 0) / FULL if candidate is not None else 0.0,
        }
    return {"stable": (FULL - rollout.weight) / FULL if stable is not None else 0.0, "candidate": rollout.weight / FULL}


def _wanted(environment: Environment, rollout: Rollout) -> int:
    """Instances of the candidate: all of them, or what its step takes where there is no route."""
    under_way = environment.rollout is not None and environment.rollout.id == rollout.id
    return candidate_size(environment) if under_way else rollout.plan.instances


def _count(fleet: Fleet | None, world: World, wanted: int | None = None) -> Doc:
    if fleet is None or fleet.plan.schedule is not None:
        return {"wanted": wanted or 0, "healthy": 0}
    return {"wanted": fleet.plan.instances if wanted is None else wanted, "healthy": len(healthy(fleet, world))}


def _checks(world: World, rollout: Rollout) -> list[Doc]:
    rows = []
    for check in rollout.plan.checks:
        job = world.jobs.get(check_id(rollout, check.name))
        state = "waiting" if job is None else {"done": "passed"}.get(job.state, job.state)
        rows.append({"name": check.name, "state": state, "evidence": [] if job is None else list(job.evidence)})
    return rows


def environment_view(
    environment: Environment,
    world: World,
    judging: Judging | None,
    last: Doc | None,
    now: float,
    *,
    elsewhere: Place | None = None,
    freezes: Sequence[Freeze] = (),
    stuck: Stuck | None = None,
) -> Doc:
    """One environment as everybody sees it.

    Args:
        elsewhere: the home that has it, when this is not it: then shares are as intended, and how many instances are
            healthy is not known.
        stuck: why the engine cannot go on with it now.
    """
    rollout = environment.rollout
    fleets = [f for f in (environment.stable, environment.candidate) if f is not None]
    shares: Mapping[str, int] = world.route.weights if world.route is not None else {}
    if elsewhere is not None:
        shares = weights(environment)
    plan = fleets[0].plan if fleets else rollout.plan if rollout is not None else None
    live, routed = realised(environment, world), has_route(environment)
    route: dict[str, float] = {}
    for fleet, cohort in ((environment.stable, "stable"), (environment.candidate, "candidate")):
        if fleet is not None:
            share = shares.get(fleet.id, 0) / FULL if routed else live[cohort]
            route[fleet.revision.digest] = route.get(fleet.revision.digest, 0.0) + share
    return {
        "service": environment.service,
        "environment": environment.environment,
        "platform": None if plan is None else plan.platform,
        "listen": None if plan is None else plan.listen or None,
        "routed": plan is None or plan.routed,
        "run_kind": "http" if plan is None else plan.kind,
        "home": _home(environment, elsewhere),
        "stable": _fleet(environment.stable, world, elsewhere),
        "candidate": _fleet(environment.candidate, world, elsewhere),
        "route": route,
        "rollout": None if rollout is None else rollout_view(environment, world, rollout, judging, now, stuck=stuck),
        "stuck": None if stuck is None else stuck.doc(),
        "frozen": [freeze_view(freeze) for freeze in freezes if now < freeze.until],
        "waiting": [waiting.id for waiting in environment.queue],
        "previous": [fleet.revision.digest for fleet in environment.previous],
        "problems": problems(environment, world, stuck) if elsewhere is None else [sentence(elsewhere)],
        "instances": [_instance(environment, i) for i in world.instances],
        "runs": [_run(environment, run, now) for run in environment.runs],
        "next_run": _next_run(environment, plan, now) if elsewhere is None else None,
        "last": last,
    }


def _run(environment: Environment, run: Run, now: float) -> Doc:
    """One run of a scheduled job."""
    candidate = environment.candidate is not None and environment.candidate.id == run.fleet
    return {
        "instance": run.instance,
        "slot": iso(run.slot),
        "cohort": "candidate" if candidate else "stable",
        "began": iso(run.began),
        "ended": None if run.ended is None else iso(run.ended),
        "seconds": round((now if run.ended is None else run.ended) - run.began, 3),
        "outcome": run.outcome,
        "why": run.why,
    }


def _next_run(environment: Environment, plan: Plan | None, now: float) -> str | None:
    if plan is None or plan.schedule is None or environment.stable is None:
        return None
    coming = following(plan.schedule, max(now, environment.slot or 0.0))
    return None if coming is None else iso(coming)


def _home(environment: Environment, elsewhere: Place | None) -> Doc | None:
    place = environment.place
    return None if place is None else {"host": place.host, "folder": place.folder, "here": elsewhere is None}


def _fleet(fleet: Fleet | None, world: World, elsewhere: Place | None) -> Doc | None:
    if fleet is None:
        return None
    return {
        "revision": fleet.revision.digest,
        "release": fleet.revision.release,
        "instances": fleet.plan.instances,
        "healthy": len(healthy(fleet, world)) if elsewhere is None else None,
        "fleet": fleet.id,
    }


def _instance(environment: Environment, instance: Instance) -> Doc:
    cohort = "leaving"
    for name, fleet in (("stable", environment.stable), ("candidate", environment.candidate)):
        if fleet is not None and fleet.id == instance.fleet:
            cohort = name
    return {
        "id": instance.id,
        "fleet": instance.fleet,
        "revision": instance.revision,
        "cohort": cohort,
        "state": instance.state,
        "healthy": instance.healthy,
        "address": instance.address,
        "pid": instance.pid,
        "detail": instance.detail or instance.exit,
        "drift": [d.sentence() for d in instance.drift],
    }


def hindrances(world: World, stuck: Stuck | None) -> list[str]:
    """Why nothing can go on now, whatever a rollout waits for: cause, place and what to do, as sentences."""
    found = [] if stuck is None else [stuck.sentence()]
    if not world.instances_known:
        found.append(f"the platform cannot be observed now, and nothing is changed meanwhile: {world.unseen}")
    if not world.route_known:
        found.append(f"the route cannot be read now, and is left as it is: {world.unheard}")
    if world.route is not None and world.route.problem:
        found.append(f"the route is not served: {world.route.problem}")
    return found


def problems(environment: Environment, world: World, stuck: Stuck | None = None) -> list[str]:
    """What a person should know, as sentences with the next command."""
    name, found = environment.environment, hindrances(world, stuck)
    if world.unread and environment.rollout is not None:
        found.append(f"what became of users' requests cannot be read, so nothing is judged: {world.unread}")
    stable = environment.stable
    if stable is not None and stable.plan.schedule is not None:
        if stable.streak:
            told = f"the last {len(stable.streak)} runs failed" if len(stable.streak) > 1 else "the last run failed"
            last = stable.streak[-1]
            found.append(f"{told}: {last.why} (rebake logs {name} --instance {last.instance})")
    elif stable is not None:
        if len(stable.streak) >= GIVE_UP_AFTER:
            found.append(
                f"stable cannot stay up and is not restarted any more: {stable.streak[-1].why} "
                f"(rebake logs {name}; rebake undo {name})"
            )
        elif environment.stable_lost_at is not None:
            found.append(f"no instance of stable is healthy (rebake logs {name}; rebake undo {name})")
    for action, (problem, remedy) in world.blocked.items():
        found.append(f"{action.partition(':')[0]}: {problem}" + (f" ({remedy})" if remedy else ""))
    for instance in world.instances:
        found += (
            [f"{instance.id} drifted: {short_list([d.sentence() for d in instance.drift])}"] if instance.drift else []
        )
    return found


def short_list(sentences: list[str], most: int = 3) -> str:
    more = len(sentences) - most
    return "; ".join(sentences[:most]) + (f"; and {more} more" if more > 0 else "")


def title(rollout: Rollout) -> str:
    """How a rollout is called in a sentence."""
    return f"{rollout.id} ({rollout.kind} of {short(rollout.revision.digest)})"
