"""How many requests a bad release spoils before each judge takes it back, and how often a good one is blamed.

    make bench-judge
    python -m benchmarks.judge [--quick] [--seed N] [--scenario NAME ...] [--judge NAME ...] [--scale X] [--jobs N]
                               [--json FILE]

Runs rebake's own judge and the peers' rules in one simulated world (`judge_world`), seeded, on all cores, prints the
tables with 95 % intervals, and ends with exit code 1 when a bar of the judge's goal is missed (`judge_bars`).
`--quick` is the same with fewer runs and cells, in about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judge_bars import CELL_RUNS, bars, sentence
from benchmarks.judge_batch import Batch
from benchmarks.judge_peers import PEERS
from benchmarks.judge_report import (
    BASE,
    FAILING,
    HARD_NULLS,
    LOW_BASES,
    NULLS,
    SHOWN,
    Cell,
    Results,
    bad_table,
    blame_table,
    tables,
)
from benchmarks.judge_run import ACTUATION_SECONDS, Outcome, Policy, simulate
from benchmarks.judge_speed import speed_rows
from benchmarks.judge_world import BASE_RATES, RATES, SCENARIOS, World

OURS: dict[str, Callable[[World], Policy]] = {
    "rebake": lambda world: Batch(world, "default"),
    "rebake, acting in 0.2 s": lambda world: Batch(world, "default"),
    "rebake, fast": lambda world: Batch(world, "fast"),
    "rebake, careful": lambda world: Batch(world, "careful"),
}
JUDGES: dict[str, Callable[[World], Policy]] = {**OURS, **PEERS}
DT = {"Flagger, tuned": 10.0, "sequential test, 5 % + 5 %": 1.0, **dict.fromkeys(OURS, 1.0)}
ACTUATION = {"rebake, acting in 0.2 s": 0.2}
WITH_BARS = (*FAILING, "+1 point", "p50 x1.2", "p99 x2")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cells are run, and how many rollouts in each."""

    null_runs: int
    hard_runs: int
    runs: int
    peer_null_runs: int
    null_rates: tuple[float, ...] = RATES
    null_bases: tuple[float, ...] = BASE_RATES
    rates: tuple[float, ...] = RATES
    bases: tuple[float, ...] = LOW_BASES
    shown: tuple[str, ...] = SHOWN
    judges: tuple[str, ...] = tuple(JUDGES)
    seed: int = 0


FULL = Plan(null_runs=1000, hard_runs=CELL_RUNS, runs=CELL_RUNS, peer_null_runs=CELL_RUNS)
QUICK = Plan(
    null_runs=100,
    hard_runs=80,
    runs=200,
    peer_null_runs=60,
    null_rates=(200.0,),
    null_bases=(BASE,),
    rates=(20.0, 200.0),
    bases=(BASE,),
    shown=WITH_BARS,
    judges=("rebake", *PEERS),
)


def run_cell(cell: Cell, seed: int = 0) -> tuple[Cell, Outcome]:
    """One cell, seeded by its own name, so that it is the same in whichever plan and process it is run."""
    name = f"{cell.judge}|{cell.scenario}|{cell.rate}|{cell.base}" + (f"|{seed}" if seed else "")
    outcome = simulate(
        JUDGES[cell.judge],
        SCENARIOS[cell.scenario],
        cell.rate,
        cell.base,
        runs=cell.runs,
        seed=zlib.crc32(name.encode()),
        dt=DT.get(cell.judge, 60.0),
        actuation=ACTUATION.get(cell.judge, ACTUATION_SECONDS),
    )
    return cell, outcome


def cells_of(plan: Plan) -> list[Cell]:
    """All cells of a plan, each once, the longest first."""
    nulls = [(r, b) for r in plan.null_rates for b in plan.null_bases]
    wide = [(r, b) for r in plan.rates for b in plan.bases]
    cells = [Cell("rebake", s, r, b, plan.null_runs) for s in NULLS for r, b in nulls]
    cells += [Cell("rebake", s, r, b, plan.hard_runs) for s in HARD_NULLS for r, b in nulls]
    cells += [Cell("rebake", s, r, b, plan.runs) for s in WITH_BARS for r, b in wide]
    cells += [Cell("rebake, careful", "late bomb", r, b, plan.runs) for r, b in wide]
    cells += [Cell(j, s, r, BASE, plan.runs) for j in plan.judges for s in plan.shown for r in plan.rates]
    cells += [Cell(j, s, r, BASE, plan.peer_null_runs) for j in plan.judges for s in NULLS for r in plan.rates]
    cells = [c for c in cells if c.judge in plan.judges or (c.scenario == "late bomb" and "rebake" in plan.judges)]
    unique = {(c.judge, c.scenario, c.rate, c.base): c for c in reversed(cells)}
    return sorted(unique.values(), key=lambda c: (-_cost(c), c.judge, c.scenario, c.rate, c.base))


def _cost(cell: Cell) -> float:
    ticks = 3600 / DT.get(cell.judge, 60.0)
    return cell.runs * ticks * (1.0 if SCENARIOS[cell.scenario].good else 0.2)


# -- running ----------------------------------------------------------------------------------------------------


def measure(cells: Sequence[Cell], jobs: int, seed: int = 0) -> Results:
    """Run the cells on `jobs` processes."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for number, (cell, outcome) in enumerate(pool.map(run_cell, cells, [seed] * len(cells)), 1):
            done.append((cell, outcome))
            print(f"{number}/{len(cells)} {_progress(cell, outcome)}", file=sys.stderr, flush=True)
    return Results(done)


def _progress(cell: Cell, outcome: Outcome) -> str:
    return (
        f"{cell.judge}: {cell.scenario}, {cell.rate:g} req/s, usual {cell.base:g}: {len(outcome.bad)} runs, "
        f"{int(outcome.rolled_back.sum())} rolled back, {np.median(outcome.bad):.0f} bad requests"
    )


def _scaled(plan: Plan, scale: float) -> Plan:
    names = ("null_runs", "hard_runs", "runs", "peer_null_runs")
    return replace(plan, **{name: max(20, round(getattr(plan, name) * scale)) for name in names})


def run(quick: bool, jobs: int | None = None) -> list[dict[str, Any]]:
    """The figures with their bars, as rows for the project's report."""
    plan = QUICK if quick else FULL
    return speed_rows() + bars(measure(cells_of(plan), jobs or os.cpu_count() or 1), plan.rates)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and cells, about a minute")
    parser.add_argument("--seed", type=int, default=0, help="another set of rollouts (default 0)")
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only these, without bars")
    parser.add_argument("--judge", action="append", choices=list(JUDGES), help="only these; bars that need others go")
    parser.add_argument("--scale", type=float, default=1.0, help="this many times as many rollouts in every cell")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    plan = _scaled(QUICK if options.quick else FULL, options.scale)
    plan = replace(plan, judges=tuple(options.judge or plan.judges))
    cells = [c for c in cells_of(plan) if not options.scenario or c.scenario in options.scenario]
    results = measure(cells, options.jobs, options.seed)
    if options.scenario:
        bad = [s for s in options.scenario if not SCENARIOS[s].good]
        print("\n\n".join(bad_table(results, s, tuple(JUDGES), plan.rates) for s in bad))
        print(blame_table(results, tuple(JUDGES)))
        return 0
    print(tables(results, tuple(JUDGES), plan.shown, plan.rates))
    rows = bars(results, plan.rates) + speed_rows()
    print("\nBars\n" + "\n".join(sentence(row) for row in rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missed = sum(not row["ok"] for row in rows)
    print(f"\n{missed} of {len(rows)} bars missed" if missed else f"\nall {len(rows)} bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
