"""What has to be done with one fleet so that its pods are what its places say. Pure: objects in, intended writes out.

It is asked again after every change, by every engine that looks, so nothing may depend on who did the step before:
whoever was killed between two calls left a state that this goes on from.

Rules:
- A pod is given to a place once, and only to one. What befalls the pod befalls the instance.
- An instance that is told to finish loses its pod first, and only then the fleet gets smaller: a controller that
  shrinks a fleet picks the pods that go, and would pick others. Where none stays there is nothing to pick: then the
  size goes first, as a controller raises a pod anew for each that leaves. So those that leave are gathered a moment.
- Pods that nobody was given go before those that somebody was.
- An autoscaler's number is raised where there are more places than pods, and never lowered while one stays.
- A pod that is not seen is asked for once more before it counts as gone: watches come in no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from rebake.kubernetes.names import INSTANCE, label_value
from rebake.kubernetes.resources import STATEFUL_SETS, Json
from rebake.platforms.kubernetes.reasons import Refusal, end_of, hindrance, is_ready, main_status, passes, refused
from rebake.platforms.kubernetes.records import FleetState, Place

GONE = "its pod was deleted by somebody else"
REFUSED_SECONDS = 2.0
"""How long a refusal to make pods must stand: right after a change it may still be the one of before."""
CLOCKS_SECONDS = 2.0
"""By how much the clock that events go by may be behind ours: an older refusal is one of before."""
ASK_SECONDS = 5.0
"""How often a fleet's events are asked for while it gets no pods."""
GATHER_SECONDS = 0.5
"""How long those that are told to finish wait for the others, while some of their fleet stay."""
_LEAST_GRACE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Deletion:
    """A pod to delete."""

    pod: Json
    grace_seconds: int


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next, in this order; where no instance stays, the new size comes first.

    Attributes:
        unseen: places whose pod is not known: ask for it, then ask here again.
        deletions: pods that go.
        places: as they are to be written.
        replicas: the fleet's new size; None to leave it.
        marks: pods that are to say whose they are, with the instance.
        remove: the fleet has no place any more.
        wake_at: when to look again though nothing changed; seconds since the epoch.
    """

    unseen: tuple[Place, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    places: tuple[Place, ...] = ()
    replicas: int | None = None
    marks: tuple[tuple[Json, str], ...] = ()
    remove: bool = False
    wake_at: float = math.inf


def step(
    fleet: FleetState,
    pods: Sequence[Json],
    now: float,
    *,
    gone: Set[str] = frozenset(),
    patient: Set[str] = frozenset(),
    well: Set[str] = frozenset(),
    told: Refusal | None = None,
) -> Step:
    """The next writes.

    Args:
        pods: the fleet's own.
        gone: uids of pods that are known not to be there.
        patient: uids of pods for which an autoscaler brings a node.
        well: instances that somebody saw healthy.
        told: what events say of pods that could not be made, for a fleet whose object does not say it.
    """
    by_uid = {str(pod["metadata"]["uid"]): pod for pod in pods}
    given = {place.uid for place in fleet.places if place.uid}
    free = sorted((pod for uid, pod in by_uid.items() if uid not in given and _alive(pod)), key=_best_first)
    why = refused(fleet.item)
    places: list[Place] = []
    unseen: list[Place] = []
    wake_at = math.inf
    for place in fleet.places:
        pod = by_uid.get(place.uid)
        place = replace(place, settled=True) if place.id in well and not place.settled else place
        if place.stopping and not place.uid:
            continue
        if place.uid and pod is None and (place.stopping or not place.ended):
            if place.uid not in gone:
                unseen.append(place)
            elif place.stopping:
                continue
            else:
                place = replace(place, ended=GONE)
        elif not place.stopping and not place.ended:
            fresh = told is not None and told.at >= place.at - CLOCKS_SECONDS
            said = why or (told.text if told is not None and fresh else None)
            place, wake = _follow(fleet, place, pod, free, why=said, now=now, patient=patient)
            wake_at = min(wake_at, wake)
        places.append(place)
    sized = _sized(fleet, places, by_uid, free, now)
    return replace(sized, unseen=tuple(unseen), wake_at=min(wake_at, sized.wake_at))


def _follow(
    fleet: FleetState,
    place: Place,
    pod: Json | None,
    free: list[Json],
    *,
    why: str | None,
    now: float,
    patient: Set[str],
) -> tuple[Place, float]:
    """Give a place its pod, or note what became of it. Returns also when to look again."""
    if not place.uid:
        if free:
            pod = free.pop(0)
            place = replace(place, pod=str(pod["metadata"]["name"]), uid=str(pod["metadata"]["uid"]))
        elif why is not None and fleet.complete and not passes(why):
            due = place.at + REFUSED_SECONDS
            if now < due:
                return place, due
            return replace(place, ended=f"could not be started: {why}"), math.inf
        elif fleet.kind == STATEFUL_SETS:
            due = place.at + REFUSED_SECONDS
            return place, due if now < due else now + ASK_SECONDS
    if pod is None:
        return place, math.inf
    ended = end_of(pod, fleet.record)
    if ended is not None:
        return replace(place, ended=ended, settled=place.settled or is_ready(pod)), math.inf
    if is_ready(pod):
        return replace(place, settled=True), math.inf
    age = now - place.at
    kept_back = hindrance(pod, age, patient=place.uid in patient)
    if kept_back is None or place.settled:
        return place, math.inf
    text, over = kept_back
    return (replace(place, ended=f"could not be started: {text}"), math.inf) if over else (place, now + 1.0)


def _sized(
    fleet: FleetState,
    places: list[Place],
    by_uid: Mapping[str, Json],
    free: list[Json],
    now: float,
) -> Step:
    active = [place for place in places if not place.stopping]
    newest = max((place.stopping for place in places if place.uid in by_uid), default=0.0)
    if active and 0 <= now - newest < GATHER_SECONDS:
        grown = least_of(fleet, active) if fleet.complete and fleet.replicas < least_of(fleet, active) else None
        marks = tuple(_marks(places, by_uid))
        return Step(places=tuple(places), replicas=grown, marks=marks, wake_at=newest + GATHER_SECONDS)
    deletions = [
        Deletion(by_uid[place.uid], grace)
        for place in places
        if place.stopping
        and place.uid in by_uid
        and (grace := _grace(fleet, place, by_uid[place.uid], now)) is not None
    ]
    replicas, spare = _size(fleet, active, by_uid, free, leaving={d.pod["metadata"]["uid"] for d in deletions})
    deletions += [Deletion(pod, _own_grace(pod)) for pod in spare]
    return Step(
        deletions=tuple(deletions),
        places=tuple(places),
        replicas=replicas if fleet.complete else None,
        marks=tuple(_marks(places, by_uid)),
        remove=not places,
    )


def wants_to_know(fleet: FleetState, now: float) -> bool:
    """Whether events are to be asked why a fleet gets no pods, as its object does not say it."""
    if fleet.kind != STATEFUL_SETS or not fleet.complete:
        return False
    return any(not one.uid and not one.ended and now - one.at >= REFUSED_SECONDS for one in fleet.places)


def least_of(fleet: FleetState, places: Sequence[Place]) -> int:
    """How many pods the places need at least. A StatefulSet gives up its highest ordinals only."""
    active = [place for place in places if not place.stopping]
    if fleet.kind != STATEFUL_SETS:
        return len(active)
    ordinals = [int(tail) for place in active if (tail := place.pod.rpartition("-")[2]).isdigit()]
    return max([len(active), *(one + 1 for one in ordinals)]) if active else 0


def _size(
    fleet: FleetState, active: list[Place], by_uid: Mapping[str, Json], free: list[Json], leaving: Set[str]
) -> tuple[int | None, list[Json]]:
    """The new size, if it is another one, and free pods that go with it."""
    wished = least_of(fleet, active)
    if fleet.replicas < wished:
        return wished, []
    if fleet.replicas == wished or (active and fleet.record.settings.autoscale is not None):
        return None, []
    alive = sum(1 for uid, pod in by_uid.items() if _alive(pod) and uid not in leaving)
    excess = 0 if fleet.kind == STATEFUL_SETS else max(0, alive - wished)
    return wished, free[::-1][:excess]


def _alive(pod: Json) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return "deletionTimestamp" not in pod["metadata"] and phase not in ("Failed", "Succeeded")


def _best_first(pod: Json) -> tuple[bool, bool, str, str]:
    """Which free pod is given first: a sound one, one that serves, the oldest."""
    metadata = pod["metadata"]
    broken = bool(main_status(pod).get("restartCount"))
    return broken, not is_ready(pod), str(metadata.get("creationTimestamp", "")), str(metadata["name"])


def _grace(fleet: FleetState, place: Place, pod: Json, now: float) -> int | None:
    """How long the pod of a place that leaves may still take; None where it was told already."""
    left = max(_LEAST_GRACE_SECONDS, math.ceil(place.deadline - now))
    if place.deadline > now and not place.ended:
        left += fleet.record.prestop
    if "deletionTimestamp" not in pod["metadata"]:
        return left
    told = int(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
    asked = math.ceil(place.deadline - place.stopping) + fleet.record.prestop
    return left if asked < told and place.deadline - place.stopping < told - fleet.record.prestop - 1 else None


def _own_grace(pod: Json) -> int:
    return int(pod["spec"].get("terminationGracePeriodSeconds", 30))


def _marks(places: Sequence[Place], by_uid: Mapping[str, Json]) -> list[tuple[Json, str]]:
    """Pods that do not say whose they are yet."""
    found = []
    for place in places:
        pod = by_uid.get(place.uid)
        if pod is not None and (pod["metadata"].get("labels") or {}).get(INSTANCE) != label_value(place.id):
            found.append((pod, place.id))
    return found
