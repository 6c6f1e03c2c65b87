"""Time as a thing one is handed, so that tests and the simulation hand over their own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where now comes from."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's clock, made monotonic within one process.

    A step of the wall clock (NTP, a person) must neither end a hold early nor freeze one, so the wall time is read
    once and the monotonic clock carries it on.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()


def iso(at: float) -> str:
    """RFC 3339, UTC, milliseconds.

    >>> iso(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
