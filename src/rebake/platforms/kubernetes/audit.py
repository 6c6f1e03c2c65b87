"""Sessions that people opened in pods, from the audit log of the API server: nothing else in a cluster remembers them.

The log is one JSON object a line, and is moved away when it is large. It is read on where it was left; what was written
before this process began is read once, so that a session of yesterday is still known.

Source: Kubernetes, tasks/debug/debug-cluster/audit; audit.k8s.io/v1 Event.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from rebake.kubernetes.resources import Json, seconds_of
from rebake.platforms.model import Drift

_LOG = logging.getLogger(__name__)
_OPENED = ("exec", "attach")
_NEEDLES = tuple(f'"subresource":"{name}"'.encode() for name in _OPENED)
"""The API server writes no space within an object."""
_MOST = 1000
"""Pods whose sessions are remembered, the latest first to stay."""


@dataclass(frozen=True, slots=True)
class Session:
    """One that was let in. `at`: seconds since the epoch. `command`: its program, without arguments."""

    at: float
    kind: str
    user: str
    command: str


class AuditLog:
    """One file. Not for several threads at once.

    Attributes:
        problem: why it cannot be read; empty when it can.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._known: dict[tuple[str, str], Session] = {}
        self.problem = ""

    def drift(self, instance: str, pod: Json) -> Iterator[Drift]:
        """The latest session in this very pod; one in a pod that had its name before is none of its own."""
        about = pod["metadata"]
        found = self._known.get((str(about["namespace"]), str(about["name"])))
        if found is not None and found.at >= _seconds(about.get("creationTimestamp")):
            yield Drift("session", f"{instance}: {found.kind} by {found.user}", "", found.command)

    def read(self) -> None:
        """Take in what was written since. A file that cannot be read is told once in the log, and by the doctor."""
        try:
            self._take_all()
            self.problem = ""
        except OSError as error:
            before, self.problem = self.problem, f"it cannot be read, so no session in a pod is seen: {error}"
            if before != self.problem:
                _LOG.warning("audit log %s: %s", self._path, self.problem)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_all(self) -> None:
        if self._file is None:
            self._file = self._path.open("rb")
        self._take(self._file)
        there, ours = self._path.stat(), os.fstat(self._file.fileno())
        moved = (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)
        if moved or there.st_size < self._file.tell():  # what was written before it was moved is taken in by now
            self.close()
            self._rest = b""
            self._file = self._path.open("rb")
            self._take(self._file)

    def _take(self, file: IO[bytes]) -> None:
        for line in file:
            if not line.endswith(b"\n"):
                self._rest += line  # the end of it is still being written
                return
            whole, self._rest = self._rest + line, b""
            if any(needle in whole for needle in _NEEDLES):
                with suppress(ValueError, TypeError, KeyError, AttributeError):  # whoever wrote that, it is no event
                    self._note(json.loads(whole))

    def _note(self, event: Any) -> None:
        about = event["objectRef"]
        if about["resource"] != "pods" or about.get("subresource") not in _OPENED:
            return
        if event["stage"] == "RequestReceived" or int((event.get("responseStatus") or {}).get("code", 0)) >= 400:
            return  # not let in, or not yet
        command = parse_qs(urlsplit(str(event["requestURI"])).query).get("command", [""])[0]
        at, user = _seconds(event["requestReceivedTimestamp"]), str(event["user"]["username"])
        key = str(about["namespace"]), str(about["name"])
        self._known.pop(key, None)
        self._known[key] = Session(at, str(about["subresource"]), user, command)
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]


def _seconds(stamp: Any) -> float:
    """Seconds since the epoch of `2026-11-30T12:00:00.123456Z`, without the part that a pod's own stamp lacks."""
    return float(int(seconds_of(str(stamp)))) if stamp else 0.0
