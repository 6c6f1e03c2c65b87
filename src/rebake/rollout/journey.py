"""A rollout's journey: events followed through the table of `states`, and what entering a state means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rebake.core.units import FULL, format_share
from rebake.rollout.draft import Draft
from rebake.rollout.events import Look, Seen, classify, shut, stable_broken
from rebake.rollout.groups import PROMOTED
from rebake.rollout.route import first_with_users, stages
from rebake.rollout.states import STAYING, TABLE, Event, State, next_state
from rebake.rollout.world import Fleet, Leaving, Rollout, fleet_for
from rebake.traffic.ramp import advance, begin

MAX_EVENTS = 8
"""Events followed within one look; the rest waits for the next, which comes at once."""
RAMP_SECONDS = 1.0
"""How often the judge's ramp is asked."""
RAMP_MOST_SECONDS = 10.0
"""A longer time between two looks (a gate was shut, no engine was there) is not time in which it was watched."""
HALF = FULL // 2
RAMP_GROWTH = 1.1
"""A weight is written again only when it grew by this factor: the ledger is for people."""


def follow(draft: Draft) -> None:
    """Follow the rollout's events until nothing more is to be seen."""
    for _ in range(MAX_EVENTS):
        _take_next(draft)
        rollout = draft.environment.rollout
        if rollout is not None and rollout.over:
            end_rollout(draft, rollout)
            continue
        if rollout is None:
            return
        seen = _ramp(draft, rollout) or classify(Look(draft.environment, rollout, draft.world, draft.now))
        if seen is None:
            return
        apply_event(draft, seen)


def _take_next(draft: Draft) -> None:
    environment = draft.environment
    if environment.rollout is not None or not environment.queue:
        return
    first, *rest = environment.queue
    reason = "accepted" if first.kind == "deploy" else first.reason
    draft.update(rollout=replace(first, state=State.WAITING, entered_at=draft.now, reason=reason), queue=tuple(rest))
    draft.note("transition", {"from": None, "to": State.WAITING, "reason": first.reason, "kind": first.kind}, first.id)


def _ramp(draft: Draft, rollout: Rollout) -> Seen | None:
    """Let the judge's own ramp choose the next weight. Source: JUDGE.md section 1, Ramp."""
    profile, verdict = rollout.plan.strategy.profile, draft.world.verdict
    if profile is None or rollout.state is not State.HOLDING or verdict is None:
        return None
    if rollout.step != first_with_users(rollout.plan.strategy):
        return None
    if verdict.kind == "harmful" or draft.environment.stable_lost_at is not None:
        return None
    if shut(Look(draft.environment, rollout, draft.world, draft.now)) is not None:
        return None  # `classify` says what holds it; the ramp stands still meanwhile
    since = rollout.ramped_at if rollout.ramped_at is not None else draft.now
    elapsed = min(draft.now - since, RAMP_MOST_SECONDS)
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


def apply_event(draft: Draft, seen: Seen) -> None:
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
        held=seen.reason if seen.event is Event.HELD else None,
        held_until=seen.until,
        mark=max(rollout.mark, -1 if seen.mark is None else seen.mark),
        agreed=rollout.agreed or seen.event is Event.AGREED,
        hurried=rollout.hurried or seen.event is Event.HURRIED,
        taken_along=rollout.taken_along or seen.event is Event.GROUP_RETURNS,
    )
    draft.moved = True
    if seen.event in STAYING:
        draft.update(rollout=replace(entered, entered_at=rollout.entered_at))
    else:
        _enter(draft, rollout, entered, seen.event)


def _enter(draft: Draft, left: Rollout, rollout: Rollout, event: Event) -> None:
    state = rollout.state
    if state is State.LAUNCHING:
        draft.update(rollout=rollout, candidate=fleet_for(rollout))
    elif state is State.CHECKING:
        candidate = draft.environment.candidate
        took = max(0.0, draft.now - left.entered_at)
        draft.update(rollout=rollout, candidate=candidate and replace(candidate, start_seconds=took))
    elif state is State.SHIFTING:
        draft.update(rollout=replace(_next_step(draft, rollout, event), agreed=False))
    elif state is State.HOLDING:
        users_at = draft.now if rollout.users_at is None and rollout.weight else rollout.users_at
        draft.update(rollout=replace(rollout, step_at=draft.now, users_at=users_at))
    elif state is State.ASKING:
        asking = "approval" if event is Event.NEEDS_APPROVAL else "undecided"
        draft.update(rollout=replace(rollout, asking=asking))
    elif state is State.SOAKING:
        draft.succeeded.append(rollout.revision.release)
        draft.update(rollout=replace(rollout, promoted_at=draft.now, mark=max(rollout.mark, PROMOTED)))
    elif state is State.FINISHING:
        draft.update(rollout=replace(rollout, weight=FULL))
    elif state is State.RETURNING:
        _turn_back(draft, left, rollout)
    elif rollout.over:
        end_rollout(draft, rollout)
    else:
        draft.update(rollout=rollout)


def _next_step(draft: Draft, rollout: Rollout, event: Event) -> Rollout:
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
    with_users = step - first_with_users(strategy)
    if with_users < 0:
        return replace(rollout, step=step, weight=0, asking=None)
    if strategy.profile is not None:
        ramp, weight = begin(draft.world.requests_per_second)
        return replace(rollout, step=step, ramp=ramp, ramped_at=draft.now, weight=weight, asking=None)
    return replace(rollout, step=step, weight=strategy.steps[with_users], asking=None)


def _turn_back(draft: Draft, left: Rollout, rollout: Rollout) -> None:
    """The candidate goes: without users at once, and, if it did harm, into quarantine before anything can retry it."""
    draft.update(rollout=replace(rollout, weight=0))
    if rollout.ending is State.ROLLED_BACK:
        draft.put_in_quarantine(rollout.revision.digest, rollout.reason)
    stable = draft.environment.stable
    serves_on = stable is not None and stable.revision.release == rollout.revision.release  # under other settings
    if left.promoted_at is not None and not serves_on:
        draft.withdrawn.append(rollout.revision.release)


def end_rollout(draft: Draft, rollout: Rollout) -> None:
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
        gone = (*gone, Leaving(candidate, rollout.reason, shielded=rollout.plan.shield and stable is not None))
    draft.update(
        stable=stable,
        candidate=None,
        rollout=None,
        leaving=gone,
        previous=previous,
        stable_lost_at=None,
        candidate_lost_at=None,
        fell_at=None,
    )


def _remember(previous: Sequence[Fleet], stable: Fleet, rollout: Rollout) -> tuple[Fleet, ...]:
    """What undo may go back to: never the revision now in service, and not one that was just undone."""
    kept = [f for f in previous if f.revision.digest not in (rollout.revision.digest, stable.revision.digest)]
    if rollout.kind == "deploy":
        kept.insert(0, Fleet(stable.id, stable.revision, stable.plan, start_seconds=stable.start_seconds))
    return tuple(kept[: max(1, rollout.plan.keep)])
