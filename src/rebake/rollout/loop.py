"""Calls the engine's tick for every environment when it is due. A call may come late or twice; none is missed."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rebake.core.clock import Clock
from rebake.errors import RebakeError
from rebake.rollout.looks import HELD

_LOG = logging.getLogger("rebake.engine")
RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 0.05
"""A look that is due waits this long for a thread that is at work already; one that was asked for does not wait."""
_AT_ONCE = 0.0
LOOK_UP_SECONDS = 10.0
"""The clock is read at least so often: somebody may have set it."""

HANGS_SECONDS = 120.0
"""A look that takes longer than every time limit inside it: it will not end."""

Tick = Callable[[str, bool], float]


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the loop does.

    Attributes:
        looks, failed: looks that ended since the start, and those of them that an error ended.
        oldest: the environment whose look is under way the longest, and for how many seconds; None when there is none.
        whole: every thread that was started lives.
    """

    looks: int
    failed: int
    oldest: tuple[str, float] | None
    whole: bool

    @property
    def problem(self) -> str | None:
        """What only another process cures."""
        if not self.whole:
            return "a thread of the engine has ended"
        if self.oldest is not None and self.oldest[1] > HANGS_SECONDS:
            return f"a look at {self.oldest[0]} takes {self.oldest[1]:.0f} s"
        return None


class Loop:
    """A due-time queue and a few threads. One environment is never ticked by two of them at once.

    One thread watches the time and calls the others, no more of them than are needed: looks that are due together
    are done one after the other by one thread, which is cheapest, until one of them takes long.

    Args:
        tick: looks at one environment, told whether somebody asked for this look or only the time came; returns when
            to look again.
    """

    def __init__(self, tick: Tick, clock: Clock, threads: int = 4) -> None:
        self._tick = tick
        self._clock = clock
        self._due: list[tuple[float, str]] = []
        self._next: dict[str, float] = {}
        self._asked: set[str] = set()
        self._busy: dict[str, float] = {}
        self._looks = self._failed = 0
        self._now = 0.0
        lock = threading.Lock()
        self._alarm = threading.Condition(lock)
        self._called = threading.Condition(lock)
        self._ended = False
        names = ["rebake-loop", *(f"rebake-tick-{n}" for n in range(threads))]
        works = [self._watch, *[self._work] * threads]
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True) for work, name in zip(works, names, strict=True)
        ]

    def start(self, keys: Sequence[str]) -> None:
        """Look at every one of them, in this order; what is asked for meanwhile comes first."""
        with self._alarm:
            for number, key in enumerate(keys, 1):
                self._asked.add(key)
                self._plan(key, _AT_ONCE + number * 1e-6)
        for thread in self._threads:
            thread.start()

    def wake(self, key: str) -> None:
        """Look at this environment as soon as possible."""
        with self._alarm:
            self._asked.add(key)
            if self._plan(key, _AT_ONCE):
                self._alarm.notify()

    def pulse(self) -> Pulse:
        """How it does now."""
        with self._alarm:
            oldest = min(self._busy.items(), key=lambda found: found[1], default=None)
            since = None if oldest is None else (oldest[0], time.monotonic() - oldest[1])
            return Pulse(self._looks, self._failed, since, all(thread.is_alive() for thread in self._threads))

    def close(self, seconds: float = 5.0) -> None:
        """End after the ticks under way."""
        with self._alarm:
            self._ended = True
            self._alarm.notify_all()
            self._called.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    # With the lock held.

    def _plan(self, key: str, at: float) -> bool:
        """Look at the environment no later than `at`. Returns whether that is the next thing due."""
        known = self._next.get(key)
        if known is not None and known <= at:
            return False
        self._next[key] = at
        if key in self._busy:
            return False  # its own thread plans it when it is done
        heapq.heappush(self._due, (at, key))
        return self._due[0] == (at, key)

    def _first(self) -> tuple[float, str] | None:
        """The next entry that still holds; those planned anew since, or being looked at, are dropped."""
        while self._due:
            at, key = self._due[0]
            if self._next.get(key) == at and key not in self._busy:
                return at, key
            heapq.heappop(self._due)
        return None

    def _take(self) -> str | None:
        """The next environment that is due; None when there is none."""
        now = self._read_clock()
        first = self._first()
        if first is None or first[0] > now:
            return None
        heapq.heappop(self._due)
        del self._next[first[1]]
        self._busy[first[1]] = time.monotonic()
        return first[1]

    def _call(self) -> float | None:
        """Call a thread if the next environment needs one. Returns: seconds until the next call may be needed."""
        now = self._read_clock()
        first = self._first()
        if first is None:
            return None
        late = now - first[0]
        if late < 0:
            return min(-late, LOOK_UP_SECONDS)
        if self._busy and late < PATIENCE_SECONDS:
            return PATIENCE_SECONDS - late
        self._called.notify()
        return PATIENCE_SECONDS

    def _read_clock(self) -> float:
        """The time; where the clock was set back, what was planned by it is due: nothing waits for it to come again."""
        now = self._clock.now()
        if now < self._now:
            self._next = dict.fromkeys(self._next, now)
            self._due = [(now, key) for key in self._next if key not in self._busy]
        self._now = now
        return now

    def _release(self, key: str, again: float) -> None:
        self._busy.pop(key, None)
        self._looks += 1
        at = min(again, self._next.pop(key, again))
        if self._plan(key, at) and at > self._clock.now():
            self._alarm.notify()  # else this thread takes it itself

    # On a thread of the loop.

    def _watch(self) -> None:
        with self._alarm:
            while not self._ended:
                self._alarm.wait(self._call())

    def _work(self) -> None:
        with self._called:
            while not self._ended:
                key = self._take()
                if key is None:
                    self._called.wait()
                    continue
                asked = key in self._asked
                self._asked.discard(key)
                self._called.release()
                try:
                    again = self._guarded(key, asked)
                finally:
                    self._called.acquire()
                self._release(key, again)

    def _guarded(self, key: str, asked: bool) -> float:
        """One tick; a failing one is logged and tried again, it never ends the loop."""
        try:
            return self._tick(key, asked)
        except RebakeError as error:
            usual = error.code == HELD
            level = logging.DEBUG if usual else logging.WARNING
            _LOG.log(level, "%s: %s [%s]; next try in %gs", key, error.problem, error.code, RETRY_SECONDS)
        except Exception:
            _LOG.exception("%s: a tick failed; next try in %gs", key, RETRY_SECONDS)
            usual = False
        with self._alarm:
            self._failed += not usual
        return self._clock.now() + RETRY_SECONDS
