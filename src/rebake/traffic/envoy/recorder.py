"""The files that Envoy writes users' requests to: read on from where one stopped, and kept small.

Rules:
- A file is known by its inode and its first line, so that neither a rename nor a used-again inode confuses places.
- A file that was renamed is read on like the one in use until it is removed: an Envoy that is being replaced, or was
  not told yet, still writes to it.
- Only `forget` renames and removes, and only what lies before a cursor that its caller has kept: a kill at any instant
  loses no request and counts none twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rebake.traffic.endpoints import Endpoints
from rebake.traffic.envoy.callers import MINUTE
from rebake.traffic.envoy.records import Tally
from rebake.traffic.ports import Samples

Cursor = Mapping[str, Any]

LARGEST = 16 << 20
"""A file of this size is put aside; one such file is kept, so that a restarted agent knows the last while."""
AT_ONCE = 8 << 20
"""Bytes of one reading: about a quarter of a second's work."""
LINGER_SECONDS = 60.0
"""A file put aside is kept at least this long: longer than a replaced Envoy drains."""
_FIRST_LINE = 2048


class Recorder:
    """The records of one environment.

    Args:
        path: the file that Envoy appends to.
        prefix: what the environment's clusters begin with.
        reopen: tells Envoy to open the file anew.
    """

    def __init__(self, path: Path, prefix: str, reopen: Callable[[], None]) -> None:
        self._path = path
        self._prefix = prefix
        self._reopen = reopen
        self._lock = threading.Lock()
        self._tally = Tally(prefix, Endpoints())
        self._at: Cursor | None = None

    def read(self, cursor: Cursor | None) -> Samples:
        """What was written since `cursor`. Raises: OSError when the disk refuses."""
        with self._lock:
            if self._at is None or cursor != self._at:
                self._begin(cursor or {})
            before = dict((cursor or {}).get("files", {}))
            files, more = self._read_on(before, silent=False)
            samples = self._tally.take()
            self._at = self._cursor(cursor or {}, before, files)
            return Samples(samples, self._at, more)

    def forget(self, cursor: Cursor) -> None:
        """Put the file aside when it is large, and remove those put aside that were read. Raises: as `reopen`."""
        with self._lock:
            files = dict(cursor.get("files", {}))
            aside = self._aside()
            for path in aside[:-1]:
                if _is_done(path, files):
                    path.unlink(missing_ok=True)
            if self._path.exists() and self._path.stat().st_size > LARGEST:
                number = int(aside[-1].suffixes[-2][1:]) + 1 if aside else 1
                self._path.rename(self._path.with_suffix(f".{number:08}.log"))
            if not self._path.exists() and self._aside():
                self._reopen()

    def drop(self) -> None:
        """Remove every file."""
        with self._lock:
            for path in (*self._aside(), self._path):
                path.unlink(missing_ok=True)
            self._at = None

    def _begin(self, cursor: Cursor) -> None:
        """Know again what the reader of this cursor knew: endpoints, who called in the last minute, and requests and
        copies of it that wait for their other half."""
        self._tally = Tally(self._prefix, Endpoints(cursor.get("endpoints", ())))
        minutes = cursor.get("minutes")
        if minutes:
            self._read_on(dict(minutes[0][1]), silent=True, until=dict(cursor.get("files", {})))

    def _cursor(self, cursor: Cursor, before: Mapping[str, int], after: Mapping[str, int]) -> Cursor:
        found: dict[str, Any] = {"files": after, "endpoints": self._tally.endpoints.names}
        if self._tally.callers or self._tally.pairing:
            minute = int(time.time()) // MINUTE
            kept = [m for m in cursor.get("minutes", []) if m[0] >= minute - 1]
            known = kept and kept[-1][0] == minute
            found["minutes"] = kept if known else [*kept, [minute, before]]
        return found

    def _aside(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{_escaped(self._path.stem)}.????????.log"))

    def _read_on(
        self, start: Mapping[str, int], *, silent: bool, until: Mapping[str, int] | None = None
    ) -> tuple[dict[str, int], bool]:
        """Count the lines of every file from its place on. Returns: the new places; whether more is waiting."""
        places: dict[str, int] = {}
        left, more = AT_ONCE, False
        for path in (*self._aside(), self._path):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                name = _name(file.fileno())
                if name is None:
                    continue
                place = start.get(name, 0)
                most = left if until is None else until.get(name, 0) - place
                places[name] = self._read_file(file.fileno(), place, most, silent)
                left -= places[name] - place
                more = more or place + most < os.fstat(file.fileno()).st_size
        return places, until is None and more

    def _read_file(self, handle: int, place: int, most: int, silent: bool) -> int:
        """Count whole lines from `place` on, `most` bytes at most. Returns: the place after the last one."""
        data = os.pread(handle, most, place) if most > 0 else b""
        end = data.rfind(b"\n") + 1
        if not end and len(data) == AT_ONCE:
            return place + len(data)  # no line of Envoy's is so long
        if end:
            self._tally.add(data[: end - 1].split(b"\n"), silent=silent)
        return place + end


def _name(handle: int) -> str | None:
    """What a file is known by; None before its first line is whole."""
    line, newline, _ = os.pread(handle, _FIRST_LINE, 0).partition(b"\n")
    return f"{os.fstat(handle).st_ino:x}-{zlib.crc32(line):08x}" if newline else None


def _is_done(path: Path, files: Mapping[str, int]) -> bool:
    """Whether a file put aside was read to its end, and nobody writes to it any more."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        read = files.get(_name(file.fileno()) or "", 0) >= found.st_size
    return read and time.time() - found.st_mtime > LINGER_SECONDS


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "[?*" else c for c in name)
