"""One thread that watches all instances: probes their health, notices their end, and keeps timers.

It waits on one epoll: connections of probes, descriptors of ends, and a wake-up. Nothing here decides; what was seen is
kept for `observe`, and who is interested is told.

Most of the time every instance is healthy, and the watch must cost next to nothing then: instances with the same
interval are asked in one waking, and their answers are picked up together a moment later, in a second one. Whoever is
not healthy is listened to without delay.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from rebake.platforms.health import (
    STARTING_COMMAND_SECONDS,
    STARTING_INTERVAL_SECONDS,
    Condition,
    after_probe,
    is_whole,
    judge_answer,
    request_bytes,
)
from rebake.platforms.health_commands import Commands, HealthCommands, Start
from rebake.release.manifest import Health

_LOG = logging.getLogger(__name__)
_ANSWER_LIMIT = 1 << 16
_HOST = "127.0.0.1"
_STARTING_GRID_SECONDS = 0.025
_COLLECT_SECONDS = 0.025
"""Answers of healthy instances are picked up so much later, where interval and timeout are ten times as long."""


@dataclass(eq=False, slots=True)
class Watched:
    """One instance under watch. Changed by the watcher's thread only.

    Attributes:
        port: on this machine's loopback, where its health is asked for.
        open_end: opens a descriptor that can be read once the instance has ended, None if it has; where there is no
            such call, somebody else notices the end and says `forget`.
        end: that descriptor.
    """

    id: str
    service: str
    environment: str
    port: int
    contract: Health
    condition: Condition = field(default_factory=Condition)
    open_end: Callable[[], int | None] | None = None
    end: int | None = None
    ended: bool = False


@dataclass(eq=False, slots=True)
class _Probe:
    """One request under way. `sock` is None when it is over."""

    watched: Watched
    sock: socket.socket | None
    deadline: float
    data: bytes = b""
    decided: bool = False

    def may_wait(self) -> bool:
        """Whether nothing is lost by picking the answer up a moment later."""
        contract = self.watched.contract
        shortest_ms = min(contract.interval_ms, contract.timeout_ms)
        return bool(self.watched.condition.healthy) and shortest_ms >= 10_000 * _COLLECT_SECONDS

    def request(self) -> bytes:
        return request_bytes(self.watched.contract, _HOST, self.watched.port)


def _no_command(_instance: str) -> int:
    raise OSError(errno.ENOSYS, "this platform runs no health commands")


class Watcher:
    """Watches instances until it is closed.

    Args:
        on_end: told once, on the watcher's thread, when an instance ended; it records how.
        on_first_health: told when an instance passed for the first time; says why that does not count, or None.
        on_change: told (service, environment) when health or liveness changed.
        run_health: runs the health command of an instance that has one; its process number.
        sessions: runs health commands where they are no processes of this program.
    """

    def __init__(
        self,
        on_end: Callable[[Watched], None],
        on_first_health: Callable[[Watched], str | None],
        on_change: Callable[[str, str], None],
        run_health: Start = _no_command,
        sessions: Commands | None = None,
    ) -> None:
        self._on_end, self._on_first_health, self._on_change = on_end, on_first_health, on_change
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._files: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._inbox: list[Callable[[], None]] = []
        self._asked: list[_Probe] = []
        self.commands = HealthCommands(run_health, self._listen_to, self._drop_file, self._at)
        self._asks: Commands = sessions or self.commands
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._closed = False
        self._released = False
        self._thread = threading.Thread(target=self._run, name="rebake-watcher", daemon=True)
        self._thread.start()

    # Called from any thread.

    def watch(self, watched: Watched) -> None:
        """Begin to watch. Idempotent by id."""
        with self._lock:
            if watched.id in self._watched:
                return
            self._watched[watched.id] = watched
        self._call(lambda: self._begin(watched))

    def forget(self, instance: str) -> None:
        """Stop watching; nothing is told any more."""
        with self._lock:
            watched = self._watched.pop(instance, None)
        if watched is not None:
            self._call(lambda: self._drop_end(watched))
            self._call(lambda: self._asks.forget(instance))

    def seen(self, instance: str) -> Watched | None:
        with self._lock:
            return self._watched.get(instance)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something on the watcher's thread, later."""
        self._call(lambda: self._at(seconds, action))

    def close(self) -> None:
        """End the thread. Instances are not touched."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _call(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._inbox.append(action)
        self._wake()

    def _wake(self) -> None:
        """The thread closes the descriptor when it ends, which it may do at any moment; hence the lock."""
        with self._lock:
            if not self._released:
                os.eventfd_write(self._wake_fd, 1)

    # On the watcher's thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                for fd, events in self._epoll.poll(self._patience()):
                    self._guard(partial(self._dispatch, fd, events))
                self._fire()
        finally:
            self._release()

    def _patience(self) -> float:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else 3600.0

    def _dispatch(self, fd: int, events: int) -> None:
        if fd == self._wake_fd:
            os.eventfd_read(self._wake_fd)
            with self._lock:
                inbox, self._inbox = self._inbox, []
            for action in inbox:
                self._guard(action)
        elif fd in self._files:
            self._files[fd](events)

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            self._guard(heapq.heappop(self._timers)[2])

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        self._at_moment(time.monotonic() + seconds, action)

    def _at_moment(self, due: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (due, next(self._order), action))

    @staticmethod
    def _guard(action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # one instance's trouble must not stop the watch over the others
            _LOG.exception("the watcher met an unexpected error")

    def _current(self, watched: Watched) -> bool:
        return self.seen(watched.id) is watched and not watched.ended

    def _begin(self, watched: Watched) -> None:
        if not self._current(watched):
            return
        if watched.open_end is not None:
            watched.end = watched.open_end()
            if watched.end is None:
                self._end(watched)
                return
            self._listen_to(watched.end, lambda _: self._end(watched))
        self._probe(watched)

    def _end(self, watched: Watched) -> None:
        if not watched.ended:
            watched.ended = True
            self._asks.forget(watched.id)
            try:
                self._on_end(watched)
            finally:
                self._drop_end(watched)
                self._on_change(watched.service, watched.environment)

    def _drop_end(self, watched: Watched) -> None:
        fd, watched.end = watched.end, None
        if fd is not None:
            self._drop_file(fd)
            os.close(fd)

    def _listen_to(self, fd: int, heard: Callable[[int], None]) -> None:
        self._files[fd] = heard
        self._epoll.register(fd, select.EPOLLIN)

    def _drop_file(self, fd: int) -> None:
        if self._files.pop(fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fd)

    # Probes.

    def _probe(self, watched: Watched) -> None:
        if not self._current(watched):
            return
        contract = watched.contract
        if not contract.path:
            self._probe_without_http(watched)
            return
        interval, timeout = contract.interval_ms / 1000, contract.timeout_ms / 1000
        grid = interval
        if not watched.condition.was_healthy:
            interval, grid = min(interval, STARTING_INTERVAL_SECONDS), _STARTING_GRID_SECONDS
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        probe = _Probe(watched, sock, time.monotonic() + timeout)
        self._at_moment(_together(interval, grid), lambda: self._next(watched, probe))
        if timeout < interval:
            self._at(timeout, lambda: self._expire(probe))
        self._connect(probe)

    def _probe_without_http(self, watched: Watched) -> None:
        """Ask by the command; where there is none, an instance that stayed up for its interval is well.

        The end of a process is seen by itself, so one that is well and has no command is not looked at again.
        """
        contract, condition = watched.contract, watched.condition
        if contract.command:
            answered = lambda failure: self._call(lambda: self._answered(watched, failure))  # noqa: E731
            self._asks.ask(watched.id, contract, answered)
        elif condition.was_healthy:  # adopted
            self._judge(watched, None)
        else:
            self._at(contract.interval_ms / 1000, lambda: self._stayed_up(watched))

    def _stayed_up(self, watched: Watched) -> None:
        if not self._current(watched):
            return
        self._judge(watched, None)
        if not watched.condition.healthy:
            self._probe(watched)

    def _answered(self, watched: Watched, failure: str | None) -> None:
        if not self._current(watched):
            return
        self._judge(watched, failure)
        interval = watched.contract.interval_ms / 1000
        if not watched.condition.was_healthy:
            interval = min(interval, STARTING_COMMAND_SECONDS)
        self._at(interval, lambda: self._probe(watched))

    def _next(self, watched: Watched, probe: _Probe) -> None:
        """The interval is over: probe again, unless the last probe still runs (then it goes on when that is over)."""
        self._expire(probe)
        if probe.sock is None:
            self._probe(watched)
        else:
            due = _together(STARTING_INTERVAL_SECONDS, _STARTING_GRID_SECONDS)
            self._at_moment(due, lambda: self._next(watched, probe))

    def _connect(self, probe: _Probe) -> None:
        """Connect and send. To our own machine both are done at once; only a full queue makes us wait."""
        sock = probe.sock
        assert sock is not None
        code = sock.connect_ex((_HOST, probe.watched.port))
        if code not in (0, errno.EINPROGRESS):
            self._decide(probe, _refusal(code))
            self._finish(probe)
            return
        try:
            sock.send(probe.request())
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOTCONN):
                self._listen(probe, select.EPOLLOUT)
            else:
                self._decide(probe, _refusal(error.errno or 0))
                self._finish(probe)
            return
        if probe.may_wait():
            self._collect_later(probe)
        else:
            self._listen(probe, select.EPOLLIN)

    def _listen(self, probe: _Probe, wanted: int) -> None:
        if probe.sock is not None:
            self._files[probe.sock.fileno()] = lambda events: self._ready(probe, events)
            self._epoll.register(probe.sock.fileno(), wanted)

    def _collect_later(self, probe: _Probe) -> None:
        if not self._asked:
            self._at(_COLLECT_SECONDS, self._collect)
        self._asked.append(probe)

    def _collect(self) -> None:
        """Pick up the answers of all that were asked together; who has not answered yet is listened to."""
        asked, self._asked = self._asked, []
        for probe in asked:
            self._guard(partial(self._ready, probe, select.EPOLLIN))
            self._guard(partial(self._listen, probe, select.EPOLLIN))

    def _ready(self, probe: _Probe, events: int) -> None:
        sock = probe.sock
        if sock is None:
            return
        try:
            if events & select.EPOLLOUT:
                self._send(probe, sock)
            else:
                self._receive(probe, sock)
        except BlockingIOError:
            return
        except OSError as error:
            self._decide(probe, _refusal(error.errno or 0))
            self._finish(probe)

    def _send(self, probe: _Probe, sock: socket.socket) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.send(probe.request())
        self._epoll.modify(sock.fileno(), select.EPOLLIN)

    def _receive(self, probe: _Probe, sock: socket.socket) -> None:
        """Decide as soon as the status is there, but read the rest: to close early would look to the server like a
        caller that broke off."""
        data = sock.recv(_ANSWER_LIMIT)
        probe.data += data
        if not probe.decided:
            decided, failure = judge_answer(probe.data, probe.watched.contract, ended=not data)
            if decided:
                self._decide(probe, failure)
        if not data or len(probe.data) > _ANSWER_LIMIT or is_whole(probe.data):
            self._finish(probe)

    def _expire(self, probe: _Probe) -> None:
        if probe.sock is not None and time.monotonic() >= probe.deadline:
            contract = probe.watched.contract
            self._decide(probe, f"GET {contract.path}: no answer within {contract.timeout_ms / 1000:g}s")
            self._finish(probe)

    def _finish(self, probe: _Probe) -> None:
        sock, probe.sock = probe.sock, None
        if sock is not None:
            self._drop_file(sock.fileno())
            sock.close()

    def _decide(self, probe: _Probe, failure: str | None) -> None:
        watched = probe.watched
        if probe.decided or not self._current(watched):
            return
        probe.decided = True
        self._judge(watched, failure)

    def _judge(self, watched: Watched, failure: str | None) -> None:
        before = watched.condition
        after = after_probe(before, watched.contract, failure)
        if after.was_healthy and not before.was_healthy:
            refusal = self._on_first_health(watched)
            after = after if refusal is None else after_probe(before, watched.contract, refusal)
        watched.condition = after
        if after.healthy != before.healthy:
            self._on_change(watched.service, watched.environment)

    def _release(self) -> None:
        self._asks.close()
        for fd in list(self._files):
            self._drop_file(fd)
        with self._lock:
            watched, self._watched = list(self._watched.values()), {}
        for one in watched:
            self._drop_end(one)
        with self._lock:
            self._released = True
            self._epoll.close()
            os.close(self._wake_fd)


def _together(interval: float, grid: float) -> float:
    """The moment of the next probe: about an interval from now, on a grid that all with the same interval share."""
    return math.ceil((time.monotonic() + max(interval - grid / 2, 0.0)) / grid) * grid


def _refusal(code: int) -> str:
    if code == errno.ECONNREFUSED:
        return "connection refused"
    if code == errno.ECONNRESET:
        return "connection reset"
    return os.strerror(code).lower()
