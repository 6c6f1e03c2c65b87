"""Where objects are: every write has a version of its own, and watches read the writes again.

Objects in here are never changed: a write puts another one in their place.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import Json, expired

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
        self._objects: dict[Resource, dict[Key, Json]] = {}
        self._changes: list[Change] = []
        self._oldest = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def all(self, resource: Resource, namespace: str = "") -> list[Json]:
        """In order of namespace and name; of every namespace if none is given."""
        with self.changed:
            items = sorted(self._objects.get(resource, {}).items())
        return [one for (where, _), one in items if not namespace or where == namespace]

    def next_version(self) -> int:
        """The version of the write that is about to be made."""
        return self.version + 1

    def put(self, resource: Resource, item: Json) -> Json:
        """Write an object under its namespace and name, with the next version."""
        metadata = item["metadata"]
        self.version += 1
        item = {**item, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        held = self._objects.setdefault(resource, {})
        key = (metadata.get("namespace", ""), metadata["name"])
        self._note(Change(self.version, resource, held.get(key), item))
        held[key] = item
        return item

    def remove(self, resource: Resource, item: Json) -> Json:
        """Take an object away; what is returned bears the version of its going."""
        metadata = item["metadata"]
        self.version += 1
        gone = {**item, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        self._objects[resource].pop((metadata.get("namespace", ""), metadata["name"]))
        self._note(Change(self.version, resource, gone, None))
        return gone

    def _note(self, change: Change) -> None:
        self._changes.append(change)
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
