"""How long people wait: a whole deploy of a baked release, an undo, the command line itself; and what the agent costs.

Everything is measured from outside, as whole commands, on a real agent, Envoy and processes under a steady load.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.site import BLUE_GREEN, Site, until

from rebake.tour.load import Load, Request

Row = dict[str, Any]


def _row(figure: str, value: float, unit: str, bar: float, *, peer: str = "", ratio: float | None = None) -> Row:
    return {
        "figure": figure,
        "value": round(value, 4),
        "unit": unit,
        "peer": peer,
        "ratio": None if ratio is None else round(ratio, 3),
        "bar": bar,
        "ok": value <= bar,
    }


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _own_start(site: Site) -> float:
    """How long the service itself takes from exec to its first healthy answer, without rebake."""
    import socket
    import urllib.request

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environ = {**os.environ, "PORT": str(port), "HOST": "127.0.0.1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-u", "server.py"], cwd=site.folder, env=environ, stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1):
                    return time.perf_counter() - began
            except OSError:
                time.sleep(0.002)
    finally:
        process.kill()
        process.wait()


def _deploys_and_undos(site: Site, rounds: int) -> list[Row]:
    own = statistics.median(_own_start(site) for _ in range(5))
    deploys, undos, lost = [], [], 0
    text = (site.folder / "server.py").read_text()
    with Load(site.url, 100, (Request("/"),)) as load:
        for number in range(rounds):
            site.write("server.py", text + f"\n# {number}\n")
            assert site.rebake("bake").code == 0
            deploys.append(_seconds(lambda: _must(site, "deploy", "production")))
            undos.append(_seconds(lambda: _must(site, "undo", "production")))
        lost = load.stop().lost
    deploy, undo = statistics.median(deploys), statistics.median(undos)
    return [
        _row(
            "deploy of a baked release, 2 instances, whole command",
            deploy,
            "s",
            own + 1,
            peer="own start",
            ratio=deploy / own,
        ),
        _row("undo while warm, whole command", undo, "s", 0.3),
        _row(f"requests lost over {rounds} deploys and {rounds} undos", lost, "requests", 0),
    ]


def _must(site: Site, *words: str) -> None:
    done = site.rebake(*words)
    assert done.code == 0, done.err


def _commands(site: Site, rounds: int) -> list[Row]:
    helps = [_seconds(lambda: site.rebake("--help")) for _ in range(rounds)]
    statuses = [_seconds(lambda: site.rebake("status", "production")) for _ in range(rounds)]
    bare = statistics.median(
        _seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)) for _ in range(rounds)
    )
    shown = statistics.median(helps)
    return [
        _row("rebake --help", shown, "s", 0.15, peer="python -c pass", ratio=shown / bare),
        _row(
            "rebake status",
            statistics.median(statuses),
            "s",
            0.25,
            peer="python -c pass",
            ratio=statistics.median(statuses) / bare,
        ),
    ]


def _agent(site: Site, seconds: float) -> list[Row]:
    """Memory and idle CPU of the agent with ten environments."""
    folder = Path(f"/proc/{site.agent}")

    def ticks() -> int:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(seconds)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    resident = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return [
        _row("agent with 10 environments, resident", int(resident.split()[1]) / 1024, "MiB", 120),
        _row("agent with 10 environments, idle", share, "cores", 0.01),
    ]


def _ten_environments(site: Site) -> None:
    from rebake.tour.stage import free_ports

    more = "".join(
        f"  place{n}:\n    platform: local\n    instances: 1\n    listen: 127.0.0.1:{port}\n"
        for n, port in enumerate(free_ports(9))
    )
    site.describe(
        BLUE_GREEN.replace("5m", "0s") + more, **{"interval: 200ms, ": "", "    drift_interval: 1s\n": ""}
    )  # the defaults
    _must(site, "deploy", "production")
    for number in range(9):
        _must(site, "deploy", f"place{number}")


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}."""
    rounds = 3 if quick else 15
    with tempfile.TemporaryDirectory(prefix="rebake-bench-", ignore_cleanup_errors=True) as root:
        site = Site(Path(root))
        try:
            _must(site, "deploy", "production")
            rows = _deploys_and_undos(site, rounds) + _commands(site, rounds)
            _ten_environments(site)
            until(lambda: site.status()["rollout"] is None or site.status()["rollout"]["state"] == "soaking")
            rows += _agent(site, 10 if quick else 60)
        finally:
            for number in range(9):
                site.rebake("down", f"place{number}", "--yes")
            site.clear()
    return rows


if __name__ == "__main__":
    from benchmarks.table import show

    sys.exit(show(run("--quick" in sys.argv)))
