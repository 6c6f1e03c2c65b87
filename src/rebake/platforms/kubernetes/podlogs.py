"""What instances wrote: of their pods while those are there, and for a while after."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rebake.errors import PlatformError
from rebake.platforms import logs
from rebake.platforms.kubernetes.records import Place

if TYPE_CHECKING:
    from rebake.kubernetes.client import KubeClient

_KEPT_LINES = 10_000
_OFTEN_SECONDS = 1.0


class PodLogs:
    """Args: folder: of this home, for logs of instances that are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def read(self, client: KubeClient, namespace: str, place: Place, lines: int) -> Sequence[str]:
        """The last lines. Of a container that ended and was started again, those of the one that ended."""
        if place.ended and (before := client.logs(namespace, place.pod, lines, previous=True)):
            return before
        return client.logs(namespace, place.pod, lines)

    def keep(self, client: KubeClient, namespace: str, place: Place) -> None:
        """Keep what it wrote so far, as its pod is about to go. Once a second at most."""
        with self._lock:
            due = time.monotonic() - self._kept_at.get(place.id, -_OFTEN_SECONDS) >= _OFTEN_SECONDS
            if not due or not place.pod:
                return
            self._kept_at[place.id] = time.monotonic()
        with suppress(PlatformError, OSError):
            found = self.read(client, namespace, place, _KEPT_LINES)
            if found:
                self._folder.mkdir(parents=True, mode=0o700, exist_ok=True)
                fresh = self._folder / f".{place.id}"
                fresh.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
                logs.keep(fresh, self._folder, place.id)

    def kept(self, instance: str, lines: int) -> Sequence[str]:
        return list(logs.read(self._folder / f"{instance}.log", lines))
