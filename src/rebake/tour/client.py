"""The inside of the load client: jobs, connections, and what becomes of them. Runs in one event loop."""

from __future__ import annotations

import asyncio
import errno
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import cast

from rebake.tour.figures import Report, Tally
from rebake.tour.http1 import AnswerReader, Malformed

_SWEEP_SECONDS = 0.1  # how often deadlines are looked at: one timer for all requests instead of one each
_FINEST_SECONDS = 0.001  # requests due within one millisecond are sent together


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request of the mix.

    Attributes:
        body: `{n}` in it becomes the number of the request.
        weight: how often it is sent beside the others.
    """

    path: str = "/"
    method: str = "GET"
    body: bytes = b""
    content_type: str = "application/json"
    weight: int = 1

    def render(self, host: str, headers: Mapping[str, str], number: int) -> bytes:
        """The request as it goes over the wire."""
        body = self.body.replace(b"{n}", str(number).encode())
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}", *(f"{k}: {v}" for k, v in headers.items())]
        if body or self.method in ("POST", "PUT", "PATCH"):
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def interleave(mix: Sequence[Request]) -> list[Request]:
    """One round of the mix in which each request comes as often as its weight says, evenly spread.

    Source: nginx, smooth weighted round-robin balancing (commit 52327e0).
    """
    total = sum(request.weight for request in mix)
    standing = [0] * len(mix)
    chosen = []
    for _ in range(total):
        standing = [value + request.weight for value, request in zip(standing, mix, strict=True)]
        best = max(range(len(mix)), key=standing.__getitem__)
        standing[best] -= total
        chosen.append(mix[best])
    return chosen


@dataclass(frozen=True, slots=True)
class Wish:
    """What the load was asked to do. Seconds; `round` is one round of the mix."""

    host: str
    port: int
    authority: str
    interval: float
    round: tuple[Request, ...]
    connections: int
    timeout: float
    headers: dict[str, str]
    tag_header: bytes


@dataclass(slots=True)
class _Job:
    """One request: when it was due (loop time) and what it is."""

    due: float
    request: Request
    number: int

    def name(self) -> str:
        return f"{self.request.method} {self.request.path}"


def _jobs(wish: Wish, start: float) -> Iterator[_Job]:
    for number, request in enumerate(cycle(wish.round)):
        yield _Job(start + number * wish.interval, request, number)


class Client:
    """Everything that happens inside the loop."""

    def __init__(self, wish: Wish, loop: asyncio.AbstractEventLoop) -> None:
        self.wish = wish
        self.loop = loop
        self.tally = Tally(loop.time(), time.time() - loop.time())
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._ended: float | None = None
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._waiting: deque[_Job] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._jobs = _jobs(wish, loop.time())
        self._due = next(self._jobs)

    def stop(self) -> None:
        self._stopping.set()

    def report(self) -> Report:
        return self.tally.report(self.loop.time() if self._ended is None else self._ended)

    async def run(self) -> Report:
        """Send until stopped, then wait for what is under way."""
        sweeping = asyncio.create_task(self._sweep())
        self._send_what_is_due()
        await self._stopping.wait()
        self._ended = self.loop.time()
        while self.tally.in_flight:  # ends: the sweep gives up on what is too old
            self._settled.clear()
            await self._settled.wait()
        sweeping.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.drop()
        return self.report()

    def _send_what_is_due(self) -> None:
        now = self.loop.time()
        while self._due.due <= now and not self._stopping.is_set():
            self.tally.stalled = max(self.tally.stalled, now - self._due.due)
            self.tally.sent += 1
            self._serve(self._due)
            self._due = next(self._jobs)
        if not self._stopping.is_set():
            self.loop.call_at(max(self._due.due, now + _FINEST_SECONDS), self._send_what_is_due)

    def _serve(self, job: _Job) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                self._busy.add(connection)
                connection.send(job)
                return
            connection.drop()
        if len(self._busy) + len(self._opening) < self.wish.connections:
            task = asyncio.create_task(self._open(job))
            self._opening.add(task)
            task.add_done_callback(self._opened)
        else:
            self._waiting.append(job)

    async def _open(self, job: _Job) -> None:
        wish = self.wish
        try:
            async with asyncio.timeout_at(job.due + wish.timeout):
                _, connection = await self.loop.create_connection(lambda: _Connection(self), wish.host, wish.port)
        except (OSError, TimeoutError) as error:
            self.lose(job, _reason(error))
            return
        if connection.gone:
            self.lose(job, "closed before an answer")
            return
        self._busy.add(connection)
        connection.send(job)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._next()

    def _next(self) -> None:
        if self._waiting and len(self._busy) + len(self._opening) < self.wish.connections:
            self._serve(self._waiting.popleft())

    def answered(self, connection: _Connection, job: _Job, reader: AnswerReader) -> None:
        """An answer is whole; its connection may serve the next request."""
        self.tally.answer(self.loop.time(), job.due, reader.status or 0, reader.tag)
        self._busy.discard(connection)
        if reader.keep_alive:
            self._idle.append(connection)
        else:
            connection.drop()
        self._settle()

    def lost(self, connection: _Connection, job: _Job, reason: str) -> None:
        """A connection ended before the answer was whole."""
        self._busy.discard(connection)
        self.lose(job, reason)

    def lose(self, job: _Job, reason: str) -> None:
        self.tally.loss(self.loop.time(), job.name(), reason)
        self._settle()

    def forget(self, connection: _Connection) -> None:
        """An idle connection was closed by the server: nobody noticed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _settle(self) -> None:
        self._next()
        self._settled.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            oldest = self.loop.time() - self.wish.timeout
            for connection in [c for c in self._busy if c.job is not None and c.job.due < oldest]:
                connection.give_up()
            while self._waiting and self._waiting[0].due < oldest:
                self.lose(self._waiting.popleft(), "timeout waiting for a free connection")


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request under way."""

    def __init__(self, client: Client) -> None:
        self.job: _Job | None = None
        self._client = client
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    @property
    def gone(self) -> bool:
        """It has ended, or is about to."""
        return self._transport is None or self._transport.is_closing()

    def usable(self) -> bool:
        """Nothing came while it was idle. Asks the kernel: the loop may not have read the server's farewell yet."""
        return not self.gone and not self._poll.poll(0)

    def send(self, job: _Job) -> None:
        wish = self._client.wish
        self.job = job
        self._reader = AnswerReader(wish.tag_header, bodiless=job.request.method == "HEAD")
        cast(asyncio.Transport, self._transport).write(job.request.render(wish.authority, wish.headers, job.number))

    def data_received(self, data: bytes) -> None:
        if self.job is None:
            self.drop()
            self._client.forget(self)
            return
        try:
            whole = self._reader.feed(data)
        except Malformed as error:
            self._lose(f"malformed answer: {error}")
            self.drop()
            return
        if whole:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if self.job is None:
            self._client.forget(self)
        elif error is None and self._reader.end():
            self._finish()
        else:
            self._lose(_reason(error) if error is not None else self._ending())

    def give_up(self) -> None:
        """The answer did not come in time."""
        self._lose("timeout")
        self.drop()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        job, self.job = self.job, None
        if job is not None:
            self._client.answered(self, job, self._reader)

    def _lose(self, reason: str) -> None:
        job, self.job = self.job, None
        if job is not None:
            self._client.lost(self, job, reason)

    def _ending(self) -> str:
        return "closed before an answer" if self._reader.status is None else "incomplete body"


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and getattr(error, "errno", None) is None:
        return "timeout while connecting"
    number = getattr(error, "errno", None)
    if number == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in str(
        error
    ):  # the latter: of several addresses
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    return f"connection failed: {error}"
