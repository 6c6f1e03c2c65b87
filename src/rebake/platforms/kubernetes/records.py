"""What a fleet's Deployment (or StatefulSet) says of itself in its annotations: the only memory of this platform.

Whoever can read the object knows the fleet: what every instance is, which instances are wished for (its *places*),
which pod each was given, how one ended. A place is written before its effect and goes after it, always with the version
of the object that was read, so that two engines never lose each other's work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rebake.core.codec import dump, load
from rebake.kubernetes.names import MARK
from rebake.kubernetes.resources import Json, Kind
from rebake.kubernetes.settings import KubernetesSettings
from rebake.platforms.model import InstanceSpec

RECORD, REQUEST, PLACES = f"{MARK}/record", f"{MARK}/request", f"{MARK}/places"
TOKEN, COMPLETE, LEAST = f"{MARK}/token", f"{MARK}/complete", f"{MARK}/least"
OWNER = f"{MARK}/owner"


@dataclass(frozen=True, slots=True)
class Place:
    """One instance that is wished for. Times: seconds since the epoch; 0 for never.

    Attributes:
        at: when it was asked for.
        pod, uid: the pod it was given, for good.
        settled: it was healthy at least once.
        ended: how it ended; empty while it has not.
        stopping, deadline: when it was told to finish, and until when it may take.
    """

    id: str
    at: float
    pod: str = ""
    uid: str = ""
    settled: bool = False
    ended: str = ""
    stopping: float = 0.0
    deadline: float = 0.0


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What never changes of a fleet. Attributes: spec: of every instance; its `id` is empty. prestop: seconds."""

    spec: InstanceSpec
    settings: KubernetesSettings
    image: str
    prestop: int = 0


@dataclass(frozen=True, slots=True)
class FleetState:
    """One fleet as its object says.

    Attributes:
        replicas: pods that the object wishes for now.
        token: the newest that came with an effect.
        complete: everything that its pods need is there, so that they may be raised.
        least: what the autoscaler was told to keep at least; 0 where there is none.
        owner: the ledger whose tokens it knows; empty where nobody said.
    """

    kind: Kind
    item: Json
    record: FleetRecord
    places: tuple[Place, ...]
    replicas: int
    token: int
    complete: bool
    least: int
    owner: str = ""

    @property
    def name(self) -> str:
        return str(self.item["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.item["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.item["metadata"]["uid"])

    @property
    def version(self) -> str:
        return str(self.item["metadata"]["resourceVersion"])

    @property
    def leaving(self) -> bool:
        return "deletionTimestamp" in self.item["metadata"]

    @property
    def key(self) -> tuple[str, str]:
        return self.record.spec.service, self.record.spec.environment

    def place(self, instance: str) -> Place | None:
        return next((one for one in self.places if one.id == instance), None)

    def with_place(self, place: Place) -> tuple[Place, ...]:
        """The places, with one exchanged or added."""
        if self.place(place.id) is None:
            return (*self.places, place)
        return tuple(place if one.id == place.id else one for one in self.places)


def read_fleet(kind: Kind, item: Json) -> FleetState | None:
    """The fleet that an object is; None for one that is not ours, or whose record somebody broke."""
    notes = item["metadata"].get("annotations") or {}
    try:
        record, places = _record(notes[RECORD]), _places(notes.get(PLACES, "[]"))
        token, least = int(notes.get(TOKEN, 0)), int(notes.get(LEAST, 0))
    except (KeyError, ValueError, TypeError):
        return None
    replicas = int((item.get("spec") or {}).get("replicas", 1))
    complete, owner = notes.get(COMPLETE) == "true", str(notes.get(OWNER, ""))
    return FleetState(kind, item, record, places, replicas, token, complete, least, owner)


@lru_cache(maxsize=4096)
def _record(text: str) -> FleetRecord:
    return load(FleetRecord, json.loads(text))


@lru_cache(maxsize=4096)
def _places(text: str) -> tuple[Place, ...]:
    return tuple(Place(**row) for row in json.loads(text))


def record_text(record: FleetRecord) -> str:
    return json.dumps(dump(record), separators=(",", ":"), sort_keys=True)


def places_text(places: Iterable[Place]) -> str:
    """Without what is the default, as annotations have little room."""
    return json.dumps([_row(one) for one in places], separators=(",", ":"))


def _row(place: Place) -> dict[str, Any]:
    row: dict[str, Any] = {"id": place.id, "at": round(place.at, 3)}
    for name in ("pod", "uid", "settled", "ended", "stopping", "deadline"):
        if value := getattr(place, name):
            row[name] = round(value, 3) if isinstance(value, float) else value
    return row


def general(spec: InstanceSpec) -> InstanceSpec:
    """What all instances of a fleet share."""
    return replace(spec, id="")
