"""One thread that does what is due: environments whose objects changed, and those whose time has come."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable

from rebake.core.clock import Clock
from rebake.errors import RebakeError

Key = tuple[str, str]
"""Service and environment."""
_LONGEST_WAIT_SECONDS = 0.5
"""Times are told by a clock that may be set on; so often it is looked at while something is due."""
_GATHERED_SECONDS = 0.03
"""How long a change waits for the next ones: launches of one fleet come together, and so do its pods."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_LOG = logging.getLogger(__name__)


class Keeper:
    """Calls `work` for each key that was told, one after the other; a key told ten times meanwhile is done once.

    Args:
        work: returns when to come again, seconds since the epoch. What it raises is tried again, less and less often.
    """

    def __init__(self, clock: Clock, work: Callable[[Key], float]) -> None:
        self._clock, self._work = clock, work
        self._told: dict[Key, float] = {}  # by key, when it is due on the monotonic clock
        self._due: list[tuple[float, Key]] = []
        self._pauses: dict[Key, float] = {}
        self._changed = threading.Condition()
        self._over = self._busy = False
        self._thread: threading.Thread | None = None

    def tell(self, key: Key) -> None:
        """It returns at once."""
        with self._changed:
            if self._over:
                return
            self._told.setdefault(key, time.monotonic() + _GATHERED_SECONDS)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rebake-kubernetes-keeper", daemon=True)
                self._thread.start()
            self._changed.notify()

    def at(self, key: Key, when: float) -> None:
        """Come to a key at a time, seconds since the epoch."""
        if when == float("inf"):
            return
        with self._changed:
            heapq.heappush(self._due, (when, key))
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing is told and nothing is being done; what is due later apart."""
        with self._changed:
            return not self._told and not self._busy

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)

    def _run(self) -> None:
        while (key := self._next()) is not None:
            try:
                self.at(key, self._work(key))
                self._pauses.pop(key, None)
            except RebakeError as error:
                _LOG.warning("%s/%s: %s", *key, error.problem)
                self._again(key)
            except Exception:
                if not self._over:
                    _LOG.exception("%s/%s", *key)
                self._again(key)

    def _again(self, key: Key) -> None:
        pause = self._pauses.get(key, _PAUSE_SECONDS)
        self._pauses[key] = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        self.at(key, self._clock.now() + pause)

    def _next(self) -> Key | None:
        with self._changed:
            self._busy = False
            while not self._over:
                now = self._clock.now()
                while self._due and self._due[0][0] <= now:
                    self._told.setdefault(heapq.heappop(self._due)[1], time.monotonic())
                wait = min(self._due[0][0] - now, _LONGEST_WAIT_SECONDS) if self._due else None
                if self._told:
                    key = next(iter(self._told))  # told first, so due first
                    left = self._told[key] - time.monotonic()
                    if left <= 0:
                        del self._told[key]
                        self._busy = True
                        return key
                    wait = left if wait is None else min(wait, left)
                self._changed.wait(wait)
        return None
