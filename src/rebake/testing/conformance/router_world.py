"""A small world around a route: real instances to send to, and callers that count what they lose. Loopback only.

`Instance` is an HTTP/1.1 server written out by hand, so that it can also misbehave on the wire. Its paths:
`/healthz`, `/who` (its name), `/echo` (the request head as it arrived), `/status/NNN`, `/bytes/N`, `/digest` (of the
body), `/events` (one event, the rest when the test releases it), `/socket` (an upgrade that echoes), `/reset` (breaks
the connection), `/cut` (breaks it in the middle of the answer), `/hold` (answers when released).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK = 1 << 16


def free_address() -> str:
    """An address of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


class Loop:
    """An event loop on its own thread, for instances and callers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 30.0) -> T:
        return self.start(work).result(seconds)

    def close(self) -> None:
        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Request:
    method: str
    target: str
    head: str
    headers: dict[str, str]
    body_digest: str
    body_size: int


@dataclass
class Instance:
    """One instance of a fleet.

    Attributes:
        health: status that `/healthz` answers.
        wrong: by path, the status it answers in place of the right one.
        breaks: it resets every connection that asks for something else than `/healthz`.
        mute: it accepts every request, and answers none but `/healthz` until it is released.
        seen: requests served, by `METHOD TARGET`, health checks left out; `head`: the last one's.
    """

    name: str
    loop: Loop
    health: int = 200
    wrong: dict[str, int] = field(default_factory=dict)
    breaks: bool = False
    mute: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    head: dict[str, str] = field(default_factory=dict)
    address: str = ""
    _server: asyncio.Server | None = None
    _release: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def open(self, address: str | None = None) -> Instance:
        host, port = place(address) if address else ("127.0.0.1", 0)

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, host, port, limit=CHUNK * 4, reuse_address=True)
            self.address = "{}:{}".format(*self._server.sockets[0].getsockname())

        self.loop.run(start())
        return self

    def close(self) -> None:
        """Stop at once, like a process that was killed."""

        async def stop() -> None:
            if self._server is not None:
                self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()

        self.loop.run(stop())
        self._server = None

    def release(self) -> None:
        """Let everything that waits go on."""
        self.loop.run(self._set())

    async def _set(self) -> None:
        self._release.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read_request(reader)) is not None:
                if request.target != "/healthz":
                    self.head = request.headers
                    self.seen[f"{request.method} {request.target}"] += 1
                if self.mute and request.target != "/healthz":
                    await self._release.wait()
                if not self._misbehaves(request, writer):
                    await self._answer(request, reader, writer)
                await writer.drain()
        self._writers.discard(writer)
        writer.transport.abort()

    def _misbehaves(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.target in self.wrong:
            _send(writer, self.wrong[request.target], self.name.encode())
        elif self.breaks and request.target != "/healthz":
            _break(writer)
        else:
            return False
        return True

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind, _, rest = request.target.removeprefix("/").partition("/")
        match kind:
            case "healthz":
                _send(writer, self.health, b"")
            case "who":
                _send(writer, 200, self.name.encode())
            case "status":
                _send(writer, int(rest.partition("?")[0]), self.name.encode())
            case "bytes":
                await _send_many(writer, int(rest))
            case "digest":
                _send(writer, 200, f"{request.body_digest} {request.body_size}".encode())
            case "hold":
                await self._release.wait()
                _send(writer, 200, self.name.encode())
            case "events":
                await self._events(writer)
            case "socket":
                await self._socket(reader, writer)
            case "reset":
                _break(writer)
            case "cut":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf an")
                await writer.drain()
                writer.close()
            case _:
                _send(writer, 200, request.head.encode(), "content-type: text/plain\r\n")

    async def _events(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in (f"data: first {self.name}\n\n", f"data: last {self.name}\n\n"):
            writer.write(f"{len(event):x}\r\n{event}\r\n".encode())
            await writer.drain()
            await self._release.wait()
        writer.write(b"0\r\n\r\n")

    async def _socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        while data := await reader.read(CHUNK):
            writer.write(self.name.encode() + b":" + data)
            await writer.drain()


def _send(writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = "") -> None:
    head = f"HTTP/1.1 {status} Fine\r\nserver: instance/1\r\n{extra}content-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _send_many(writer: asyncio.StreamWriter, size: int) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
    block = bytes(range(256)) * (CHUNK // 256)
    while size > 0:
        writer.write(block[:size])
        size -= len(block)
        await writer.drain()


def _break(writer: asyncio.StreamWriter) -> None:
    """Reset instead of closing. Source: socket(7), SO_LINGER of zero seconds."""
    handle = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    digest, size = hashlib.sha256(), 0
    async for block in _body(reader, headers):
        digest.update(block)
        size += len(block)
    return Request(method, target, head, headers, digest.hexdigest(), size)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> Any:
    if headers.get("transfer-encoding") == "chunked":
        while left := int(await reader.readline(), 16):
            yield await reader.readexactly(left)
            await reader.readline()
        await reader.readline()
        return
    left = int(headers.get("content-length", 0))
    while left > 0:
        block = await reader.read(min(left, CHUNK))
        if not block:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(block)
        yield block


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    listen: str,
    target: str = "/who",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    seconds: float = 20.0,
) -> Answer:
    """One request on its own connection."""
    connection = http.client.HTTPConnection(*place(listen), timeout=seconds)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def is_open(listen: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(place(listen), timeout=1):
        return True
    return False


@dataclass
class Tally:
    """What a crowd of callers met. `lost`: no answer, half an answer, or one with 5xx."""

    answers: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.answers.total() + self.lost.total()


class Crowd:
    """Callers that ask again and again over kept connections, each waiting for its answer, until told to stop.

    Args:
        callers: connections at once; each sends alternately GET and POST.
        pause_seconds: between two requests of one caller.
    """

    def __init__(self, loop: Loop, listen: str, callers: int = 8, pause_seconds: float = 0.0) -> None:
        self.tally = Tally()
        self._loop = loop
        self._listen = listen
        self._pause = pause_seconds
        self._stop = False
        self._work = [loop.start(self._call(number)) for number in range(callers)]

    def finish(self) -> Tally:
        self._stop = True
        for work in self._work:
            work.result(20)
        return self.tally

    def saw(self, requests: int) -> bool:
        return self.tally.total >= requests

    async def _call(self, number: int) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self._stop:
            number += 1
            try:
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection(*place(self._listen))
                status, body, last = await _exchange(reader, writer, "GET" if number % 2 else "POST")
                if status >= 500:
                    self.tally.lost[f"{status} {body.decode()[:60]}"] += 1
                else:
                    self.tally.answers[body.decode()] += 1
                if last:
                    writer.close()
                    reader = writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self.tally.lost[type(error).__name__] += 1
                reader = writer = None
            await asyncio.sleep(self._pause)
        if writer is not None:
            writer.close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str) -> tuple[int, bytes, bool]:
    """One request and its answer. Returns: status, body, and whether the connection ends with it."""
    body = b"" if method == "GET" else b"content-length: 5\r\n"
    payload = b"" if method == "GET" else b"hello"
    writer.write(b"%s /who HTTP/1.1\r\nhost: crowd\r\n%s\r\n%s" % (method.encode(), body, payload))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split(" ", 2)[1]), await reader.readexactly(size), "connection: close" in head


class Http2:
    """One HTTP/2 connection with prior knowledge, GET only: enough to see that a stream lives through a switch.

    Source: RFC 9113 (frames), RFC 7541 appendix A (2 = GET, 4 = path, 6 = http, 1 = authority, 8 = status 200).
    """

    _HEADERS, _DATA, _SETTINGS, _PING = 1, 0, 4, 6

    def __init__(self, listen: str) -> None:
        self._socket = socket.create_connection(place(listen), timeout=20)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(self._SETTINGS, 0, 0, b""))
        self._stream = -1

    def get(self, path: str) -> Iterator[bytes]:
        """Yields the body's pieces as they come; asserts that the answer was 200."""
        self._stream += 2
        block = b"\x82\x86" + self._literal(4, path) + self._literal(1, "crowd")
        self._socket.sendall(self._frame(self._HEADERS, 0x5, self._stream, block))
        while True:
            kind, flags, stream, payload = self._read()
            if kind == self._HEADERS and stream == self._stream:
                assert payload[:1] == b"\x88", f"expected status 200, found {payload!r}"
            elif kind == self._DATA and stream == self._stream:
                if payload:
                    yield payload
            elif kind in (3, 7):
                raise ConnectionError(f"the stream was broken: frame {kind} {payload!r}")
            elif kind == self._SETTINGS and not flags & 1:
                self._socket.sendall(self._frame(self._SETTINGS, 1, 0, b""))
            if stream == self._stream and kind in (self._HEADERS, self._DATA) and flags & 1:
                return

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def _literal(index: int, value: str) -> bytes:
        return bytes([index, len(value)]) + value.encode()

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def _read(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(9)
        size = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            block = self._socket.recv(size - len(data))
            if not block:
                raise ConnectionError("the connection was closed")
            data += block
        return data


def head_of(answer: Answer) -> dict[str, str]:
    """The request head that `/echo` sends back, by lower-case name."""
    lines = answer.text.split("\r\n")[1:]
    return {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
