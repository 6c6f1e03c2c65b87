"""What people ask for: begin, stop, undo, approve, resize, down. Pure: each changes the decision being made.

A request that cannot be granted is refused with a sentence; nothing is lost by asking.
"""

from __future__ import annotations

from dataclasses import replace

from rebake.core.digest import short
from rebake.core.units import FULL
from rebake.rollout.draft import Draft
from rebake.rollout.events import Look, Seen, shut
from rebake.rollout.groups import next_mark
from rebake.rollout.journey import apply_event, end_rollout
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.states import TABLE, Event, State
from rebake.rollout.world import Command, Environment, Fleet, Leaving, Rollout


def obey(draft: Draft, command: Command) -> None:
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
        _approve(draft, command)


def _begin(draft: Draft, rollout: Rollout) -> None:
    rollout = replace(rollout, entered_at=draft.now)
    draft.update(down=False, platform=rollout.plan.platform)
    under_way = draft.environment.rollout
    if under_way is None:
        draft.update(queue=(*draft.environment.queue, rollout))
        return
    in_group = under_way.state is State.SOAKING and under_way.group is not None
    held = in_group or _held_in_soak(draft, under_way)
    if rollout.plan.when_busy == "supersede" and held:
        _drop_queue(draft, f"superseded by {rollout.id}")
    if in_group:
        apply_event(draft, Seen(Event.HURRIED, f"{rollout.id} waits; its soak ends when its group's does"))
    if not held and (under_way.state is State.SOAKING or rollout.plan.when_busy == "supersede"):
        _drop_queue(draft, f"superseded by {rollout.id}")
        reason = f"superseded by {rollout.id}, requested by {rollout.requested_by}"
        apply_event(draft, Seen(Event.SUPERSEDED, reason, f"rebake status {rollout.plan.environment}"))
    else:
        rollout = replace(rollout, reason=f"waits for {under_way.id} to end")
    draft.update(queue=(*draft.environment.queue, rollout))


def _held_in_soak(draft: Draft, rollout: Rollout) -> bool:
    """Whether ending this soak for a newer request would move users while a gate in time is shut."""
    if rollout.state is not State.SOAKING or rollout.weight == FULL:
        return False
    return shut(Look(draft.environment, rollout, draft.world, draft.now)) is not None


def _drop_queue(draft: Draft, reason: str) -> None:
    for waiting in draft.environment.queue:
        draft.ended.append(replace(waiting, state=State.STOPPED, reason=reason, ended_at=draft.now))
        draft.note("transition", {"from": State.WAITING, "to": State.STOPPED, "reason": reason}, waiting.id)
    draft.update(queue=())


def _resize(draft: Draft, plan: Plan) -> None:
    stable = draft.environment.stable
    if stable is not None:
        draft.note("decision", {"instances": plan.instances, "listen": plan.listen})
        draft.update(stable=replace(stable, plan=replace(plan, run=stable.plan.run)))


def _down(draft: Draft, command: Command) -> None:
    _drop_queue(draft, f"taken down by {command.by}")
    rollout = draft.environment.rollout
    if rollout is not None:
        reason = f"taken down by {command.by}"
        draft.note("transition", {"from": rollout.state, "to": State.STOPPED, "reason": reason}, rollout.id)
        end_rollout(draft, replace(rollout, state=State.STOPPED, reason=reason))
    stable = draft.environment.stable
    gone = draft.environment.leaving
    if stable is not None:
        gone = (*gone, Leaving(stable, "taken down"))
    draft.update(stable=None, leaving=gone, previous=(), down=True)


def _ask_rollout(draft: Draft, command: Command, event: Event, reason: str) -> None:
    rollout = draft.environment.rollout
    if rollout is None:
        draft.refused[command.id] = "no rollout is under way"
        return
    refused = TABLE[rollout.state, event].refused
    if refused is not None:
        draft.refused[command.id] = refused
        return
    apply_event(draft, Seen(event, f"{reason} by {command.by}"))


def _approve(draft: Draft, command: Command) -> None:
    """What a person says yes to: the question that is asked or, where a gate in time holds it, passing that gate."""
    rollout = draft.environment.rollout
    if rollout is None or rollout.held is None or rollout.state is State.ASKING:
        _say_yes(draft, command)
        return
    draft.update(rollout=replace(rollout, let_through=command.by, let_through_at=draft.now))
    apply_event(draft, Seen(Event.LET_THROUGH, f"let through by {command.by}"))


def _say_yes(draft: Draft, command: Command) -> None:
    """In a group in lockstep a step that a person said yes to still begins together with the others'."""
    rollout = draft.environment.rollout
    lockstep = rollout is not None and rollout.group is not None and rollout.group.order == "lockstep"
    if rollout is None or not lockstep or rollout.state not in (State.HOLDING, State.ASKING):
        _ask_rollout(draft, command, Event.APPROVE, "approved")
        return
    apply_event(draft, Seen(Event.AGREED, f"approved by {command.by}", mark=next_mark(rollout)))


def _stop(draft: Draft, command: Command) -> None:
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


def passed_over(environment: Environment, quarantined: frozenset[str]) -> tuple[str, ...]:
    """Revisions that an undo passes over on its way to its target, because they are in quarantine; newest first."""
    serving, target = environment.stable, undo_target(environment, quarantined)
    digests = [fleet.revision.digest for fleet in environment.previous]
    if target is not None:
        digests = digests[: digests.index(target.revision.digest)]
    return tuple(d for d in digests if serving is None or d != serving.revision.digest)


def _undo(draft: Draft, command: Command) -> None:
    _drop_queue(draft, f"undone by {command.by}")
    rollout = draft.environment.rollout
    if rollout is not None and not TABLE[rollout.state, Event.UNDO].refused:
        if rollout.kind == "undo" and rollout.state is not State.RETURNING:
            gone = short(rollout.revision.digest)
            draft.refused[command.id] = f"{rollout.id} goes back to {gone} already; a stop would end it"
        elif rollout.state is not State.RETURNING:
            _ask_rollout(draft, command, Event.UNDO, "undone")
            draft.put_in_quarantine(rollout.revision.digest, f"undone by {command.by}")
        return
    stable, target = draft.environment.stable, undo_target(draft.environment, draft.world.quarantined)
    if target is None or command.rollout_id is None:
        draft.refused[command.id] = "there is no earlier revision to go back to"
        return
    over = passed_over(draft.environment, draft.world.quarantined)
    skipping = f", passing over {', '.join(short(d) for d in over)}, in quarantine" if over else ""
    undo = Rollout(
        id=command.rollout_id,
        kind="undo",
        revision=target.revision,
        plan=undo_plan(target.plan),
        requested_by=command.by,
        requested_at=command.at,
        reason=f"undone by {command.by}{skipping}",
        undone=stable.revision.digest if stable is not None else None,
    )
    if stable is not None:
        draft.put_in_quarantine(stable.revision.digest, f"undone by {command.by}")
        draft.withdrawn.append(stable.revision.release)
    draft.update(queue=(undo,))


def undo_plan(plan: Plan) -> Plan:
    """An undo skips copies, steps, checks, gates and judge: what it restores has served before."""
    return replace(
        plan,
        strategy=Strategy("all-at-once"),
        checks=(),
        after=None,
        approval=False,
        window=(),
        freeze=(),
        soak_ms=0,
        hold_back_basis_points=0,
    )
