"""Containers with our labels that nobody asked for: shown as instances that differ, and ended like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rebake.platforms.docker.engines import Engine, Row
from rebake.platforms.docker.requests import INSTANCE_LABEL, REVISION_LABEL
from rebake.platforms.model import Drift, Instance

PREFIX = "stranger-"
"""Begins the names by which the engine of rollouts knows them; the container's short ID follows."""


class Strangers:
    """The strangers that were told to finish, until they are gone.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._deadlines: dict[str, float] = {}

    def instances(self, rows: Mapping[str, Row]) -> Iterator[Instance]:
        """Those among the containers of an environment.

        Args:
            rows: by name; a stranger's begins with `PREFIX`.
        """
        for name, row in rows.items():
            if name.startswith(PREFIX):
                labels = row.get("Labels") or {}
                container = (row.get("Names") or [str(row["Id"])[:12]])[0].removeprefix("/")
                yield Instance(
                    id=name,
                    fleet="",
                    revision=str(labels.get(REVISION_LABEL, "")),
                    state="stopping" if name in self._deadlines else "running",
                    detail=f"nobody asked for this container; it calls itself {labels.get(INSTANCE_LABEL, '')}",
                    drift=(Drift("stranger", f"container {container}", "", str(row.get("Command", ""))[:200]),),
                )

    def retire(self, engines: Sequence[Engine], name: str, grace_ms: int) -> None:
        """Ask it to finish; end and remove it when it did, or when the grace is over. Raises: PlatformError."""
        container = name.removeprefix(PREFIX)
        for engine in engines:
            found = engine.client.inspect(container)
            if found is None:
                continue
            first = name not in self._deadlines
            deadline = self._deadlines.setdefault(name, self._now() + grace_ms / 1000)
            if not runs(found) or self._now() >= deadline:
                engine.client.remove(container)
                self._deadlines.pop(name, None)
            elif first:
                engine.client.signal(container, "SIGTERM")
            engine.changed()


def runs(found: Mapping[str, Any] | None) -> bool:
    """Whether a container, as the engine's inspection tells of it, runs."""
    return bool(found and (found.get("State") or {}).get("Running"))
