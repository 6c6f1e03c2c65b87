"""The records of a cluster's route, from a real Prometheus that scrapes a gateway whose numbers the test says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from tests.prometheus import prometheus
from tests.unit.traffic.kubernetes_world import ENVIRONMENT, GATEWAY, SERVICE, RouteWorld, world

from rebake.core.clock import SystemClock
from rebake.errors import Transient
from rebake.judge.history import together
from rebake.judge.samples import Arm
from rebake.kubernetes import names
from rebake.kubernetes.settings import Traffic
from rebake.testing.simulated import ManualClock
from rebake.traffic.kubernetes.counting import GUARD_SECONDS
from rebake.traffic.kubernetes.records import IDLE_SECONDS, Read, Records
from rebake.traffic.kubernetes.templates import Subject
from rebake.traffic.ports import RouteObservation, Sample

LABELS = ("reporter", "destination_service_namespace", "destination_service_name", "response_code")


class IstioGateway:
    """Shows what Istio's gateway would have counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("istio_requests", "requests", LABELS, registry=self.registry)
        self._times = Histogram(
            "istio_request_duration_milliseconds", "times", LABELS, registry=self.registry, buckets=(5, 50, 500)
        )
        self.address = ""

    def answer(self, fleet: str, code: int, count: int, milliseconds: float = 4) -> None:
        backend = names.route_name(SERVICE, ENVIRONMENT, fleet)
        labels = ("source", "default", backend, str(code))
        self._requests.labels(*labels).inc(count)
        for _ in range(count):
            self._times.labels(*labels).observe(milliseconds)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _shown(gateway: IstioGateway) -> Iterator[IstioGateway]:
    server = make_server("127.0.0.1", 0, make_wsgi_app(gateway.registry), handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    gateway.address = f"127.0.0.1:{server.server_port}"
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Reader:
    """Looks and reads as an engine does."""

    def __init__(self, shop: RouteWorld, cursor: Mapping[str, Any] | None = None) -> None:
        self.shop, self.cursor = shop, cursor
        self.samples: list[Sample] = []

    def look(self) -> None:
        self.shop.observe()
        found = self.shop.router.samples(SERVICE, ENVIRONMENT, self.cursor)
        assert found is not None
        self.cursor = found.cursor
        self.samples += found.samples

    @property
    def total(self) -> dict[str, Arm]:
        fleets = sorted({fleet for sample in self.samples for fleet in sample.fleets})
        return {fleet: together(s.fleets[fleet] for s in self.samples if fleet in s.fleets) for fleet in fleets}

    @property
    def requests(self) -> int:
        return sum(arm.n for arm in self.total.values())

    def until(self, condition: Callable[[], object], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:g}s: {self.total}"
            with contextlib.suppress(Transient):  # the server has only just begun
                self.look()
            threading.Event().wait(0.02)


@pytest.mark.real
def test_what_the_gateway_counted_is_read_with_the_weights_that_dealt_it(tmp_path: Path) -> None:
    gateway, clock = IstioGateway(), SystemClock()
    gateway.answer("s1", 200, 1000)  # before anybody looked
    with _shown(gateway), prometheus(tmp_path, [gateway.address]) as address:
        traffic = {"prometheus": f"http://{address}", "from_": "istio", "timeout": 5000}
        with world(tmp_path, {**GATEWAY, "traffic": traffic}, clock) as shop:
            shop.raise_fleet("s1")
            shop.raise_fleet("c1")
            shop.shifted(shop.route(shop.fleet("s1", 7_500), shop.fleet("c1", 2_500)))
            reader = Reader(shop)
            reader.look()
            begin = clock.now()
            gateway.answer("s1", 200, 400)  # within the guard: nobody knows which weights dealt these
            reader.until(lambda: clock.now() > begin + GUARD_SECONDS + 2.5)
            kept = reader.cursor
            gateway.answer("s1", 200, 30)
            gateway.answer("c1", 200, 7, milliseconds=40)
            gateway.answer("c1", 503, 3)
            gateway.answer("c1", 0, 5)  # callers who left
            reader.until(lambda: reader.requests >= 40)
            assert {s.weights["c1"] for s in reader.samples} == {2_500}
            assert (reader.total["s1"].n, reader.total["s1"].errors) == (30, 0)
            assert (reader.total["c1"].n, reader.total["c1"].errors) == (10, 3)
            assert (sum(reader.total["s1"].latency), sum(reader.total["c1"].latency)) == (30, 7)

            shop.restart()  # another process reads on from the same place
            again = Reader(shop, kept)
            again.until(lambda: again.requests >= 40)
            assert again.total == reader.total

            shop.wished.doc["traffic"] = {**traffic, "from_": "traefik"}
            shop.restart()
            blind = Reader(shop, kept)
            with pytest.raises(Transient) as missing:
                blind.look()
            assert missing.value.code == "series-missing"
            assert not blind.samples


def test_a_server_that_does_not_answer_gives_nothing_and_loses_nothing(tmp_path: Path) -> None:
    clock = SystemClock()
    traffic = {"prometheus": "http://127.0.0.1:1", "from_": "istio", "timeout": 500}
    with world(tmp_path, {**GATEWAY, "traffic": traffic}, clock) as shop:
        shop.raise_fleet("s1")
        shop.shifted(shop.route(shop.fleet("s1", 10_000)))
        before = {"to": clock.now() - 60.0, "periods": []}
        with pytest.raises(Transient) as silent:
            shop.router.samples(SERVICE, ENVIRONMENT, before)
        assert silent.value.code == "metric-not-answered"
        found = shop.router.samples(SERVICE, ENVIRONMENT, before)  # not asked again at once
        assert found is not None
        assert (found.samples, found.cursor["to"]) == ((), before["to"])


def test_without_a_server_there_are_no_records(tmp_path: Path) -> None:
    with world(tmp_path, GATEWAY) as shop:
        shop.raise_fleet("s1")
        shop.shifted(shop.route(shop.fleet("s1", 10_000)))
        assert shop.router.samples(SERVICE, ENVIRONMENT, None) is None


def test_a_shift_is_read_soon_though_nothing_was_compared_before() -> None:
    clock, asked = ManualClock(), list[float]()

    def submit(_read: Callable[[], Read]) -> Future[Read]:
        asked.append(clock.now())
        future: Future[Read] = Future()
        future.set_result(Read((), 1.0))
        return future

    records, cursor = Records(clock, submit), None
    subject = Subject(SERVICE, ENVIRONMENT, "default", "shop-production", "c1", "c1", {})

    def look(**weights: int) -> None:
        nonlocal cursor
        clock.advance(1.0)
        records.see(RouteObservation("v", weights, {}, {}, listening=True), str(weights))
        cursor = records.read(Traffic("http://prometheus", "istio"), [subject], cursor).cursor

    for _ in range(40):
        look(s1=10_000)
    last = asked[-1]
    while asked[-1] == last:
        look(s1=10_000)
    idle = asked[-1] - last
    shifted = clock.now()
    for _ in range(5):
        look(s1=9_000, c1=1_000)
    assert idle >= IDLE_SECONDS
    assert asked[-1] > shifted
