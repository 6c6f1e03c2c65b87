"""A steady open-loop load: requests are sent when they are due, whether or not earlier ones were answered.

It counts what users would have seen and retries nothing. Rules:
- Latency runs from the time a request was due, so that a stalled service cannot hide behind its own stall.
- A keep-alive connection that the server closed is replaced if that is seen before the request is written. A request
  that was written and got no whole answer is lost, whatever the reason.
- A refused connection is a lost request too.

In a thread: `with Load("http://127.0.0.1:8080", rate_per_second=200) as load: …; load.report()`.
As a process: `python -m rebake.tour.load URL --rate 200 --seconds 10 --json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from urllib.parse import urlsplit

from rebake.tour.client import Client, Request, Wish, interleave
from rebake.tour.figures import Report

__all__ = ["Load", "Report", "Request"]


class Load:
    """A load that runs in a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        url: str,
        rate_per_second: float = 100.0,
        mix: Sequence[Request] = (Request(),),
        *,
        connections: int = 16,
        timeout_seconds: float = 10.0,
        headers: Mapping[str, str] | None = None,
        tag_header: str = "",
    ) -> None:
        """
        Args:
            url: `http://HOST:PORT`; paths come from the mix.
            connections: at most; requests that are due wait for a free one, and their clock runs.
            timeout_seconds: after which a request without a whole answer is lost.
            headers: sent with every request.
            tag_header: name of an answer's header whose values are counted one by one.
        Raises: ValueError for a URL or rate that cannot be used.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected a URL such as http://127.0.0.1:8080, found {url!r}")
        if rate_per_second <= 0 or connections < 1 or not mix:
            raise ValueError("a load needs a rate above zero, a connection and a request")
        self._wish = Wish(
            host=parts.hostname,
            port=parts.port or 80,
            authority=parts.netloc,
            interval=1 / rate_per_second,
            round=tuple(interleave(mix)),
            connections=connections,
            timeout=timeout_seconds,
            headers=dict(headers or {}),
            tag_header=tag_header.encode("latin-1"),
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._final: Report | None = None
        self._failure: BaseException | None = None

    def start(self) -> Load:
        """Begin to send. Returns when the first request is due."""
        self._thread.start()
        self._ready.wait()
        return self

    def stop(self) -> Report:
        """Send no more, wait for the answers under way (at most the timeout) and return the figures."""
        if self._thread.is_alive() and self._loop is not None and self._client is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._client.stop)
        self._thread.join()
        return self.report()

    def report(self) -> Report:
        """The figures so far, also while it runs. Raises: what ended the load, if something did."""
        if self._failure is not None:
            raise self._failure
        if self._final is not None:
            return self._final
        if self._loop is None or self._client is None:
            raise RuntimeError("the load was not started")
        return self._ask(self._loop, self._client)

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, loop: asyncio.AbstractEventLoop, client: Client) -> Report:
        answer: Future[Report] = Future()
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            loop.call_soon_threadsafe(lambda: answer.set_result(client.report()))
        while self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                return answer.result(0.05)
        return self.report()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = Client(self._wish, self._loop)
        self._ready.set()
        self._final = await self._client.run()


def _at_end_of_input(then: Callable[[], None]) -> None:
    while sys.stdin.read(4096):
        pass
    then()


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a process; prints the figures at the end. Exit code 0 if nothing was lost."""
    import argparse
    import json
    import signal

    parser = argparse.ArgumentParser(prog="python -m rebake.tour.load", description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seconds", type=float, help="how long; without it until SIGTERM or Ctrl-C")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds until a request is lost")
    parser.add_argument("--get", action="append", default=[], metavar="PATH", help="may be repeated")
    parser.add_argument(
        "--post", action="append", default=[], nargs=2, metavar=("PATH", "BODY"), help="may be repeated"
    )
    parser.add_argument("--tag-header", default="", help="count answers by the value of this header")
    parser.add_argument("--while-stdin", action="store_true", help="stop when standard input is closed")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    chosen = parser.parse_args(argv)
    mix = [Request(path) for path in chosen.get]
    mix += [Request(path, "POST", body.encode()) for path, body in chosen.post]
    done = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: done.set())
    if chosen.while_stdin:
        threading.Thread(target=_at_end_of_input, args=(done.set,), daemon=True).start()
    load = Load(
        chosen.url,
        chosen.rate,
        mix or [Request()],
        connections=chosen.connections,
        timeout_seconds=chosen.timeout,
        tag_header=chosen.tag_header,
    ).start()
    done.wait(chosen.seconds)
    report = load.stop()
    print(json.dumps(report.to_json()) if chosen.json else report.sentence())
    return 0 if report.lost == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
