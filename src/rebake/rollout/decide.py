"""The heart: from what is remembered and what is observed to what is done next. Pure and total.

No clock, no chance, no I/O. Names of instances come from counters in the remembered state, so no source of ids is
needed either. `decide` may be called at any time, any number of times; it converges.

In order: people's requests, then the rollout's own events (the table in `states`), then the fleets, then the route.
"""

from __future__ import annotations

from dataclasses import replace

from rebake.core.units import format_share
from rebake.rollout.actions import ApplyRoute, Decision, Prepare, RemoveRoute, Retire, RunCheck
from rebake.rollout.commands import obey
from rebake.rollout.draft import Draft
from rebake.rollout.events import LOST_SECONDS, check_id, prepare_id
from rebake.rollout.fleets import healthy, is_whole, keep, serving
from rebake.rollout.journey import follow
from rebake.rollout.present import dated, in_the_present, rebooted
from rebake.rollout.route import desired_route, drained, weights
from rebake.rollout.runs import tend
from rebake.rollout.shares import candidate_size
from rebake.rollout.states import State
from rebake.rollout.world import Environment, Fleet, Leaving, Rollout, World
from rebake.traffic.ports import EnvironmentRoute

SOAK_LOOK_SECONDS = 0.5
"""How often a soak is looked at, and a rollout that a gate in time holds before anything of it is raised: that may
last for hours, and costs little that way."""

STUCK_LOOK_SECONDS = 0.5
"""How often a route is looked at of which the balancer itself says why it does not serve it."""

_WITH_CANDIDATE = frozenset(
    {
        State.LAUNCHING,
        State.CHECKING,
        State.SHIFTING,
        State.HOLDING,
        State.ASKING,
        State.SOAKING,
        State.FINISHING,
        State.RETURNING,
    }
)


def decide(environment: Environment, world: World, now: float) -> Decision:
    """One look at one environment.

    Args:
        environment: what is remembered.
        world: what is observed; any part may be missing or absurd.
        now: seconds since the epoch.
    Returns: the next remembered state, the actions to take, what to write down, and when to look again.
    """
    draft = Draft(in_the_present(environment, now, world.boot), world, now)
    for command in world.commands:
        obey(draft, command)
    follow(draft)
    _note_lost(draft)
    _keep_fleets(draft)
    tend(draft)
    _retire_strangers(draft)
    _settle_leaving(draft)
    _settle_route(draft)
    _start_jobs(draft)
    return Decision(
        environment=dated(draft.environment, environment, world),
        actions=tuple(draft.actions),
        notes=tuple(draft.notes),
        quarantine=draft.quarantine,
        succeeded=tuple(draft.succeeded),
        withdrawn=tuple(draft.withdrawn),
        ended=tuple(draft.ended),
        refused=draft.refused,
        wake_at=now if draft.moved else draft.wake_at,
    )


# Fleets


def _note_lost(draft: Draft) -> None:
    """Remember since when a cohort shows no healthy instance. A drifted one that answers is not lost: it serves."""
    environment, world = draft.environment, draft.world
    if not world.instances_known:
        return

    def lost(fleet: Fleet | None, since: float | None) -> float | None:
        if fleet is None or fleet.plan.schedule is not None or any(i.healthy for i in serving(fleet, world)):
            return None
        return since if since is not None else draft.now

    stable = lost(environment.stable, environment.stable_lost_at)
    candidate = lost(environment.candidate, environment.candidate_lost_at)
    fell = environment.fell_at
    if stable is not None and candidate is not None and abs(stable - candidate) <= LOST_SECONDS:
        fell = fell if fell is not None else draft.now
    elif is_whole(environment.stable, world) and is_whole(environment.candidate, world):
        fell = None
    draft.update(stable_lost_at=stable, candidate_lost_at=candidate, fell_at=fell)
    if environment.rollout is not None and (stable or candidate):
        draft.wake(draft.now + 0.5)


def _keep_fleets(draft: Draft) -> None:
    stable = draft.environment.stable
    if stable is not None and stable.plan.schedule is None:
        draft.update(stable=_keep(draft, stable, stable.plan.instances))
    candidate, rollout = draft.environment.candidate, draft.environment.rollout
    if candidate is None or candidate.plan.schedule is not None:
        return  # a job's fleet has instances while it runs only: `runs`
    if rollout is not None and rollout.state in _WITH_CANDIDATE - {State.RETURNING}:
        draft.update(candidate=_keep(draft, candidate, candidate_size(draft.environment)))


def _keep(draft: Draft, fleet: Fleet, wanted: int) -> Fleet:
    fell = rebooted(draft.environment, draft.world.boot)
    kept = keep(fleet, draft.world, draft.now, wanted, fell=fell)
    draft.actions += kept.actions
    draft.notes += kept.notes
    draft.wake(kept.wake_at)
    return kept.fleet


def _retire_strangers(draft: Draft) -> None:
    """Whatever carries our mark without being asked for is retired, and named."""
    environment = draft.environment
    ours = {f.id for f in (environment.stable, environment.candidate) if f is not None}
    ours |= {gone.fleet.id for gone in environment.leaving}
    for instance in draft.world.instances:
        if instance.fleet in ours and not instance.id.startswith("stranger-"):
            continue
        if instance.state != "exited":
            differences = [d.sentence() for d in instance.drift] or ["nobody asked for it"]
            draft.note("drift", {"instance": instance.id, "differences": differences})
        draft.actions.append(Retire(f"retire:{instance.id}", instance.id, 5000, "nobody asked for it"))


def _settle_leaving(draft: Draft) -> None:
    """Fleets that lost their place: drain, retire, forget."""
    still: list[Leaving] = []
    for gone in draft.environment.leaving:
        gone = _mark_idle(draft, gone)
        members = draft.world.of(gone.fleet.id)
        if drained(gone, draft.world, draft.now):
            if draft.world.instances_known and not members:
                draft.note("note", {"fleet": gone.fleet.id, "retired": gone.why}, gone.fleet.id)
                continue
            grace = gone.fleet.plan.run.drain_ms
            draft.actions += [Retire(f"retire:{i.id}", i.id, grace, gone.why) for i in members]
        draft.wake(draft.now + 0.1)
        still.append(gone)
    if tuple(still) != draft.environment.leaving:
        draft.update(leaving=tuple(still))


def _mark_idle(draft: Draft, gone: Leaving) -> Leaving:
    route = draft.world.route
    if draft.world.looked_away and gone.idle_since is not None:
        gone = replace(gone, idle_since=None)  # nobody knows what the balancer did meanwhile
    unused = draft.world.route_known and (route is None or not route.weights.get(gone.fleet.id, 0))
    if unused and gone.idle_since is None:
        return replace(gone, idle_since=draft.now)
    if not unused and draft.world.route_known and gone.idle_since is not None:
        return replace(gone, idle_since=None)  # somebody gave it users again: it is not drained
    return gone


# The route


def _settle_route(draft: Draft) -> None:
    environment, world = draft.environment, draft.world
    if not world.route_known or not world.instances_known:
        return
    wanted = desired_route(environment, world, draft.now)
    if wanted is None:
        if world.route is not None:
            draft.actions.append(RemoveRoute(f"remove-route:{environment.key}"))
        return
    version = wanted.version
    if world.route is not None and world.route.version == version:
        if environment.served != version:
            draft.update(served=version)
        return
    if _blind(draft, wanted):
        draft.wake(draft.now + 0.2)
        return
    if world.route is not None and environment.served == version:
        found = {f: format_share(w) for f, w in world.route.weights.items()}
        draft.note("drift", {"route": environment.key, "expected": _shares(environment), "found": found})
    draft.update(served=None)  # noted once; and a route that was never read back did not drift
    draft.actions.append(ApplyRoute(f"route:{version}", wanted))
    stuck = world.route is not None and world.route.problem
    draft.wake(draft.now + (STUCK_LOOK_SECONDS if stuck else 0.02))


def _blind(draft: Draft, wanted: EnvironmentRoute) -> bool:
    """Whether the wished route would give users to a fleet of which no instance is in sight.

    One look that misses instances must not empty the route: the balancer's own health checks know better. It is kept as
    it is until the cohort counts as lost; from then on it must not keep the healthy ones out of the route.
    """
    environment, route = draft.environment, draft.world.route
    blind = {f.fleet for f in wanted.fleets if f.weight_basis_points and not f.endpoints}
    if not blind or route is None:
        return False
    cohorts = ((environment.stable, environment.stable_lost_at), (environment.candidate, environment.candidate_lost_at))
    return any(
        fleet is not None and fleet.id in blind and (since is None or 0 <= draft.now - since < LOST_SECONDS)
        for fleet, since in cohorts
    )


def _shares(environment: Environment) -> dict[str, str]:
    return {f: format_share(w) for f, w in weights(environment).items()}


# Jobs


def _start_jobs(draft: Draft) -> None:
    rollout, candidate = draft.environment.rollout, draft.environment.candidate
    if rollout is None:
        return
    if rollout.state is State.PREPARING:
        action = prepare_id(rollout)
        if action not in draft.world.jobs:
            draft.actions.append(Prepare(action, rollout.revision.release))
    if rollout.state is State.CHECKING and candidate is not None:
        urls = tuple(f"http://{i.address}" for i in healthy(candidate, draft.world))
        for check in rollout.plan.checks:
            action = check_id(rollout, check.name)
            if action not in draft.world.jobs and (urls or not rollout.plan.routed):
                draft.actions.append(RunCheck(action, check, urls))
    _wake_for(draft, rollout)


def _wake_for(draft: Draft, rollout: Rollout) -> None:
    """Look again when the next deadline of this state comes."""
    if rollout.state is State.SOAKING and rollout.promoted_at is not None:
        draft.wake(max(draft.now + 0.05, rollout.promoted_at + rollout.plan.soak_ms / 1000))
    if rollout.state is State.SOAKING:
        draft.wake(draft.now + SOAK_LOOK_SECONDS)
    elif rollout.state in (State.HOLDING, State.SHIFTING, State.ASKING):
        draft.wake(draft.now + 0.2)
    elif rollout.state is State.WAITING and rollout.held is not None:
        draft.wake(draft.now + SOAK_LOOK_SECONDS)
    elif not rollout.over:
        draft.wake(draft.now + 0.1)
