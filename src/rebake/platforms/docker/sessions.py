"""Health commands of containers: each an exec session of the engine, looked at until it has ended or its time is over.

An engine cannot end a session, so one that is too slow is left alone, and no other is begun in its container before it
has ended. Nothing here is drift: the session that runs exactly the health command is known by its words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from rebake.errors import RebakeError
from rebake.platforms.health_commands import ended_words
from rebake.release.manifest import Health

_AT_ONCE = 8
_LOOKS = (0.02, 0.05, 0.1, 0.2)
"""Seconds between two looks at a session that runs; the last one again and again."""


class Engine(Protocol):
    """What is asked of the engine. Raises (both): PlatformError."""

    def begin_session(self, container: str, command: list[str], /) -> str: ...

    def session(self, exec_id: str, /) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance's health command is run, and its words."""

    engine: Engine
    container: str
    command: list[str]


class HealthSessions:
    """The sessions under way, at most one for each instance. See `health_commands.Commands`.

    Args:
        place: of an instance; None when it is gone.
    """

    def __init__(self, place: Callable[[str], Place | None]) -> None:
        self._place = place
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="rebake-docker-health")
        self._slow: dict[str, str] = {}
        self._closed = threading.Event()

    def ask(self, instance: str, contract: Health, told: Callable[[str | None], None]) -> None:
        """Run the command once; `told` is called on a thread of this object, unless it is closed first."""

        def run() -> None:
            try:
                failure = self._failure(instance, contract.timeout_ms / 1000)
            except RebakeError as error:
                failure = f"health command: {error.problem}"
            if not self._closed.is_set():
                told(failure)

        if not self._closed.is_set():
            self._pool.submit(run)

    def forget(self, instance: str) -> None:
        """Nobody wants the answer any more."""
        self._slow.pop(instance, None)

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _failure(self, instance: str, seconds: float) -> str | None:
        place = self._place(instance)
        if place is None:
            return "health command: the instance is gone"
        late = f"health command: not done within {seconds:g}s"
        if (slow := self._slow.get(instance)) is not None:
            if _runs(place.engine.session(slow)):
                return late
            self._slow.pop(instance, None)
        exec_id = place.engine.begin_session(place.container, place.command)
        deadline, looks = time.monotonic() + seconds, iter(_LOOKS)
        while _runs(found := place.engine.session(exec_id)):
            left = deadline - time.monotonic()
            if left <= 0 or self._closed.wait(min(left, next(looks, _LOOKS[-1]))):
                self._slow[instance] = exec_id
                return late
        status = None if found is None else found.get("ExitCode")
        return None if status == 0 else f"health command: {ended_words(status)}"


def _runs(session: dict[str, Any] | None) -> bool:
    return bool(session and session.get("Running"))
