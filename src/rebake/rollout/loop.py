"""Calls the engine's tick for every environment when it is due. A call may come late or twice; none is missed."""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Sequence

from rebake.core.clock import Clock
from rebake.errors import RebakeError

_LOG = logging.getLogger("rebake.engine")
RETRY_SECONDS = 1.0
LOOK_UP_SECONDS = 10.0
"""The clock is read at least so often: somebody may have set it."""


class Loop:
    """A due-time queue and a few threads. One environment is never ticked by two of them at once.

    Args:
        tick: looks at one environment and returns when to look again.
    """

    def __init__(self, tick: Callable[[str], float], clock: Clock, threads: int = 4) -> None:
        self._tick = tick
        self._clock = clock
        self._due: list[tuple[float, str]] = []
        self._next: dict[str, float] = {}
        self._busy: set[str] = set()
        self._now = 0.0
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._work, name=f"rebake-tick-{n}", daemon=True) for n in range(threads)
        ]

    def start(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.wake(key)
        for thread in self._threads:
            thread.start()

    def wake(self, key: str) -> None:
        """Look at this environment as soon as possible."""
        self._plan(key, 0.0)

    def close(self, seconds: float = 5.0) -> None:
        """End after the ticks under way."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    def _plan(self, key: str, at: float) -> None:
        with self._changed:
            known = self._next.get(key)
            if known is not None and known <= at:
                return
            self._next[key] = at
            heapq.heappush(self._due, (at, key))
            self._changed.notify()

    def _take(self) -> str | None:
        """The next environment that is due and not being looked at; None when the loop ends."""
        with self._changed:
            while not self._ended:
                now, waits = self._read_clock(), []
                while self._due:
                    at, key = self._due[0]
                    if self._next.get(key) != at:
                        heapq.heappop(self._due)  # planned anew since
                    elif at > now:
                        break
                    else:
                        heapq.heappop(self._due)
                        if key in self._busy:
                            waits.append((at, key))
                            continue
                        for entry in waits:
                            heapq.heappush(self._due, entry)
                        del self._next[key]
                        self._busy.add(key)
                        return key
                for entry in waits:
                    heapq.heappush(self._due, entry)
                idle = [at for at, key in self._due if key not in self._busy]
                self._changed.wait(min(*idle, now + LOOK_UP_SECONDS) - now if idle else None)
            return None

    def _read_clock(self) -> float:
        """The time; where the clock was set back, what was planned by it is due: nothing waits for it to come again."""
        now = self._clock.now()
        if now < self._now:
            self._next = dict.fromkeys(self._next, now)
            self._due = [(now, key) for key in self._next]
        self._now = now
        return now

    def _work(self) -> None:
        while (key := self._take()) is not None:
            again = self._guarded(key)
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()
            self._plan(key, again)

    def _guarded(self, key: str) -> float:
        """One tick; a failing one is logged and tried again, it never ends the loop."""
        try:
            return self._tick(key)
        except RebakeError as error:
            _LOG.warning("%s: %s [%s]; next try in %gs", key, error.problem, error.code, RETRY_SECONDS)
        except Exception:
            _LOG.exception("%s: a tick failed; next try in %gs", key, RETRY_SECONDS)
        return self._clock.now() + RETRY_SECONDS
