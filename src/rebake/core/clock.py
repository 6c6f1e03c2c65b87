"""Time as a thing one is handed, so that tests and the simulation hand over their own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

SET_SECONDS = 0.5
"""Two clocks that differ by less were not set: they were read at slightly different instants."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a machine, and the time that somebody's clock says it began at, seconds since the epoch.

    A boot begins once. So when two clocks name different times for the same boot, one was set in between, and by how
    much is known: see `set_between`.
    """

    id: str
    at: float


class Clock(Protocol):
    """Where now comes from."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def boot(self) -> Boot | None:
        """The machine's boot, by this clock; None where a machine does not tell."""
        ...


class SystemClock:
    """The machine's clock, made monotonic within one process.

    A step of the wall clock (NTP, a person) must neither end a hold early nor freeze one, so the wall time is read
    once and the time since the boot, which nobody can set, carries it on; also through a machine's sleep.
    """

    def __init__(self) -> None:
        self._began_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        return self._began_at + time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot(self) -> Boot | None:
        return Boot(boot_id(), self._began_at)


@cache
def boot_id() -> str:
    """Names this boot of the machine. Source: proc_sys_kernel(5), random/boot_id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def set_between(then: Boot | None, now: Boot | None) -> float:
    """By how many seconds the clock was set between two readings of one boot; 0 where nobody can tell.

    >>> set_between(Boot("a", 100.0), Boot("a", 3700.0)), set_between(Boot("a", 100.0), Boot("b", 3700.0))
    (3600.0, 0.0)
    """
    if then is None or now is None or then.id != now.id:
        return 0.0
    by = now.at - then.at
    return by if abs(by) >= SET_SECONDS else 0.0


def iso(at: float) -> str:
    """RFC 3339, UTC, milliseconds.

    >>> iso(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
