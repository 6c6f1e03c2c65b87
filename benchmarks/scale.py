"""How big: 12,000 idle environments and 100 rollouts on one engine, the cost of each environment, and no growth.

Real in here: the loop with its threads, the engine, `decide`, the judge, the jobs, the system's clock, and the ledger
(a SQLite file, synced to the disk; a PostgreSQL server that the tests' own helper starts, which does not sync).
Not real: instances and the route (`scale_world`): no machine has room for 24,000 processes; and requests are written
into the ledger as the desk writes them, without the API. Each engine is a process of its own, so memory (PSS) and
processor time are its alone; what PostgreSQL's server takes is not counted.

An environment has three revisions behind it and is looked at every ten seconds, the default. A rollout is a canary of
three steps with 200 requests a second, judged with endpoints and latency; a person begins the next when one has ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rebake.testing.postgresql import NotInstalled, PostgresqlServer

Row = dict[str, Any]

CURVE = (100, 1000, 4000, 12_000)
IDLE, ACTIVE = 12_000, 100
MOST_GIB, MOST_CORES = 0.5, 0.5
FINISHED = 10_000
KIB_A_ROLLOUT = 0.2
"""What is allowed as growth: two MiB over ten thousand rollouts, which the allocator takes and gives anyway."""


def _engine(where: str, idle: int, active: int, seconds: float) -> dict[str, Any]:
    return _json("benchmarks.scale_engine", where, str(idle), str(active), str(seconds))


def _json(module: str, *words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(figure: str, value: float, unit: str, bar: float | None = None, **more: Any) -> Row:
    ok = None if bar is None else value <= bar
    return {"figure": figure, "value": value, "unit": unit, "peer": "", "ratio": None, "bar": bar, "ok": ok} | more


def _loaded(name: str, where: str, idle: int, active: int, seconds: float) -> Iterator[Row]:
    """Everything at once. The bars are those of the full size; a smaller one must do with its part of them."""
    found = _engine(where, idle, active, seconds)
    part = (idle + active) / (IDLE + ACTIVE)
    title = f"{name}: {idle:,} idle environments and {active} rollouts"
    yield _row(f"{title}, memory", round(found["pss_kib"] / (1 << 20), 3), "GiB", MOST_GIB if part == 1 else None)
    yield _row(f"{title}, processor", round(found["cores"], 3), "cores", MOST_CORES if part == 1 else None)
    yield _row(f"{title}, looks", round(found["looks_a_second"]), "a second")
    yield _row(f"{title}, ledger entries", round(found["entries_a_second"], 1), "a second")
    yield _row(f"{title}, a look at a rollout comes late by, median", found["late_ms"][0], "ms")
    yield _row(f"{title}, a look at a rollout comes late by, 99 %", found["late_ms"][1], "ms")
    yield _row(f"{title}, all looked at after a start", round(found["known_seconds"], 1), "s")


def _curve(folder: Path, sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """Idle environments alone: what one of them costs, beyond an engine with a hundred."""
    found = {size: _engine(str(folder / f"curve-{size}.db"), size, 0, seconds) for size in sizes}
    least = found[sizes[0]]
    for size in sizes:
        cost = found[size]["cores"] / size * 1e6
        ratio = cost / (least["cores"] / sizes[0] * 1e6)
        peer = f"{sizes[0]} environments"
        yield _row(
            f"{size:,} idle environments: each", round(cost, 1), "µs a second", peer=peer, ratio=round(ratio, 2)
        ) | ({"bar": f"1.5 × of {peer}", "ok": ratio <= 1.5} if size == sizes[-1] else {})
    for size in sizes[1:]:
        each = (found[size]["pss_kib"] - least["pss_kib"]) / (size - sizes[0])
        yield _row(f"{size:,} idle environments: each more", round(each, 1), "KiB")


def _growth(rollouts: int) -> Row:
    found = _json("benchmarks.scale_growth", str(rollouts))
    title = f"memory that grows with each of {rollouts:,} finished rollouts"
    return _row(title, round(found["kib_a_rollout"], 3), "KiB", KIB_A_ROLLOUT)


def _postgresql(idle: int, active: int, seconds: float) -> Iterator[Row]:
    with PostgresqlServer() as server, server.database() as url:
        yield from _loaded("PostgreSQL", url, idle, active, seconds)


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}."""
    idle, active, seconds = (1000, 20, 10.0) if quick else (IDLE, ACTIVE, 60.0)
    with tempfile.TemporaryDirectory(prefix="rebake-bench-") as folder:
        rows = list(_loaded("SQLite", str(Path(folder, "state.db")), idle, active, seconds))
        rows += _curve(Path(folder), CURVE[:2] if quick else CURVE, seconds / 2)
    try:
        rows += _postgresql(idle, active, seconds)
    except NotInstalled as absent:
        print(f"left out: {absent}", file=sys.stderr)
    return [*rows, _growth(500 if quick else FINISHED)]


if __name__ == "__main__":
    from benchmarks.table import show

    sys.exit(show(run("--quick" in sys.argv)))
