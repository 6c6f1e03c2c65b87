"""The heart: from what is remembered and what is observed to what is done next. Pure and total.

No clock, no chance, no I/O. Names of instances come from counters in the remembered state, so no source of ids is
needed either. `decide` may be called at any time, any number of times; it converges.

In order: people's requests, then the rollout's own events (the table in `states`), then the fleets, then the route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rebake.core.units import FULL, format_share
from rebake.rollout.actions import Action, ApplyRoute, Decision, Note, Prepare, RemoveRoute, Retire, RunCheck
from rebake.rollout.events import LOST_SECONDS, Look, Seen, check_id, classify, prepare_id, stable_broken
from rebake.rollout.fleets import healthy, keep, serving
from rebake.rollout.plan import Plan
from rebake.rollout.route import desired_route, drained, stages, weights
from rebake.rollout.states import TABLE, Event, State, next_state
from rebake.rollout.world import Command, Environment, Fleet, Leaving, Rollout, World, fleet_for
from rebake.traffic.ports import EnvironmentRoute
from rebake.traffic.ramp import advance, begin

MAX_EVENTS = 8
"""Events followed within one look; the rest waits for the next, which comes at once."""
SOAK_LOOK_SECONDS = 0.5
"""How often a soak is looked at: it may last an hour, and costs little that way."""
RAMP_SECONDS = 1.0
"""How often the judge's ramp is asked."""
HALF = FULL // 2
RAMP_GROWTH = 1.1
"""A weight is written again only when it grew by this factor: the ledger is for people."""

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


@dataclass(slots=True)
class _Draft:
    """The decision while it is being made. Local to one call of `decide`."""

    environment: Environment
    world: World
    now: float
    actions: list[Action] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    quarantine: dict[str, str] = field(default_factory=dict)
    succeeded: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    ended: list[Rollout] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    wake_at: float = float("inf")
    moved: bool = False

    def update(self, **changes: Any) -> None:
        """Change what is remembered; an equal value is no change, so that a quiet look writes nothing."""
        if any(getattr(self.environment, name) != value for name, value in changes.items()):
            self.environment = replace(self.environment, **changes)

    def note(self, kind: str, body: Mapping[str, Any], rollout: str | None = None) -> None:
        self.notes.append(Note(kind, body, rollout))

    def put_in_quarantine(self, revision: str, reason: str) -> None:
        """It counts at once: the next in the queue may be the same revision."""
        self.quarantine[revision] = reason
        self.world = replace(self.world, quarantined=self.world.quarantined | {revision})

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)


def decide(environment: Environment, world: World, now: float) -> Decision:
    """One look at one environment.

    Args:
        environment: what is remembered.
        world: what is observed; any part may be missing or absurd.
        now: seconds since the epoch.
    Returns: the next remembered state, the actions to take, what to write down, and when to look again.
    """
    draft = _Draft(environment, world, now)
    for command in world.commands:
        _obey(draft, command)
    _follow(draft)
    _note_lost(draft)
    _keep_fleets(draft)
    _retire_strangers(draft)
    _settle_leaving(draft)
    _settle_route(draft)
    _start_jobs(draft)
    return Decision(
        environment=draft.environment,
        actions=tuple(draft.actions),
        notes=tuple(draft.notes),
        quarantine=draft.quarantine,
        succeeded=tuple(draft.succeeded),
        withdrawn=tuple(draft.withdrawn),
        ended=tuple(draft.ended),
        refused=draft.refused,
        wake_at=now if draft.moved else draft.wake_at,
    )


# People's requests


def _obey(draft: _Draft, command: Command) -> None:
    draft.note("decision", {"request": command.id, "verb": command.verb, "by": command.by})
    if command.verb == "begin" and command.rollout is not None:
        _begin(draft, command.rollout)
    elif command.verb == "resize" and command.plan is not None:
        _resize(draft, command.plan)
    elif command.verb == "down":
        _down(draft, command)
    elif command.verb == "undo":
        _undo(draft, command)
    elif command.verb == "stop":
        _stop(draft, command)
    elif command.verb == "approve":
        _ask_rollout(draft, command, Event.APPROVE, "approved")


def _begin(draft: _Draft, rollout: Rollout) -> None:
    rollout = replace(rollout, entered_at=draft.now)
    draft.update(down=False, platform=rollout.plan.platform)
    under_way = draft.environment.rollout
    if under_way is None:
        draft.update(queue=(*draft.environment.queue, rollout))
        return
    if under_way.state is State.SOAKING or rollout.plan.when_busy == "supersede":
        _drop_queue(draft, f"superseded by {rollout.id}")
        reason = f"superseded by {rollout.id}, requested by {rollout.requested_by}"
        _apply(draft, Seen(Event.SUPERSEDED, reason, f"rebake status {rollout.plan.environment}"))
    else:
        rollout = replace(rollout, reason=f"waits for {under_way.id} to end")
    draft.update(queue=(*draft.environment.queue, rollout))


def _drop_queue(draft: _Draft, reason: str) -> None:
    for waiting in draft.environment.queue:
        draft.ended.append(replace(waiting, state=State.STOPPED, reason=reason, ended_at=draft.now))
        draft.note("transition", {"from": State.WAITING, "to": State.STOPPED, "reason": reason}, waiting.id)
    draft.update(queue=())


def _resize(draft: _Draft, plan: Plan) -> None:
    stable = draft.environment.stable
    if stable is not None:
        draft.note("decision", {"instances": plan.instances, "listen": plan.listen})
        draft.update(stable=replace(stable, plan=replace(plan, run=stable.plan.run)))


def _down(draft: _Draft, command: Command) -> None:
    _drop_queue(draft, f"taken down by {command.by}")
    rollout = draft.environment.rollout
    if rollout is not None:
        reason = f"taken down by {command.by}"
        draft.note("transition", {"from": rollout.state, "to": State.STOPPED, "reason": reason}, rollout.id)
        _end(draft, replace(rollout, state=State.STOPPED, reason=reason))
    stable = draft.environment.stable
    gone = draft.environment.leaving
    if stable is not None:
        gone = (*gone, Leaving(stable, "taken down"))
    draft.update(stable=None, leaving=gone, previous=(), down=True)


def _ask_rollout(draft: _Draft, command: Command, event: Event, reason: str) -> None:
    rollout = draft.environment.rollout
    if rollout is None:
        draft.refused[command.id] = "no rollout is under way"
        return
    refused = TABLE[rollout.state, event].refused
    if refused is not None:
        draft.refused[command.id] = refused
        return
    _apply(draft, Seen(event, f"{reason} by {command.by}"))


def _stop(draft: _Draft, command: Command) -> None:
    _drop_queue(draft, f"stopped by {command.by}")
    if draft.environment.rollout is not None:
        _ask_rollout(draft, command, Event.STOP, "stopped")


def undo_target(environment: Environment, quarantined: frozenset[str]) -> Fleet | None:
    """The newest revision that was stable before, is not the one in service and is not in quarantine."""
    serving = environment.stable.revision.digest if environment.stable is not None else None
    for fleet in environment.previous:
        if fleet.revision.digest not in quarantined and fleet.revision.digest != serving:
            return fleet
    return None


def _undo(draft: _Draft, command: Command) -> None:
    _drop_queue(draft, f"undone by {command.by}")
    rollout = draft.environment.rollout
    if rollout is not None and not TABLE[rollout.state, Event.UNDO].refused:
        if rollout.state is not State.RETURNING:
            _ask_rollout(draft, command, Event.UNDO, "undone")
            draft.put_in_quarantine(rollout.revision.digest, f"undone by {command.by}")
        return
    stable, target = draft.environment.stable, undo_target(draft.environment, draft.world.quarantined)
    if target is None or command.rollout_id is None:
        draft.refused[command.id] = "there is no earlier revision to go back to"
        return
    undo = Rollout(
        id=command.rollout_id,
        kind="undo",
        revision=target.revision,
        plan=undo_plan(target.plan),
        requested_by=command.by,
        requested_at=command.at,
        reason=f"undone by {command.by}",
        undone=stable.revision.digest if stable is not None else None,
    )
    if stable is not None:
        draft.put_in_quarantine(stable.revision.digest, f"undone by {command.by}")
        draft.withdrawn.append(stable.revision.release)
    draft.update(queue=(undo,))


def undo_plan(plan: Plan) -> Plan:
    """An undo skips steps, checks, gates and judge: what it restores has served before."""
    strategy = replace(plan.strategy, kind="all-at-once", steps=(), profile=None)
    return replace(plan, strategy=strategy, checks=(), after=None, approval=False, soak_ms=0, hold_back_basis_points=0)


# The rollout


def _follow(draft: _Draft) -> None:
    """Follow the rollout's events until nothing more is to be seen."""
    for _ in range(MAX_EVENTS):
        _take_next(draft)
        rollout = draft.environment.rollout
        if rollout is None:
            return
        seen = _ramp(draft, rollout) or classify(Look(draft.environment, rollout, draft.world, draft.now))
        if seen is None:
            return
        _apply(draft, seen)


def _take_next(draft: _Draft) -> None:
    environment = draft.environment
    if environment.rollout is not None or not environment.queue:
        return
    first, *rest = environment.queue
    reason = "accepted" if first.kind == "deploy" else first.reason
    draft.update(rollout=replace(first, entered_at=draft.now, reason=reason), queue=tuple(rest))
    draft.note("transition", {"from": None, "to": State.WAITING, "reason": first.reason, "kind": first.kind}, first.id)


def _ramp(draft: _Draft, rollout: Rollout) -> Seen | None:
    """Let the judge's own ramp choose the next weight. Source: JUDGE.md section 1, Ramp."""
    profile, verdict = rollout.plan.strategy.profile, draft.world.verdict
    if profile is None or rollout.state is not State.HOLDING or verdict is None or rollout.step != 0:
        return None
    if verdict.kind == "harmful" or draft.environment.stable_lost_at is not None:
        return None
    since = rollout.ramped_at if rollout.ramped_at is not None else draft.now
    elapsed = draft.now - since
    if rollout.ramped_at is not None and elapsed < RAMP_SECONDS:
        draft.wake(since + RAMP_SECONDS)
        return None
    begun = rollout.users_at if rollout.users_at is not None else draft.now
    ramp = rollout.ramp or begin(draft.world.requests_per_second)[0]
    total = verdict.stable[0] + verdict.candidate[0]
    state, weight, finished = advance(profile, ramp, draft.now - begun, elapsed, verdict.candidate[0], total, verdict)
    draft.update(rollout=replace(rollout, ramp=state, ramped_at=draft.now))
    if finished and verdict.kind == "healthy":
        return Seen(Event.STEP_OVER, f"the ramp is over: {verdict.reason}")
    if weight >= rollout.weight * RAMP_GROWTH or (weight > rollout.weight and weight == HALF):
        draft.update(rollout=replace(draft.environment.rollout or rollout, weight=weight))
        return Seen(Event.RAMPED, f"the ramp goes on to {format_share(weight)}: {verdict.reason}")
    return None


def _apply(draft: _Draft, seen: Seen) -> None:
    """Take one step through the table and do what entering the next state means."""
    rollout = draft.environment.rollout
    if rollout is None:
        return
    cell = TABLE[rollout.state, seen.event]
    if cell.to is None and (rollout.state, seen.event) != (State.RETURNING, Event.RETURNED):
        return
    state, ending = next_state(rollout.state, seen.event, rollout.ending)
    draft.note(
        "transition", {"from": rollout.state, "to": state, "event": seen.event, "reason": seen.reason}, rollout.id
    )
    entered = replace(
        rollout,
        state=state,
        ending=ending,
        entered_at=draft.now,
        reason=seen.reason,
        remedy=seen.remedy,
        log_tail=tuple(seen.log_tail)[-20:],
    )
    draft.moved = True
    _enter(draft, rollout, entered, seen.event)


def _enter(draft: _Draft, left: Rollout, rollout: Rollout, event: Event) -> None:
    state = rollout.state
    if state is State.LAUNCHING:
        draft.update(rollout=rollout, candidate=fleet_for(rollout))
    elif state is State.SHIFTING:
        draft.update(rollout=_next_step(draft, rollout, event))
    elif state is State.HOLDING:
        users_at = rollout.users_at if rollout.users_at is not None else draft.now
        draft.update(rollout=replace(rollout, step_at=draft.now, users_at=users_at))
    elif state is State.ASKING:
        asking = "approval" if event is Event.NEEDS_APPROVAL else "undecided"
        draft.update(rollout=replace(rollout, asking=asking))
    elif state is State.SOAKING:
        draft.succeeded.append(rollout.revision.release)
        draft.update(rollout=replace(rollout, promoted_at=draft.now))
    elif state is State.FINISHING:
        draft.update(rollout=replace(rollout, weight=FULL))
    elif state is State.RETURNING:
        _turn_back(draft, left, rollout)
    elif rollout.over:
        _end(draft, rollout)
    else:
        draft.update(rollout=rollout)


def _next_step(draft: _Draft, rollout: Rollout, event: Event) -> Rollout:
    """Which weight comes next. Without a stable fleet that works there is nobody to compare with: all at once."""
    if event is Event.RAMPED:
        return rollout
    strategy, plan = rollout.plan.strategy, rollout.plan
    step, count = rollout.step + 1, stages(strategy)
    alone = (
        draft.environment.stable is None
        or event is Event.STABLE_BROKEN
        or stable_broken(Look(draft.environment, rollout, draft.world, draft.now))
    )
    if alone or step >= count:
        whole = alone or plan.soak_ms == 0
        weight = FULL if whole else FULL - plan.hold_back_basis_points
        return replace(rollout, step=count, weight=weight, asking=None)
    if strategy.profile is not None:
        ramp, weight = begin(draft.world.requests_per_second)
        return replace(rollout, step=step, ramp=ramp, ramped_at=draft.now, weight=weight, asking=None)
    weight = 0 if strategy.kind == "shadow" else strategy.steps[step]
    return replace(rollout, step=step, weight=weight, asking=None)


def _turn_back(draft: _Draft, left: Rollout, rollout: Rollout) -> None:
    """The candidate goes: without users at once, and, if it did harm, into quarantine before anything can retry it."""
    draft.update(rollout=replace(rollout, weight=0))
    if rollout.ending is State.ROLLED_BACK:
        draft.put_in_quarantine(rollout.revision.digest, rollout.reason)
    if left.promoted_at is not None:
        draft.withdrawn.append(rollout.revision.release)


def _end(draft: _Draft, rollout: Rollout) -> None:
    """A rollout reached its end: the fleets take their places."""
    environment = draft.environment
    rollout = replace(rollout, ended_at=draft.now)
    draft.ended.append(rollout)
    draft.moved = True
    stable, candidate = environment.stable, environment.candidate
    gone, previous = environment.leaving, environment.previous
    if rollout.state is State.PROMOTED and candidate is not None:
        if stable is not None:
            gone = (*gone, Leaving(stable, "its successor was promoted"))
            previous = _remember(previous, stable, rollout)
        stable, candidate = candidate, None
    elif candidate is not None:
        gone = (*gone, Leaving(candidate, rollout.reason))
    draft.update(
        stable=stable,
        candidate=None,
        rollout=None,
        leaving=gone,
        previous=previous,
        stable_lost_at=None,
        candidate_lost_at=None,
    )


def _remember(previous: Sequence[Fleet], stable: Fleet, rollout: Rollout) -> tuple[Fleet, ...]:
    """What undo may go back to: never the revision now in service, and not one that was just undone."""
    kept = [f for f in previous if f.revision.digest not in (rollout.revision.digest, stable.revision.digest)]
    if rollout.kind == "deploy":
        kept.insert(0, Fleet(stable.id, stable.revision, stable.plan))
    return tuple(kept[: max(1, rollout.plan.keep)])


# Fleets


def _note_lost(draft: _Draft) -> None:
    """Remember since when a cohort shows no healthy instance. A drifted one that answers is not lost: it serves."""
    environment, world = draft.environment, draft.world
    if not world.instances_known:
        return

    def lost(fleet: Fleet | None, since: float | None) -> float | None:
        if fleet is None or any(i.healthy for i in serving(fleet, world)):
            return None
        return since if since is not None else draft.now

    stable = lost(environment.stable, environment.stable_lost_at)
    candidate = lost(environment.candidate, environment.candidate_lost_at)
    if (stable, candidate) != (environment.stable_lost_at, environment.candidate_lost_at):
        draft.update(stable_lost_at=stable, candidate_lost_at=candidate)
    if environment.rollout is not None and (stable or candidate):
        draft.wake(draft.now + 0.5)


def _keep_fleets(draft: _Draft) -> None:
    stable = draft.environment.stable
    if stable is not None:
        draft.update(stable=_keep(draft, stable, stable.plan.instances))
    candidate, rollout = draft.environment.candidate, draft.environment.rollout
    if candidate is not None and rollout is not None and rollout.state in _WITH_CANDIDATE - {State.RETURNING}:
        draft.update(candidate=_keep(draft, candidate, rollout.plan.instances))


def _keep(draft: _Draft, fleet: Fleet, wanted: int) -> Fleet:
    kept = keep(fleet, draft.world, draft.now, wanted)
    draft.actions += kept.actions
    draft.notes += kept.notes
    draft.wake(kept.wake_at)
    return kept.fleet


def _retire_strangers(draft: _Draft) -> None:
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


def _settle_leaving(draft: _Draft) -> None:
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


def _mark_idle(draft: _Draft, gone: Leaving) -> Leaving:
    route = draft.world.route
    unused = draft.world.route_known and (route is None or not route.weights.get(gone.fleet.id, 0))
    if unused and gone.idle_since is None:
        return replace(gone, idle_since=draft.now)
    if not unused and draft.world.route_known and gone.idle_since is not None:
        return replace(gone, idle_since=None)  # somebody gave it users again: it is not drained
    return gone


# The route


def _settle_route(draft: _Draft) -> None:
    environment, world = draft.environment, draft.world
    if not world.route_known or not world.instances_known:
        return
    wanted = desired_route(environment, world, draft.now)
    if wanted is None:
        if world.route is not None:
            draft.actions.append(RemoveRoute(f"remove-route:{environment.key}"))
        return
    if world.route is not None and world.route.version == wanted.version:
        if environment.served != wanted.version:
            draft.update(served=wanted.version)
        return
    if _blind(draft, wanted):
        draft.wake(draft.now + 0.2)
        return
    if world.route is not None and environment.served == wanted.version:
        found = {f: format_share(w) for f, w in world.route.weights.items()}
        draft.note("drift", {"route": environment.key, "expected": _shares(environment), "found": found})
    draft.actions.append(ApplyRoute(f"route:{wanted.version}", wanted))
    draft.wake(draft.now + 0.02)


def _blind(draft: _Draft, wanted: EnvironmentRoute) -> bool:
    """Whether the wished route would give users to a fleet of which no instance is in sight.

    One look that misses instances must not empty the route: the balancer's own health checks know better. Weights that
    must change anyway (a stop, while stable is gone) wait until the cohort counts as lost.
    """
    environment, route = draft.environment, draft.world.route
    blind = {f.fleet for f in wanted.fleets if f.weight_basis_points and not f.endpoints}
    if not blind or route is None:
        return False
    if {f: w for f, w in route.weights.items() if w} == {f: w for f, w in weights(environment).items() if w}:
        return True
    cohorts = ((environment.stable, environment.stable_lost_at), (environment.candidate, environment.candidate_lost_at))
    return any(
        fleet is not None and fleet.id in blind and (since is None or 0 <= draft.now - since < LOST_SECONDS)
        for fleet, since in cohorts
    )


def _shares(environment: Environment) -> dict[str, str]:
    return {f: format_share(w) for f, w in weights(environment).items()}


# Jobs


def _start_jobs(draft: _Draft) -> None:
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
            if action not in draft.world.jobs and urls:
                draft.actions.append(RunCheck(action, check, urls))
    _wake_for(draft, rollout)


def _wake_for(draft: _Draft, rollout: Rollout) -> None:
    """Look again when the next deadline of this state comes."""
    if rollout.state is State.SOAKING and rollout.promoted_at is not None:
        draft.wake(max(draft.now + 0.05, rollout.promoted_at + rollout.plan.soak_ms / 1000))
    if rollout.state is State.SOAKING:
        draft.wake(draft.now + SOAK_LOOK_SECONDS)
    elif rollout.state in (State.HOLDING, State.SHIFTING, State.ASKING):
        draft.wake(draft.now + 0.2)
    elif not rollout.over:
        draft.wake(draft.now + 0.1)
