"""Instances as the engine is told: from a fleet's places and its pods. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rebake.core.units import format_duration
from rebake.kubernetes.names import FLEET, INSTANCE, REVISION, label_value
from rebake.kubernetes.resources import Json
from rebake.platforms.kubernetes.reasons import end_of, hindrance, is_ready, refused, runs
from rebake.platforms.kubernetes.records import FleetState, Place
from rebake.platforms.kubernetes.requests import inside_port
from rebake.platforms.model import Drift, Instance

STRANGER = "stranger-"
"""Begins the names by which the engine knows pods that nobody asked for; the pod's name follows."""
EVENTS_SECONDS = 3.0
"""Events are asked for only where a pod takes longer than most do."""
Word = Callable[[Json], str | None]
"""What the cluster's events last said of an object."""


def instance_of(
    fleet: FleetState,
    place: Place,
    pod: Json | None,
    *,
    now: float,
    word: Word,
    known_well: bool = False,
    drift: tuple[Drift, ...] = (),
) -> Instance:
    """One place.

    Args:
        pod: the one it was given, as far as it is known.
        known_well: it was seen healthy before, which is not written down yet.
    """
    spec = fleet.record.spec
    ended = place.ended or (None if place.stopping or pod is None else end_of(pod, fleet.record)) or None
    ready = pod is not None and is_ready(pod)
    settled = place.settled or ready or known_well
    if ended:
        state = "exited"
    elif place.stopping:
        state = "stopping"
    else:
        state = "running" if settled else "starting"
    return Instance(
        id=place.id,
        fleet=spec.fleet,
        revision=spec.revision,
        state=state,  # type: ignore[arg-type]
        address=address_of(fleet, pod),
        healthy=_healthy(ended, pod, ready=ready, settled=settled),
        was_healthy=settled,
        started_at=place.at,
        exit=ended,
        detail=ended or _detail(fleet, place, pod, now, word, settled=settled),
        drift=drift,
    )


def _healthy(ended: str | None, pod: Json | None, *, ready: bool, settled: bool) -> bool | None:
    """None until somebody could ask."""
    if ended:
        return False
    return ready if settled or (pod is not None and runs(pod)) else None


def address_of(fleet: FleetState, pod: Json | None) -> str | None:
    """Where a pod is called within its cluster; None while it has no address."""
    ip = ((pod or {}).get("status") or {}).get("podIP")
    if not ip:
        return None
    return f"[{ip}]:{inside_port(fleet.record.spec)}" if ":" in ip else f"{ip}:{inside_port(fleet.record.spec)}"


def _detail(fleet: FleetState, place: Place, pod: Json | None, now: float, word: Word, *, settled: bool) -> str | None:
    """Why it does not serve; None when it does."""
    if place.stopping or (pod is not None and is_ready(pod)):
        return None
    if pod is None:  # a StatefulSet tells of refused pods by events only
        said = word(fleet.item) if now - place.at >= EVENTS_SECONDS else None
        return refused(fleet.item) or said or "waits for its pod"
    age, health = now - place.at, fleet.record.spec.run.health
    kept_back = hindrance(pod, age)
    late = not settled and age * 1000 > health.start_timeout_ms
    # Also where the pod itself says why: an autoscaler may say that it brings a node.
    said = word(pod) if late or settled or age >= EVENTS_SECONDS else None
    last = kept_back[0] if kept_back is not None else said or "not ready yet"
    if late:
        return f"not healthy within {format_duration(health.start_timeout_ms)}: last: {last}"
    return last


def strangers(
    fleets: Sequence[FleetState], pods: Sequence[Json], foreign: Mapping[str, Json], now_leaving: Mapping[str, float]
) -> Iterator[Instance]:
    """Pods with our labels that no fleet of ours made.

    Args:
        foreign: objects with our labels that are no fleets of ours, by name.
        now_leaving: pods that were told to finish.
    """
    names = {fleet.name: fleet for fleet in fleets}
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"] or _is_expected(pod, names, foreign):
            continue
        labels, name = pod["metadata"].get("labels") or {}, str(pod["metadata"]["name"])
        image = str(pod["spec"]["containers"][0].get("image", ""))
        yield Instance(
            id=f"{STRANGER}{name}",
            fleet="",
            revision=str(labels.get(REVISION, "")),
            state="stopping" if name in now_leaving else "running",
            detail=f"nobody asked for this pod; it calls itself {labels.get(INSTANCE, '') or labels.get(FLEET, '')}",
            drift=(Drift("stranger", f"pod {name}", "", image[:200]),),
        )


def _is_expected(pod: Json, names: Mapping[str, FleetState], foreign: Mapping[str, Json]) -> bool:
    """A pod of a fleet; or of one that was just removed, after which the cluster clears up by itself."""
    owner = next((one for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")), None)
    if owner is None or owner["kind"] not in ("ReplicaSet", "StatefulSet"):
        return False
    maker = owner["name"].rpartition("-")[0] if owner["kind"] == "ReplicaSet" else owner["name"]
    if maker in foreign:
        return False
    fleet = names.get(maker)
    own = (pod["metadata"].get("labels") or {}).get(FLEET)
    return fleet is None or own == label_value(fleet.record.spec.fleet)
