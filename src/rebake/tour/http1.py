"""Read one HTTP/1.1 answer from the bytes of a connection, keeping only what the load client counts. No I/O."""

from __future__ import annotations

from collections.abc import Generator

_HEAD_LIMIT = 65_536


class Malformed(ValueError):
    """The bytes are no HTTP/1.1 answer."""


class AnswerReader:
    """Fed with bytes until the answer is whole. Bodies are counted and thrown away.

    Attributes:
        status: of the final answer; None before its head is read.
        tag: value of the header asked for; empty when there is none.
        keep_alive: another request may follow on the connection.
        until_close: the body has no length and ends with the connection.
        done: the answer is whole.

    Source: RFC 9112, sections 6.3 (length of a body), 7.1 (chunked), 9.3 (persistence); RFC 9110, section 15.2 (1xx).
    """

    __slots__ = ("_bodiless", "_buffer", "_steps", "_tag_header", "done", "keep_alive", "status", "tag", "until_close")

    def __init__(self, tag_header: bytes = b"", *, bodiless: bool = False) -> None:
        """`bodiless`: the answer to HEAD, which tells a length and has no body."""
        self.status: int | None = None
        self.tag = ""
        self.keep_alive = True
        self.until_close = False
        self.done = False
        self._bodiless = bodiless
        self._tag_header = tag_header.lower()
        self._buffer = bytearray()
        self._steps = self._read()

    def feed(self, data: bytes) -> bool:
        """Take more bytes; true once the answer is whole. Raises: Malformed."""
        self._buffer += data
        try:
            next(self._steps)
        except StopIteration:
            self.done = True
            if self._buffer:
                self.keep_alive = False  # more than was asked for: nothing after it can be trusted
        return self.done

    def end(self) -> bool:
        """The connection has ended; true if that makes the answer whole."""
        self.done = self.done or self.until_close
        return self.done

    def _read(self) -> Generator[None, None, None]:
        status, headers = 100, dict[bytes, bytes]()
        while 100 <= status < 200 and status != 101:
            status, headers = self._head((yield from self._until(b"\r\n\r\n")))
        self.status = status
        if self._tag_header:
            self.tag = headers.get(self._tag_header, b"").decode("latin-1")
        if self._bodiless or status in (204, 304):
            return
        if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
            yield from self._chunks()
        elif b"content-length" in headers:
            yield from self._skip(_number(headers[b"content-length"], 10))
        else:
            self.until_close, self.keep_alive = True, False
            while True:
                self._buffer.clear()
                yield

    def _head(self, head: bytes) -> tuple[int, dict[bytes, bytes]]:
        line, *fields = head.split(b"\r\n")
        version, _, rest = line.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise Malformed(f"expected a status line of HTTP/1.1, found {line[:40]!r}")
        headers = {}
        for field in fields:
            name, _, value = field.partition(b":")
            headers[name.lower()] = value.strip()
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection and (version == b"HTTP/1.1" or b"keep-alive" in connection)
        return _number(rest[:3], 10), headers

    def _chunks(self) -> Generator[None, None, None]:
        while size := _number((yield from self._until(b"\r\n")).partition(b";")[0], 16):
            yield from self._skip(size)
            if (yield from self._until(b"\r\n")):
                raise Malformed("expected the end of a chunk, found more of it")
        while (yield from self._until(b"\r\n")):
            pass  # trailers

    def _until(self, mark: bytes) -> Generator[None, None, bytes]:
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise Malformed(f"expected {mark!r} within {_HEAD_LIMIT} bytes")
            yield
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    def _skip(self, size: int) -> Generator[None, None, None]:
        while True:
            taken = min(size, len(self._buffer))
            del self._buffer[:taken]
            size -= taken
            if not size:
                return
            yield


def _number(text: bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise Malformed(f"expected a number, found {text[:40]!r}") from None
