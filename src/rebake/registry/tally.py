"""How far a transfer of several blobs is, told as it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rebake.core.units import format_size

_EVERY_SECONDS = 1.0


class Tally:
    """Counts what several threads move, and tells one line now and then.

    Args:
        verb: `push` or `pull`.
        total: bytes in all.
    """

    def __init__(self, verb: str, what: str, total: int, progress: Callable[[str], None]) -> None:
        self._text, self._total, self._progress = f"{verb} {what}", total, progress
        self._lock = threading.Lock()
        self._done, self._told = 0, time.monotonic()

    def moved(self, size: int) -> None:
        """So many bytes more; less than nothing when some are moved again."""
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._told < _EVERY_SECONDS:
                return
            self._told = now
            line = f"{self._text}: {format_size(self._done)} of {format_size(self._total)}"
        self._progress(line)
