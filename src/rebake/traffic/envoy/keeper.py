"""Keeps one Envoy alive: adopts it, starts it, watches it, and starts it again within half a second when it dies.

The watching thread sleeps in the kernel (a pidfd of Envoy, a pipe to be woken), so an idle edge costs nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable

from rebake.errors import RebakeError
from rebake.traffic.envoy.admin import AdminClient
from rebake.traffic.envoy.process import EdgeSettings, EnvoyProcess, Running, await_exit, is_alive

_LOG = logging.getLogger("rebake.edge")
_IDLE_SECONDS = 30.0
_ADOPT_SECONDS = 10.0
_TRY_AGAIN_SECONDS = 0.5
"""After a start that failed, or anything else that did."""
_LONGEST_PAUSE = 0.25
_COLLECT_SECONDS = 0.05
_SHORT_LIFE_SECONDS = 1.0


def failures_after(failures: int, lived_seconds: float) -> int:
    """How often in a row Envoy did not stay up. One that served for a second did: whoever kills it now and then never
    makes users wait longer than a start takes."""
    return failures + 1 if lived_seconds < _SHORT_LIFE_SECONDS else 0


def pause_seconds(failures: int) -> float:
    """How long to wait before the next start: only as long as keeps an Envoy that cannot stay up from taking a core."""
    return min(0.05 * 2.0 ** min(failures, 10), _LONGEST_PAUSE) if failures else 0.0


class EnvoyKeeper:
    """Owns the process of a home.

    Args:
        lock: guards every change; shared with the router, whose documents a start needs.
        before_start: writes every document, called before Envoy starts from zero.
        chores: called now and then and when woken; returns seconds until it wants to be called again, or None.
    """

    def __init__(
        self,
        process: EnvoyProcess,
        settings: EdgeSettings,
        lock: threading.RLock,
        before_start: Callable[[], None],
        chores: Callable[[], float | None],
    ) -> None:
        self._process = process
        self._settings = settings
        self._lock = lock
        self._before_start = before_start
        self._chores = chores
        self._running: Running | None = None
        self._former: list[tuple[Running, float]] = []
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closed = False
        self._failures = 0
        self._lived_since = 0.0
        self._not_before = 0.0
        self._mourned: Running | None = None

    @property
    def running(self) -> Running | None:
        """The Envoy that serves, as last known."""
        return self._running

    def ensure(self) -> Running:
        """Envoy of the wished build, adopted or started, and watched from now on.

        Raises: Permanent `edge-missing`, `edge-failed`.
        """
        with self._lock:
            if self._running is None or not is_alive(self._running):
                self._set(self._adopt() or self._start())
            self._renew()
            running = self._running
            assert running is not None
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="rebake-edge", daemon=True)
                self._thread.start()
            return running

    def wake(self) -> None:
        """Have the chores done now."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_write, b".")

    def close(self) -> None:
        """Stop watching, for good. Envoy goes on."""
        with self._lock:
            if self._closed:
                return
            self.wake()
            self._closed = True
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def stop(self) -> None:
        """End Envoy. It is started again at the next `ensure`."""
        with self._lock:
            self._running = None
            self._former.clear()
            self._process.stop()
        self.wake()

    def _adopt(self) -> Running | None:
        """The Envoy an earlier agent left; those it was replacing are ended after their drain."""
        found = self._process.find()
        if not found:
            return None
        serving, *former = found
        if not _answers(serving):
            _LOG.warning("Envoy (pid %d) does not answer: replaced", serving.pid)
            self._process.stop(grace_seconds=0)
            return None
        self._leave(former)
        return serving

    def _start(self) -> Running:
        self._before_start()
        return self._process.start()

    def _set(self, running: Running) -> None:
        self._running = running
        self._lived_since = time.monotonic()

    def _leave(self, former: Iterable[Running]) -> None:
        """Let Envoys that were replaced finish what they have, for a while."""
        until = time.monotonic() + self._settings.handover_seconds
        self._former += [(running, until) for running in former]

    def _renew(self) -> None:
        """Bring Envoy to the wished build, one replacement at a time."""
        running = self._running
        if running is None or running.build == self._process.build or self._former:
            return
        _LOG.info("Envoy (pid %d) is of another build: hot restart", running.pid)
        self._set(self._process.hot_restart(running))
        self._leave([running])

    def _watch(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                pause = self._tend()
                running = self._running
            self._sleep(running, pause)

    def _sleep(self, running: Running | None, seconds: float) -> None:
        """Until Envoy ends, somebody wakes us, or the time is over."""
        watched = [self._wake_read]
        handle = None
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(running.pid) if running else None
        try:
            if running is not None and not is_alive(running):
                seconds = seconds if seconds <= _TRY_AGAIN_SECONDS else 0.0
            elif handle is not None:
                watched.append(handle)
            select.select(watched, [], [], seconds)
        finally:
            if handle is not None:
                os.close(handle)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _tend(self) -> float:
        """Everything that is due. Returns: seconds until the next. The thread survives whatever fails here."""
        try:
            pause = self._restart_if_dead()
            if pause is not None:
                return pause
            self._process.rotate_log()
            former = self._end_former()
            self._renew()
            due = self._chores()
            return min(_IDLE_SECONDS, former, _IDLE_SECONDS if due is None else due)
        except RebakeError as error:
            _LOG.warning("edge: %s", error.problem)
        except Exception:
            _LOG.exception("edge: a defect of rebake")
        return _TRY_AGAIN_SECONDS

    def _restart_if_dead(self) -> float | None:
        """Start Envoy again: at once, or after a growing pause when it cannot stay up.

        Returns: seconds to wait, None when nothing is dead.
        """
        running = self._running
        if running is None or is_alive(running):
            return None
        if self._mourned != running:
            self._mourned = running
            self._postpone(failures_after(self._failures, time.monotonic() - self._lived_since))
        if (left := self._not_before - time.monotonic()) > 0:
            return left
        _LOG.warning("Envoy (pid %d) ended: starting it again", running.pid)
        running.admin.unlink(missing_ok=True)
        self._postpone(self._failures + 1)  # holds when the start fails; a start that lives is judged at its end
        self._set(self._adopt() or self._start())
        self._failures -= 1
        return 0.0

    def _postpone(self, failures: int) -> None:
        self._failures = failures
        self._not_before = time.monotonic() + pause_seconds(failures)

    def _end_former(self) -> float:
        now = time.monotonic()
        due = [running for running, at in self._former if at <= now]
        self._former = [(r, at) for r, at in self._former if at > now and is_alive(r)]
        if due:
            self._process.end(due)
        if not self._former or self._running is None:
            return _IDLE_SECONDS
        # Envoy takes over what the former one counted whenever it is asked; asked often, little is lost at the end.
        with AdminClient(self._running.admin).session() as session:
            session.collect()
        return _COLLECT_SECONDS


def _answers(running: Running) -> bool:
    deadline = time.monotonic() + _ADOPT_SECONDS
    while not AdminClient(running.admin).is_live():
        if time.monotonic() > deadline or await_exit(running, 0.02):
            return False
    return True
