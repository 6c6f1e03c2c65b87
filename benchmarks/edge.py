"""The edge: how long a switch takes and what it loses, beside nginx and HAProxy; how fast it is, beside bare Envoy.

    python -m benchmarks edge [--quick]

The two instances are direct answers of one Envoy, so that they are not what is measured. The load at switches is half
of what the same callers reach against the edge when each asks as soon as it has its answer. Peers that are not
installed (Debian: nginx-light, haproxy, wrk) are skipped out loud. Everything stays on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.edge_peers import WORKERS, HaProxy, Nginx, Peer, await_answer, bare_envoy, free_address, has, instances
from rebake.core.home import Home
from rebake.traffic.envoy import EdgeSettings, EnvoyRouter
from rebake.traffic.envoy.process import EnvoyProcess
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute

Row = dict[str, Any]

CONNECTIONS = 32
SWITCH_MS = 20.0
NOISE = (0.05, 0.15)


class RebakeEdge:
    """Our edge, seen as a peer: a switch is `apply` until `observe` says that it is served."""

    name = "rebake"

    def __init__(self, folder: Path, places: list[str]) -> None:
        self.listen = free_address()
        self._places = places
        self._home, self._settings = Home(folder), EdgeSettings(concurrency=WORKERS)
        self._router = EnvoyRouter(self._home, self._settings)

    def switch(self, to: int) -> None:
        fleets = tuple(
            FleetRoute(f"fleet-{n}", (Endpoint(f"i{n}", place),), 10_000 if n == to else 0)
            for n, place in enumerate(self._places)
        )
        route = EnvironmentRoute("bench", "production", self.listen, fleets)
        self._router.apply(route)
        while (found := self._router.observe("bench", "production")) is None or found.version != route.version:
            time.sleep(0.001)

    @property
    def pid(self) -> int:
        return EnvoyProcess(self._home, self._settings).find()[0].pid

    @contextlib.contextmanager
    def running(self) -> Iterator[RebakeEdge]:
        try:
            self.switch(0)
            await_answer(self.listen)
            yield self
        finally:
            self._router.stop()
            self._router.close()


@dataclass(frozen=True)
class Load:
    """What the callers met while a block ran."""

    rate: float
    answered: int
    lost: dict[str, int]

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


def under_load(listen: str, rate: float, work: Callable[[], None]) -> Load:
    """Run the work while callers ask at this rate (0: as fast as they can)."""
    command = [sys.executable, "-m", "benchmarks.edge_client", listen, str(CONNECTIONS), str(rate)]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        time.sleep(0.5)  # the callers' own start
        work()
        output, _ = client.communicate(timeout=30)
    finally:
        client.kill()
        client.wait()
    found = json.loads(output)
    return Load(found["answered"] / found["seconds"], found["answered"], found["lost"])


def switches(peer: Peer, count: int, rate: float) -> tuple[list[float], Load]:
    """Milliseconds of each switch, and what the callers met."""
    times: list[float] = []

    def work() -> None:
        for number in range(count):
            began = time.perf_counter()
            peer.switch((number + 1) % 2)
            times.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)  # users between two switches

    return times, under_load(peer.listen, rate, work)


def _row(figure: str, value: float, unit: str, **more: Any) -> Row:
    row = {"figure": figure, "value": round(value, 3), "unit": unit, "peer": "", "ratio": None, "bar": None, "ok": None}
    return row | more


def _switch_rows(folder: Path, places: list[str], count: int) -> list[Row]:
    with RebakeEdge(folder / "rebake", places).running() as edge:
        capacity = under_load(edge.listen, 0, lambda: time.sleep(2)).rate
        rate = capacity / 2
        times, load = switches(edge, count, rate)
    median = statistics.median(times)
    rows = [
        _row("switch under load, apply to read back, median", median, "ms", bar=SWITCH_MS, ok=median <= SWITCH_MS),
        _row("switch under load, apply to read back, slowest", max(times), "ms"),
        _row(f"requests per second during the switches (half of {capacity:.0f})", load.rate, "1/s"),
        _row(f"requests lost over {count} switches", load.lost_total, "", bar=0, ok=load.lost_total == 0),
    ]
    for peer in _peers(folder, places):
        with peer.running():
            peer_times, peer_load = switches(peer, count, rate)
        peer_median = statistics.median(peer_times)
        ratio = round(median / peer_median, 3)
        rows.append(_row(f"{peer.name}: switch, median", peer_median, "ms"))
        rows.append(_row(f"{peer.name}: requests lost over {count} switches", peer_load.lost_total, ""))
        rows.append(_row("our switch beside it", median, "ms", peer=peer.name, ratio=ratio))
    return rows


def _peers(folder: Path, places: list[str]) -> Iterator[Nginx | HaProxy]:
    if has("nginx"):
        yield Nginx(folder / "nginx", places)
    else:
        print("skipped: nginx is not installed (Debian: nginx-light)", file=sys.stderr)
    if has("haproxy"):
        yield HaProxy(folder / "haproxy-reload", places, reload=True)
        yield HaProxy(folder / "haproxy-runtime", places, reload=False)
    else:
        print("skipped: HAProxy is not installed (Debian: haproxy)", file=sys.stderr)


@dataclass(frozen=True)
class Speed:
    """`cpu_us`: microseconds of processor time that the edge took for one request; other load hardly moves it."""

    rate: float
    p99_ms: float
    cpu_us: float


def _wrk(listen: str, pid: int, seconds: int) -> Speed:
    """As wrk measures it from outside, and the kernel from inside."""
    before = _cpu_seconds(pid)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", f"http://{listen}/"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 20).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None, said
    assert p99 is not None, said
    served = re.search(r"(\d+) requests in", said)
    assert served is not None, said
    milliseconds = float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]
    return Speed(float(rate[1]), milliseconds, (_cpu_seconds(pid) - before) / int(served[1]) * 1e6)


def _speed_rows(folder: Path, places: list[str], rounds: int, seconds: int) -> list[Row]:
    """Beside an Envoy with the same duty, a line in a file for each request; and beside one that keeps no record."""
    if not has("wrk"):
        print("skipped: wrk is not installed (Debian: wrk)", file=sys.stderr)
        return []
    ours: list[Speed] = []
    logging: list[Speed] = []
    silent: list[Speed] = []
    with (
        RebakeEdge(folder / "speed", places).running() as edge,
        bare_envoy(folder / "logging", places[0], logs=True) as logs,
        bare_envoy(folder / "silent", places[0], logs=False) as bare,
    ):
        for number in range(rounds + 1):  # in turn; the first round warms up
            found = [_wrk(*peer, seconds) for peer in ((edge.listen, edge.pid), logs, bare)]
            if number:
                for speeds, speed in zip((ours, logging, silent), found, strict=True):
                    speeds.append(speed)
    rows = []
    for peer, speeds, barred in (("bare Envoy with its access log", logging, True), ("bare Envoy", silent, False)):
        rows += [
            _beside("throughput", "1/s", "rate", ours, speeds, peer, barred),
            _beside("p99", "ms", "p99_ms", ours, speeds, peer, barred),
            _beside("processor time of the edge per request", "µs", "cpu_us", ours, speeds, peer, barred),
        ]
    return rows


def _beside(  # noqa: PLR0917 one row, told apart by its words
    figure: str, unit: str, field: str, ours: list[Speed], theirs: list[Speed], peer: str, barred: bool
) -> Row:
    """Medians of the rounds, ours as a ratio of theirs; good when they differ no more than the rounds do."""
    mine, others = ([float(getattr(speed, field)) for speed in speeds] for speeds in (ours, theirs))
    noise = max(_spread(mine), _spread(others))
    value, beside = statistics.median(mine), statistics.median(others)
    more_is_better = field == "rate"
    ok = value >= beside * (1 - noise) if more_is_better else value <= beside * (1 + noise)
    title = f"{figure} (rounds differ by {noise:.0%})"
    return _row(title, value, unit, peer=peer, ratio=round(value / beside, 3), ok=ok if barred else None)


def _spread(values: list[float]) -> float:
    """How far the rounds of one and the same thing lie apart, as a share of their median, but within `NOISE`: on a
    machine so busy that they differ more, the comparison says nothing, and must not pass by that."""
    low, high = NOISE
    return min(high, max(low, (max(values) - min(values)) / statistics.median(values)))


def _cpu_seconds(pid: int) -> float:
    """Processor time a process has used. Source: proc(5), /proc/PID/stat, fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(quick: bool) -> list[Row]:
    """Every figure of the edge. `quick`: fewer switches and shorter rounds."""
    with tempfile.TemporaryDirectory(prefix="rebake-edge-") as name:
        folder = Path(name)
        with instances(folder / "instances") as places:
            rows = _switch_rows(folder, places, 20 if quick else 100)
            return rows + _speed_rows(folder, places, *((3, 1) if quick else (9, 2)))
