"""Where objects are: every write has a version of its own, and watches read the writes again.

Objects in here are never changed: a write puts another one in their place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import Json, expired

KEPT_CHANGES = 50_000
"""Writes that watches can still read; of more the older half is forgotten."""
_K = TypeVar("_K")
Key = tuple[str, str]
"""Namespace (empty for what has none) and name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write: `before` is None for a new object, `after` for one that is gone; then `last` is as it went."""

    version: int
    resource: Resource
    before: Json | None
    after: Json | None

    @property
    def last(self) -> Json:
        found = self.after if self.after is not None else self.before
        assert found is not None
        return found


class Store:
    """All objects of one cluster.

    Attributes:
        changed: notified at every write, and whenever time moves; its lock guards everything here.
        version: of the newest write.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = 0
        self._objects: dict[Resource, dict[str, dict[str, Json]]] = {}
        self._dependents: dict[tuple[Resource, str], dict[Key, Json]] = {}
        self._labelled: dict[tuple[Resource, str, str, str], dict[str, Json]] = {}
        self._touched: dict[str, int] = {}
        self._owners: dict[str, set[str]] = {}
        self._changes: list[Change] = []
        self._oldest = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self._objects.get(resource, {}).get(namespace, {}).get(name)

    def all(self, resource: Resource, namespace: str = "") -> list[Json]:
        """In order of namespace and name; of every namespace if none is given."""
        with self.changed:
            held = self._objects.get(resource, {})
            places = [namespace] if namespace else sorted(held)
            return [one for place in places for _, one in sorted(held.get(place, {}).items())]

    def dependents(self, resource: Resource, uid: str) -> list[Json]:
        """Objects that name an owner of this uid, in the same order."""
        with self.changed:
            return [one for _, one in sorted(self._dependents.get((resource, uid), {}).items())]

    def labelled(self, resource: Resource, namespace: str, labels: Mapping[str, str]) -> list[Json]:
        """Objects with all of these labels, in order of name; of one namespace."""
        if not labels:
            return self.all(resource, namespace)
        with self.changed:
            held = [self._labelled.get((resource, namespace, *one), {}) for one in labels.items()]
            fewest = min(held, key=len)
            return [one for name, one in sorted(fewest.items()) if all(name in others for others in held)]

    def touched(self, uid: str) -> int:
        """The version of the newest write of an object, or of what depends on it, at any depth."""
        return self._touched.get(uid, 0)

    def next_version(self) -> int:
        """The version of the write that is about to be made."""
        return self.version + 1

    def put(self, resource: Resource, item: Json) -> Json:
        """Write an object under its namespace and name, with the next version."""
        metadata = item["metadata"]
        self.version += 1
        item = {**item, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        held = self._objects.setdefault(resource, {}).setdefault(metadata.get("namespace", ""), {})
        before = held.get(metadata["name"])
        held[metadata["name"]] = item
        self._index(resource, before, item)
        self._note(Change(self.version, resource, before, item))
        return item

    def remove(self, resource: Resource, item: Json) -> Json:
        """Take an object away; what is returned bears the version of its going."""
        metadata = item["metadata"]
        self.version += 1
        gone = {**item, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        before = self._objects[resource][metadata.get("namespace", "")].pop(metadata["name"])
        self._index(resource, before, None)
        self._note(Change(self.version, resource, gone, None))
        return gone

    def _index(self, resource: Resource, before: Json | None, after: Json | None) -> None:
        for item, there in ((before, False), (after, True)):
            if item is None:
                continue
            metadata = item["metadata"]
            key = (metadata.get("namespace", ""), metadata["name"])
            for label in (metadata.get("labels") or {}).items():
                _hold(self._labelled.setdefault((resource, key[0], *label), {}), key[1], item, there=there)
            for owner in metadata.get("ownerReferences", ()):
                self._owners.setdefault(metadata["uid"], set()).add(owner["uid"])
                _hold(self._dependents.setdefault((resource, owner["uid"]), {}), key, item, there=there)
        for item in (before, after):
            if item is not None:
                self._touch(item["metadata"]["uid"])

    def _touch(self, uid: str) -> None:
        if self._touched.get(uid) == self.version:
            return  # also where objects own each other
        self._touched[uid] = self.version
        for owner in self._owners.get(uid, ()):
            self._touch(owner)

    def _note(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > KEPT_CHANGES:
            del self._changes[: KEPT_CHANGES // 2]
            self._oldest = self._changes[0].version - 1
        self.changed.notify_all()

    def since(self, resource: Resource, version: int) -> Iterator[Change]:
        """Writes of one resource after a version. Raises: ApiError 410 for a version that was forgotten."""
        if version < self._oldest:
            raise expired(f"too old resource version: {version} ({self._oldest})")
        for change in self._changes[self._after(version) :]:
            if change.resource == resource:
                yield change

    def _after(self, version: int) -> int:
        return len(self._changes) if not self._changes else max(0, version - self._changes[0].version + 1)

    def forget(self) -> None:
        """Forget the history, as compaction does: older watches and lists end in 410."""
        with self.changed:
            self._changes.clear()
            self._oldest = self.version
            self.changed.notify_all()

    def is_forgotten(self, version: int) -> bool:
        return version < self._oldest


def _hold(held: dict[_K, Json], key: _K, item: Json, *, there: bool) -> None:
    if there:
        held[key] = item
    else:
        held.pop(key, None)
