"""A small real service that shows its metrics with the usual client library, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, make_wsgi_app


@dataclass
class Metered:
    """One instance: its address, and what it counts."""

    address: str
    jobs: Counter
    age: Gauge
    seconds: Summary
    registry: CollectorRegistry = field(repr=False)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metered() -> Iterator[Metered]:
    registry = CollectorRegistry()
    jobs = Counter("jobs", "jobs done", ["state"], registry=registry)
    age = Gauge("queue_oldest_seconds", "age of the oldest job", ["queue"], registry=registry)
    seconds = Summary("job_seconds", "time of a job", registry=registry)
    server = make_server("127.0.0.1", 0, make_wsgi_app(registry), handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Metered(f"127.0.0.1:{server.server_port}", jobs, age, seconds, registry)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
