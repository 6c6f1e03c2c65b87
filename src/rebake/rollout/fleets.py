"""Keep one fleet at its size: start what is missing, take out what drifted or fails, and know when to give up. Pure.

Rules:
- An instance that ended, or used up its start time, is retired and counted as a failure, once. The start time counts
  from the first look that shows it starting: the platform's clock may be another one.
- A drifted instance is replaced, never repaired: its successor is healthy before it leaves.
- An instance leaves in two steps: out of the route, then, after the drain time, told to finish.
- Restarts back off: at once, 1 s, 2 s, 4 s ... 60 s; after `GIVE_UP_AFTER` failures in a row they end and a person is
  told.
- An instance asked for and not observed yet counts as present for `PENDING_SECONDS`: a slow look starts nothing twice.
- Without a route nothing has to drain first: an instance that leaves is told to finish at once. One that ends by itself
  with exit code 0 after it stayed up has done its stint; it is replaced, and nothing failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rebake.platforms.model import Instance, InstanceSpec
from rebake.release.manifest import contract_in
from rebake.rollout.actions import Action, Launch, Note, Retire
from rebake.rollout.world import Failure, Fleet, World, with_failure

GIVE_UP_AFTER = 10
"""Failures in a row after which a fleet is not restarted by itself any more."""
STAYS_UP_SECONDS = 30.0
"""An instance that was healthy this long proves that the fleet can stay up."""
SICK_SECONDS = 30.0
"""An instance that runs without health this long is replaced, while another one is healthy."""
CLEAN_EXIT = "exit 0"
PENDING_SECONDS = 10.0
"""A launch that shows nothing for this long is taken as lost, and another instance is asked for."""


@dataclass(frozen=True, slots=True)
class Kept:
    fleet: Fleet
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    wake_at: float = float("inf")


def serving(fleet: Fleet, world: World) -> tuple[Instance, ...]:
    """Instances that may stand in the route: healthy once, alive, and not leaving."""
    return tuple(
        i
        for i in world.of(fleet.id)
        if i.was_healthy and i.state == "running" and (i.address or not fleet.plan.routed) and i.id not in fleet.leaving
    )


def healthy(fleet: Fleet, world: World) -> tuple[Instance, ...]:
    """Serving instances that are healthy now and as they were released."""
    return tuple(i for i in serving(fleet, world) if i.healthy and not i.drift)


def backoff_seconds(failures: int) -> float:
    """How long to wait after the latest of `failures` in a row."""
    return 0.0 if failures <= 1 else min(2.0 ** (failures - 2), 60.0)


def instance_spec(fleet: Fleet, number: int) -> InstanceSpec:
    """The next instance of a fleet: its name is the fleet's and a number, so it needs no chance."""
    revision = fleet.revision
    return InstanceSpec(
        id=f"{fleet.id}-{number}",
        service=revision.service,
        environment=revision.environment,
        fleet=fleet.id,
        revision=revision.digest,
        release=revision.release,
        run=contract_in(fleet.plan.run, revision.settings),
        secrets=dict(revision.settings.secrets),
    )


def _failure(fleet: Fleet, instance: Instance, now: float, fell: bool) -> Failure | None:
    """Why this instance failed, or None. `fell`: what ended, ended with its machine."""
    if instance.state == "exited":
        if _did_its_stint(fleet, instance, now):
            return None
        why = f"instance {instance.id} ended: {instance.exit or 'exit unknown'}"
        clean = not fleet.plan.routed and instance.exit == CLEAN_EXIT
        return Failure(instance.id, now, why, served=instance.was_healthy or fell, clean=clean)
    limit = fleet.plan.run.health.start_timeout_ms / 1000
    if instance.state == "starting" and now - fleet.starting.get(instance.id, now) > limit:
        seen = instance.detail or "no answer"
        told = seen if seen.startswith("not healthy within") else f"not healthy within {limit:g}s: {seen}"
        why = f"instance {instance.id} was {told}"
        return Failure(instance.id, now, why, decisive=True)
    return None


def _did_its_stint(fleet: Fleet, instance: Instance, now: float) -> bool:
    """Whether a worker ended well: of its own will, and not so soon that it would be started over and over."""
    stayed = instance.was_healthy and now - instance.started_at >= STAYS_UP_SECONDS
    return not fleet.plan.routed and instance.exit == CLEAN_EXIT and stayed


def _since(known: Mapping[str, float], ids: set[str], now: float) -> dict[str, float]:
    return {i: known.get(i, now) for i in sorted(ids)}


def _settle_failures(fleet: Fleet, members: Sequence[Instance], now: float, fell: bool) -> Kept:
    actions: list[Action] = []
    notes: list[Note] = []
    for instance in members:
        failure = _failure(fleet, instance, now, fell)
        if failure is None:
            if instance.state == "exited":
                actions.append(Retire(f"retire:{instance.id}", instance.id, 0, "it ended with exit code 0"))
            continue
        if instance.id not in fleet.leaving:
            before, fleet = fleet, with_failure(fleet, failure)
            if fleet is not before:
                notes.append(Note("note", {"instance": instance.id, "failure": failure.why}, fleet.id))
        actions.append(Retire(f"retire:{instance.id}", instance.id, 0, failure.why))
    return Kept(fleet, tuple(actions), tuple(notes))


def _note_drift(fleet: Fleet, members: Sequence[Instance]) -> Kept:
    notes = [
        Note("drift", {"instance": i.id, "differences": [d.sentence() for d in i.drift[:20]]}, fleet.id)
        for i in members
        if i.drift and i.id not in fleet.noted
    ]
    if not notes:
        return Kept(fleet)
    noted = (*fleet.noted, *(str(n.body["instance"]) for n in notes))[-50:]
    return Kept(replace(fleet, noted=noted), notes=tuple(notes))


def _still_pending(fleet: Fleet, members: Sequence[Instance], now: float) -> Fleet:
    seen = {i.id for i in members}
    pending = {i: at for i, at in fleet.pending.items() if i not in seen and 0 <= now - at < PENDING_SECONDS}
    return fleet if pending == fleet.pending else replace(fleet, pending=pending)


def _launch_missing(fleet: Fleet, missing: int, now: float) -> Kept:
    streak = fleet.streak
    missing -= len(fleet.pending)
    if missing <= 0 or len(streak) >= GIVE_UP_AFTER:
        return Kept(fleet)
    due = streak[-1].at + backoff_seconds(len(streak)) if streak else now
    if now < due:
        return Kept(fleet, wake_at=due)
    specs = [instance_spec(fleet, fleet.next + n) for n in range(missing)]
    pending = {**fleet.pending, **{s.id: now for s in specs}}
    fleet = replace(fleet, next=fleet.next + missing, pending=pending)
    return Kept(fleet, tuple(Launch(f"launch:{s.id}", s) for s in specs), wake_at=now + PENDING_SECONDS)


def _registered(instance: Instance, world: World, *, routed: bool) -> bool:
    """Whether the balancer may still send users to this instance: it says so, or cannot be asked."""
    route = world.route
    if not routed:
        return False
    if not world.route_known:
        return True
    if route is None or not route.weights.get(instance.fleet, 0):
        return False
    told = instance.fleet in route.healthy and instance.fleet in route.unhealthy
    known = (route.healthy.get(instance.fleet, frozenset()), route.unhealthy.get(instance.fleet, frozenset()))
    return not told or any(instance.id in ids for ids in known)


def _leave(fleet: Fleet, leave: set[str], members: Sequence[Instance], world: World, now: float) -> Kept:
    """Take instances out of the route, and tell those to finish that had their drain time without users.

    Drain time that passed while the balancer still had the instance (a lost write, an edge that does not answer) is no
    drain time: it begins anew.
    """
    present = {i.id for i in members}
    leaving = _since(fleet.leaving, (leave | set(fleet.leaving)) & present, now)
    drain = fleet.plan.run.drain_ms
    actions: list[Action] = []
    wake_at = float("inf")
    for instance in members:
        if instance.id not in leaving or instance.state == "exited":
            continue
        due = leaving[instance.id] + (drain / 1000 if fleet.plan.routed else 0.0)
        if now >= due and instance.was_healthy and _registered(instance, world, routed=fleet.plan.routed):
            leaving[instance.id] = now
            wake_at = min(wake_at, now + drain / 1000)
        elif now >= due or not instance.was_healthy:
            why = "it drifted" if instance.drift else "it is one too many"
            actions.append(Retire(f"retire:{instance.id}", instance.id, drain, why))
        else:
            wake_at = min(wake_at, due)
    changed = fleet if leaving == fleet.leaving else replace(fleet, leaving=leaving)
    return Kept(changed, tuple(actions), wake_at=wake_at)


def _unwell(fleet: Fleet, members: Sequence[Instance], now: float) -> Fleet:
    """Remember since when instances are sick, and since when they start."""
    sick = _since(fleet.sick, {i.id for i in members if i.state == "running" and i.healthy is False}, now)
    starting = _since(fleet.starting, {i.id for i in members if i.state == "starting"}, now)
    known = (sick, starting) == (fleet.sick, fleet.starting)
    return fleet if known else replace(fleet, sick=sick, starting=starting)


def is_whole(fleet: Fleet | None, world: World) -> bool:
    """Whether there are instances of a fleet, and each is healthy."""
    members = () if fleet is None else world.of(fleet.id)
    return bool(members) and all(i.healthy and i.state == "running" for i in members)


def all_is_well(fleet: Fleet, members: Sequence[Instance], wanted: int) -> bool:
    """The usual look, which finds all that is wanted, healthy and as released, and nothing under way: told at once."""
    if fleet.failures or fleet.leaving or fleet.sick or fleet.pending or fleet.starting or len(members) != wanted:
        return False
    return all(i.healthy and i.state == "running" and not i.drift for i in members)


def keep(fleet: Fleet, world: World, now: float, wanted: int, *, fell: bool = False) -> Kept:
    """One look at one fleet: what must be started, taken out and retired so that `wanted` good instances serve.

    Args:
        fell: this is the first look after a reboot: what ended, ended with its machine.
    """
    if not world.instances_known:
        return Kept(fleet)
    members = world.of(fleet.id)
    if all_is_well(fleet, members, wanted):
        return Kept(fleet)
    failed = _settle_failures(fleet, members, now, fell)
    drift = _note_drift(failed.fleet, members)
    fleet = _still_pending(_unwell(drift.fleet, members, now), members, now)
    retired = {a.instance for a in failed.actions if isinstance(a, Retire)}
    alive = [
        i for i in members if i.id not in retired and i.id not in fleet.leaving and i.state in ("starting", "running")
    ]
    good = [i for i in alive if not i.drift]
    well = [i for i in good if i.healthy]
    hopeless = [i for i in good if now - fleet.sick.get(i.id, now) >= SICK_SECONDS] if well else []
    good = [i for i in good if i not in hopeless]
    if fleet.streak and any(now - i.started_at >= STAYS_UP_SECONDS for i in well):
        fleet = replace(fleet, good_at=now)
    launched = _launch_missing(fleet, wanted - len(good), now)
    leave = {i.id for i in hopeless}
    if len(well) >= wanted:
        leave |= {i.id for i in alive if i.drift}
        spare = sorted(good, key=lambda i: (bool(i.healthy), -i.started_at))
        leave |= {i.id for i in spare[: max(0, len(good) - wanted)]}
    left = _leave(launched.fleet, leave, members, world, now)
    sick_due = min((at + SICK_SECONDS for at in fleet.sick.values()), default=float("inf"))
    return Kept(
        left.fleet,
        failed.actions + launched.actions + left.actions,
        failed.notes + drift.notes,
        min(launched.wake_at, left.wake_at, sick_due if sick_due > now else float("inf")),
    )
