"""What others wrote into the ledger, noticed though nobody here was woken: requests that wait, since somebody asked in
another home's agent; and what another engine did, which this one goes on with if that one dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rebake.errors import RebakeError
from rebake.ledger.ports import Ledger

_LOG = logging.getLogger("rebake.patrol")

EVERY_SECONDS = 1.0
ALONE_SECONDS = 30.0
"""Where nobody else writes to the ledger everything was woken already: this is a net below it."""


MOST_ENTRIES = 1000
"""Read at a time."""


class Patrol:
    """Looks at a ledger for waiting requests and news, and wakes what they are for.

    Args:
        ours: whether an engine here may act on this environment.
        led: whether it does, and so knows the news.
        wake: called with the environment's key, each time a request of it is seen waiting, and once for its news.
        alone: nobody else writes to this ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        ours: Callable[[str], bool],
        led: Callable[[str], bool],
        wake: Callable[[str], None],
        *,
        alone: bool = False,
    ) -> None:
        self._ledger, self._ours, self._led, self._wake = ledger, ours, led, wake
        self._alone, self._read = alone, -1
        self._every = ALONE_SECONDS if alone else EVERY_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._walk, name="rebake-patrol", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def look(self) -> None:
        """Once. Raises: RebakeError when the ledger cannot be read."""
        waiting = {key.rpartition("/")[0] for key, _ in self._ledger.list("command")}
        news = set() if self._alone else self._news() - waiting
        for key in sorted(waiting):
            if self._ours(key):
                self._wake(key)
        for key in sorted(news):
            if not self._led(key) and self._ours(key):
                self._wake(key)

    def _news(self) -> set[str]:
        """Environments that something was written of since the look before."""
        before, (self._read, _) = self._read, self._ledger.head()
        found: set[str] = set()
        while 0 <= before < self._read:
            entries = self._ledger.entries(after=before, limit=MOST_ENTRIES)
            if not entries:
                break
            found |= {f"{one.service}/{one.environment}" for one in entries if one.service and one.environment}
            before = entries[-1].seq
        return found

    def _walk(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self.look()
            except RebakeError as error:
                _LOG.debug("%s [%s]", error.problem, error.code)  # the ticks say so aloud
            except Exception:
                _LOG.exception("the look for requests failed")
