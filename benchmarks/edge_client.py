"""A caller that counts what it loses. Run as its own process: `python -m benchmarks.edge_client HOST:PORT N RATE`.

N kept connections send requests at RATE per second altogether (0: each as soon as it has its answer) until standard
input closes, then a JSON object is printed: requests answered, lost by cause, seconds, latency in milliseconds.
Lost is: a request without a whole answer, or with 5xx. A kept connection that the edge closes while no request is
under way is not a loss; one that it closes while a request is on its way is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


class Results:
    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self.latencies: list[float] = []


class Caller(asyncio.Protocol):
    """One connection: at most one request under way; connects again when it was closed."""

    def __init__(self, place: tuple[str, int], interval: float, results: Results) -> None:
        self._place = place
        self._interval = interval
        self._results = results
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._buffer = b""
        self._last = False
        self.stopped = False

    async def connect(self) -> None:
        while not self.stopped:
            try:
                await self._loop.create_connection(lambda: self, *self._place)
                return
            except OSError as error:
                self._results.lost[f"connect: {type(error).__name__}"] += 1
                await asyncio.sleep(0.01)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer, self._last = transport, b"", False
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or not self._sent_at:
            return
        head = head.lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < size:
            return
        now = time.perf_counter()
        if head[9:10] == b"5":
            self._results.lost[head[9:12].decode()] += 1
        else:
            self._results.latencies.append(now - self._sent_at)
        due = self._sent_at + self._interval - now
        self._buffer, self._sent_at, self._last = b"", 0.0, b"connection: close" in head
        if self._last and self._transport is not None:
            self._transport.close()
        elif due > 0:
            self._loop.call_later(due, self._send)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        if self._sent_at:
            self._results.lost["closed while a request was on its way"] += 1
            self._sent_at = 0.0
        self._transport = None
        if not self.stopped:
            self._task = self._loop.create_task(self.connect())

    def finish(self) -> bool:
        """Send no more. Returns: whether the last answer came."""
        self.stopped = True
        if self._sent_at == 0.0 and self._transport is not None:
            self._transport.close()
        return self._sent_at == 0.0

    def _send(self) -> None:
        if self._transport is None or self._transport.is_closing() or self.stopped:
            return
        self._sent_at = time.perf_counter()
        self._transport.write(REQUEST)


async def main(listen: str, connections: int, rate: float) -> None:
    host, _, port = listen.rpartition(":")
    results = Results()
    callers = [Caller((host, int(port)), connections / rate if rate else 0.0, results) for _ in range(connections)]
    began = time.perf_counter()
    await asyncio.gather(*(caller.connect() for caller in callers))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    seconds = time.perf_counter() - began
    deadline = time.perf_counter() + 5  # every caller is told to finish each time round
    while sum(not caller.finish() for caller in callers) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    found = sorted(results.latencies) or [0.0]
    quantile = {q: found[min(len(found) - 1, int(len(found) * q))] * 1000 for q in (0.5, 0.99)}
    print(
        json.dumps(
            {
                "answered": len(results.latencies),
                "lost": dict(results.lost),
                "seconds": seconds,
                "p50_ms": quantile[0.5],
                "p99_ms": quantile[0.99],
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
