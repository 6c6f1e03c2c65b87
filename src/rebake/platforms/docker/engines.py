"""One engine as this home sees it: its containers with our label, kept current by the engine's own events.

While the events flow, a look costs nothing; while they do not, every look asks the engine, and says so when it cannot.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rebake.errors import RebakeError
from rebake.platforms.docker.client import DockerClient, EngineFacts
from rebake.platforms.docker.requests import HOME_LABEL, network_request

_LOG = logging.getLogger(__name__)
_AGAIN_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
Row = Mapping[str, Any]


class Engine:
    """See the module.

    Args:
        tag: names the home.
        since: seconds since the epoch; what happened to our containers after it is told, as far as the engine knows.
        on_event: told every event of our containers, on a thread of this object.
        on_reach: told when the engine began, or ceased, to answer.
    """

    def __init__(
        self,
        client: DockerClient,
        tag: str,
        since: float,
        on_event: Callable[[Mapping[str, Any]], None],
        on_reach: Callable[[], None],
    ) -> None:
        self.client = client
        self._tag, self._since = tag, since
        self._on_event, self._on_reach = on_event, on_reach
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._rows: tuple[Row, ...] | None = None
        self._generation = 0
        self._facts: EngineFacts | None = None
        self._networked = False
        self._stop_listening: Callable[[], None] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="rebake-docker-events", daemon=True)
        self._thread.start()

    def rows(self) -> tuple[Row, ...]:
        """Every container of this home. Raises: PlatformError when the engine does not say."""
        with self._lock:
            if self._rows is not None:
                return self._rows
            generation = self._generation
        rows = tuple(self.client.containers({HOME_LABEL: self._tag}))
        with self._lock:
            if self._stop_listening is not None and generation == self._generation:
                self._rows = rows
        return rows

    def changed(self) -> None:
        """What is known of its containers is of yesterday."""
        with self._lock:
            self._rows = None
            self._generation += 1

    def facts(self) -> EngineFacts:
        if self._facts is None:
            self._facts = self.client.facts()
        return self._facts

    def network(self) -> None:
        """Make the home's own network, once: an engine would make two of one name, or refuse the second."""
        with self._making:
            if not self._networked:
                self.client.make_network(network_request(self._tag))
                self._networked = True

    def forget_network(self) -> None:
        """It may have been removed: look again before the next launch."""
        self._networked = False

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            stop = self._stop_listening
        if stop is not None:
            stop()
        self._thread.join(timeout=5)

    # On the listening thread.

    def _listen(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                for event in self.client.events(f"{HOME_LABEL}={self._tag}", self._since, self._opened):
                    failures = 0
                    self._heard(event)
            except RebakeError as error:
                _LOG.debug("%s [%s]", error.problem, error.code)  # whoever looks is told the same
            except Exception:
                if not self._closed.is_set():
                    _LOG.exception("listening to the engine")
            self._lost()
            self._closed.wait(_AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)])
            failures += 1

    def _opened(self, stop: Callable[[], None]) -> None:
        with self._lock:
            self._stop_listening = stop
        self._facts, self._networked = None, False  # it may be another engine, or of another version
        self.changed()
        if self._closed.is_set():
            stop()
        else:
            self._on_reach()

    def _lost(self) -> None:
        with self._lock:
            heard, self._stop_listening = self._stop_listening is not None, None
        self.changed()
        if heard and not self._closed.is_set():
            self._on_reach()

    def _heard(self, event: Mapping[str, Any]) -> None:
        self._since = max(self._since, int(event.get("timeNano") or 0) / 1e9)
        self.changed()
        try:
            self._on_event(event)
        except Exception:  # one container's trouble must not end the listening to all others
            _LOG.exception("an event of the engine")
