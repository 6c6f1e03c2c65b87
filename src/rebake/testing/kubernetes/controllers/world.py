"""What controllers share: reading the store, writing as themselves, events, and when to look again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.deletion import Deleter, Deletion
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.special import Logs
from rebake.testing.kubernetes.status import Json
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Options, Place
from rebake.testing.kubernetes.writer import Writer

MANAGER = "kube-controller-manager"


class Controller(Protocol):
    """One part of the control plane."""

    def step(self) -> None:
        """Do what can be done now; calling it again at the same time changes nothing more in the end."""
        ...


@dataclass(slots=True)
class World:
    """One cluster, as its controllers see it.

    Attributes:
        now: seconds since the epoch.
        wakes: times at which something will be due, gathered anew in each round of steps.
        told: names of events by what they are about: an object's uid, reason, message.
    """

    store: Store
    writer: Writer
    deleter: Deleter
    now: Callable[[], float]
    logs: Logs
    wakes: list[float] = field(default_factory=list)
    told: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def all(self, resource: Resource) -> list[Json]:
        return self.store.all(resource)

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self.store.get(resource, namespace, name)

    def time(self) -> str:
        """Now, as objects write it."""
        return self.writer.time()

    def wake(self, at: float) -> None:
        if at > self.now():
            self.wakes.append(at)

    def create(self, resource: Resource, namespace: str, item: Json, manager: str = MANAGER) -> Json:
        """Raises: ApiError, where admission refuses."""
        return self.writer.create(Place(resource, namespace), item, Options(manager, system=True)).item

    def update(self, resource: Resource, item: Json, manager: str = MANAGER) -> Json:
        metadata = item["metadata"]
        at = Place(resource, metadata.get("namespace", ""), metadata["name"])
        return self.writer.update(at, item, Options(manager, system=True)).item

    def current(self, resource: Resource, item: Json) -> Json:
        """An object as it is now. Raises: ApiError 404."""
        metadata = item["metadata"]
        return self.writer.current(Place(resource, metadata.get("namespace", ""), metadata["name"]))

    def put_status(self, resource: Resource, item: Json, status: Json, manager: str = MANAGER) -> Json:
        """Write a status, if it is another one."""
        if item.get("status") == status:
            return item
        metadata = item["metadata"]
        options, after = Options(manager, system=True), {**copy.deepcopy(item), "status": copy.deepcopy(status)}
        at = Place(resource, metadata.get("namespace", ""), metadata["name"], "status")
        return self.writer.update(at, after, options).item

    def delete(self, resource: Resource, item: Json, policy: str = "") -> None:
        metadata = item["metadata"]
        self.deleter.delete(resource, metadata.get("namespace", ""), metadata["name"], Deletion(policy=policy))

    def owned(self, resource: Resource, owner: Json) -> list[Json]:
        """What an object controls."""
        uid = owner["metadata"]["uid"]
        return [
            one
            for one in self.store.dependents(resource, uid)
            if any(o["uid"] == uid and o.get("controller") for o in one["metadata"].get("ownerReferences", ()))
        ]

    def event(self, about: Json, reason: str, message: str, *, warning: bool = False, source: str = MANAGER) -> None:
        """Tell of something, once: what is told again is counted."""
        metadata, place = about["metadata"], about["metadata"].get("namespace", "default")
        told = (metadata["uid"], reason, message)
        one = self.store.get(kinds.EVENTS, place, self.told.get(told, ""))
        if one is not None:
            if one["lastTimestamp"] != self.writer.time():
                self.update(kinds.EVENTS, {**one, "count": one["count"] + 1, "lastTimestamp": self.writer.time()})
            return
        reference = {"kind": about["kind"], "namespace": place, "name": metadata["name"], "uid": metadata["uid"]}
        reference |= {"apiVersion": about["apiVersion"], "resourceVersion": metadata["resourceVersion"]}
        times = {"firstTimestamp": self.writer.time(), "lastTimestamp": self.writer.time(), "count": 1}
        kind = {"type": "Warning" if warning else "Normal", "reason": reason, "message": message}
        name = {"metadata": {"name": f"{metadata['name']}.{self.writer.suffix(16)}", "namespace": place}}
        said = {**name, "involvedObject": reference, **kind, **times, "source": {"component": source}}
        made = self.create(kinds.EVENTS, place, {**said, "reportingComponent": source, "reportingInstance": ""})
        self.told[told] = made["metadata"]["name"]


class Rest:
    """Looks at objects one by one, and passes over those for which nothing can have changed.

    That is so while nothing was written of an object and of what it owns since the last look at it, and nothing that
    this look waits for is due. A step over many objects costs little then, as real controllers' queues do.
    """

    def __init__(self, world: World, look: Callable[[Json], None]) -> None:
        self._world, self._look = world, look
        self._seen: dict[str, tuple[int, list[float]]] = {}

    def step(self, items: Sequence[Json]) -> None:
        now, wakes, seen = self._world.now(), self._world.wakes, {}
        for item in items:
            uid = item["metadata"]["uid"]
            touched = self._world.store.touched(uid)
            known = self._seen.get(uid)
            if known is not None and known[0] == touched and not any(at <= now for at in known[1]):
                wakes += known[1]
                seen[uid] = known
                continue
            before = len(wakes)
            self._look(item)
            seen[uid] = (touched, wakes[before:])
        self._seen = seen


def owner_reference(owner: Json) -> Json:
    """Of something that an object controls."""
    metadata = owner["metadata"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"]}
    return {**reference, "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True}


def seconds(timestamp: str) -> float:
    """An object's time as seconds since the epoch."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def with_condition(
    conditions: Sequence[Mapping[str, object]], kind: str, said: tuple[str, str, str], now: str, **more: object
) -> list[Json]:
    """The conditions with this one in place; its transition time moves only when its status does.

    Args:
        said: status, reason, message.
    """
    status, reason, message = said
    before = next((one for one in conditions if one["type"] == kind), None)
    changed = before is None or before["status"] != status
    at = now if changed or before is None else before["lastTransitionTime"]
    row: Json = {"type": kind, "status": status, "lastTransitionTime": at, **more}
    row |= {name: text for name, text in (("reason", reason), ("message", message)) if text}
    if before is None:
        return [*(dict(one) for one in conditions), row]
    return [row if one["type"] == kind else dict(one) for one in conditions]


def condition(item: Json, kind: str) -> Json | None:
    return next((one for one in item.get("status", {}).get("conditions", ()) if one["type"] == kind), None)
