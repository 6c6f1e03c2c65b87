"""How many requests a bad release spoils before each judge takes it back, and how often a good one is blamed.

    python -m benchmarks.judge [--quick] [--scenario NAME ...] [--judge NAME ...] [--scale X] [--jobs N] [--json FILE]

Runs rebake's own judge and the peers' rules in one simulated world (`judge_world`), seeded, on all cores, prints the
tables with 95 % intervals, and ends with exit code 1 when a bar of JUDGE.md section 2 is missed. `--quick` is the same
with fewer runs and cells, in less than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta, binom  # type: ignore[import-untyped]

from benchmarks.judge_batch import Batch
from benchmarks.judge_peers import PEERS
from benchmarks.judge_run import ACTUATION_SECONDS, Outcome, Policy, simulate
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

NULLS = ("good", "warm-up", "outage")
HARD_NULLS = ("retries", "weight +10 %", "weight -10 %")
FAILING = ("crash", "+20 points", "+5 points", "endpoint")
SHOWN = (*FAILING, "+1 point", "+0.5 points", "leak", "late bomb", "p50 x1.2", "p99 x2")
LOW_BASES = tuple(b for b in BASE_RATES if b <= 1e-3)
BASE = 1e-3
CELL_RUNS = 400
TUNED_MAY_BLAME = 0.05
"""A peer that blames more good releases than this is not called tuned, however few requests it lets a bad one spoil."""


@dataclass(frozen=True, slots=True)
class Cell:
    judge: str
    scenario: str
    rate: float
    base: float
    runs: int


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
    shown=(*FAILING, "+1 point", "p50 x1.2", "p99 x2"),
    judges=("rebake", *PEERS),
)


def run_cell(cell: Cell) -> tuple[Cell, Outcome]:
    """One cell, seeded by its own name, so that it is the same in whichever plan and process it is run."""
    seed = zlib.crc32(f"{cell.judge}|{cell.scenario}|{cell.rate}|{cell.base}".encode())
    outcome = simulate(
        JUDGES[cell.judge],
        SCENARIOS[cell.scenario],
        cell.rate,
        cell.base,
        runs=cell.runs,
        seed=seed,
        dt=DT.get(cell.judge, 60.0),
        actuation=ACTUATION.get(cell.judge, ACTUATION_SECONDS),
    )
    return cell, outcome


def cells_of(plan: Plan) -> list[Cell]:
    """All cells of a plan, each once, the longest first."""
    cells = [Cell("rebake", s, r, b, plan.null_runs) for s in NULLS for r in plan.null_rates for b in plan.null_bases]
    cells += [
        Cell("rebake", s, r, b, plan.hard_runs) for s in HARD_NULLS for r in plan.null_rates for b in plan.null_bases
    ]
    cells += [
        Cell("rebake", s, r, b, plan.runs) for s in (*FAILING, "+1 point") for r in plan.rates for b in plan.bases
    ]
    cells += [Cell("rebake, careful", "late bomb", r, b, plan.runs) for r in plan.rates for b in plan.bases]
    cells += [Cell(j, s, r, BASE, plan.runs) for j in plan.judges for s in plan.shown for r in plan.rates]
    cells += [Cell(j, s, r, BASE, plan.peer_null_runs) for j in plan.judges for s in NULLS for r in plan.rates]
    cells = [c for c in cells if c.judge in plan.judges or (c.scenario == "late bomb" and "rebake" in plan.judges)]
    unique = {(c.judge, c.scenario, c.rate, c.base): c for c in reversed(cells)}
    return sorted(unique.values(), key=lambda c: (-_cost(c), c.judge, c.scenario, c.rate, c.base))


def _cost(cell: Cell) -> float:
    ticks = 3600 / DT.get(cell.judge, 60.0)
    return cell.runs * ticks * (1.0 if SCENARIOS[cell.scenario].good else 0.2)


class Results:
    """Outcomes by cell, and the figures drawn from them."""

    def __init__(self, outcomes: Iterable[tuple[Cell, Outcome]]) -> None:
        self.by_cell = {(c.judge, c.scenario, c.rate, c.base): o for c, o in outcomes}

    def get(self, judge: str, scenario: str, rate: float, base: float) -> Outcome | None:
        return self.by_cell.get((judge, scenario, rate, base))

    def where(self, judge: str, scenarios: Sequence[str], **also: Any) -> list[Outcome]:
        """Outcomes of a judge in these scenarios; also: `rates`, `bases`."""
        return [
            o
            for (j, s, r, b), o in self.by_cell.items()
            if j == judge and s in scenarios and r in also.get("rates", RATES) and b in also.get("bases", BASE_RATES)
        ]

    def blamed(self, judge: str, scenarios: Sequence[str], **also: Any) -> tuple[int, int]:
        """(rollbacks, runs) pooled."""
        found = self.where(judge, scenarios, **also)
        return sum(int(o.rolled_back.sum()) for o in found), sum(len(o.bad) for o in found)


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % Clopper-Pearson interval."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the median by order statistics."""
    ordered, n = np.sort(values), len(values)
    low = int(binom.ppf(0.025, n, 0.5))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(n - low, n - 1)])


def bars(results: Results, plan: Plan) -> list[dict[str, Any]]:
    """The bars (a) to (g) of JUDGE.md section 2 as rows; `ok` is False where one is missed."""
    rows = []
    for scenario in NULLS:
        hits, n = results.blamed("rebake", [scenario])
        rows.append(_row(f"(a) false rollbacks, {scenario}, pooled over {n:,}", 100 * hits / n, "%", 1.0))
    rows.append(_row(f"(a) false rollbacks, worst cell of {CELL_RUNS}", 100 * _worst_cell(results, NULLS), "%", 2.0))
    high = [r for r in plan.rates if r >= 20]
    for scenario in FAILING:
        found = results.where("rebake", [scenario], rates=[r for r in plan.rates if r >= 2], bases=LOW_BASES)
        rows += _bad_rows(f"(b) bad requests, {scenario}", found, 5, 10)
    rows += _bad_rows(
        "(c) bad requests, +1 point", results.where("rebake", ["+1 point"], rates=high, bases=LOW_BASES), 14, 30
    )
    for rate in plan.rates:
        found = results.where("rebake", ["good"], rates=[rate])
        limit = 15.0 if rate >= 20 else 25.0 if rate >= 2 else 40.0
        minutes = float(np.median(np.concatenate([o.promoted_at for o in found]))) / 60 if found else np.nan
        rows.append(_row(f"(d) minutes to promote a good release, {rate:g} req/s", minutes, "min", limit))
    bombs = results.where("rebake, careful", ["late bomb"])
    rows += _bad_rows("(e) bad requests, late bomb, careful", bombs, 40, None) if bombs else []
    top = [r for r in plan.rates if r >= 200]
    for scenario, limit in (("p99 x2", 80), ("p50 x1.2", 1800)):
        rows += _bad_rows(
            f"(f) slowed requests, {scenario}", results.where("rebake", [scenario], rates=top), limit, None
        )
    for scenario in HARD_NULLS:
        hits, n = results.blamed("rebake", [scenario])
        rows.append(_row(f"(g) false rollbacks, {scenario}, pooled over {n:,}", 100 * hits / n, "%", 1.0))
    return rows + _against_peers(results, plan)


def _worst_cell(results: Results, scenarios: Sequence[str]) -> float:
    """Largest share of rollbacks in any cell, large cells cut into pieces of `CELL_RUNS`."""
    shares = [0.0]
    for outcome in results.where("rebake", scenarios):
        n = len(outcome.bad)
        whole = [outcome.rolled_back[i : i + CELL_RUNS] for i in range(0, max(n - CELL_RUNS, 0) + 1, CELL_RUNS)]
        shares += [float(piece.mean()) for piece in whole]
    return max(shares)


def _bad_rows(figure: str, found: Sequence[Outcome], median: float, p95: float | None) -> list[dict[str, Any]]:
    """The worst cell's median (and 95th percentile) against its bar."""
    rows = [_row(f"{figure}, median, worst cell", max(float(np.median(o.bad)) for o in found), "requests", median)]
    if p95 is not None:
        worst = max(float(np.percentile(o.bad, 95)) for o in found)
        rows.append(_row(f"{figure}, 95th percentile, worst cell", worst, "requests", p95))
    return rows


def _against_peers(results: Results, plan: Plan) -> list[dict[str, Any]]:
    """At 20 requests a second and more: the our median over the best tuned peer's, at most a third."""
    rows = []
    tuned = [j for j in PEERS if _blames(results, j) <= TUNED_MAY_BLAME]
    for scenario in FAILING:
        for rate in (r for r in plan.rates if r >= 20):
            ours = results.get("rebake", scenario, rate, BASE)
            theirs = {j: results.get(j, scenario, rate, BASE) for j in tuned}
            medians = {j: float(np.median(o.bad)) for j, o in theirs.items() if o is not None}
            if ours is None or not medians:
                continue
            peer = min(medians, key=lambda j: medians[j])
            mine = float(np.median(ours.bad))
            rows.append(
                _row(f"bad requests, {scenario}, {rate:g} req/s, beside the best tuned peer", mine, "requests", None)
                | {"peer": peer, "ratio": max(mine, 1.0) / max(medians[peer], 1e-9), "bar": round(1 / 3, 3)}
            )
            rows[-1]["ok"] = rows[-1]["ratio"] <= 1 / 3
    return rows


def _blames(results: Results, judge: str) -> float:
    hits, n = results.blamed(judge, ["good"], rates=[r for r in RATES if r >= 20], bases=[BASE])
    return hits / n if n else 1.0


def _row(figure: str, value: float, unit: str, bar: float | None) -> dict[str, Any]:
    ok = True if bar is None else bool(value <= bar)
    return {"figure": figure, "value": value, "unit": unit, "peer": None, "ratio": None, "bar": bar, "ok": ok}


# -- tables -----------------------------------------------------------------------------------------------------


def tables(results: Results, plan: Plan) -> str:
    parts = [_blame_table(results)]
    parts += [_bad_table(results, scenario, plan) for scenario in plan.shown]
    parts.append(_promotion_table(results, plan))
    return "\n\n".join(parts)


def _blame_table(results: Results) -> str:
    lines = ["False rollbacks of good releases, all rates pooled at a usual failure rate of 0.1 % [95 % interval]"]
    for judge in JUDGES:
        cells = []
        for scenario in NULLS:
            hits, n = results.blamed(judge, [scenario], bases=[BASE])
            if not n:
                continue
            low, high = share_interval(hits, n)
            cells.append(f"{scenario} {100 * hits / max(n, 1):5.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        lines += [f"  {judge:28s} " + "   ".join(cells)] if cells else []
    return "\n".join(lines)


def _bad_table(results: Results, scenario: str, plan: Plan) -> str:
    lines = [
        f"{scenario}: bad requests, median [95 % interval] / 95th percentile; seconds to decide (median); caught",
        "  " + " " * 28 + "".join(f"{f'{r:g} req/s':>40s}" for r in plan.rates),
    ]
    for judge in JUDGES:
        cells = [results.get(judge, scenario, rate, BASE) for rate in plan.rates]
        if any(cells):
            lines.append(f"  {judge:28s}" + "".join(f" {_bad_cell(o):>39s}" for o in cells))
    return "\n".join(lines)


def _bad_cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    low, high = median_interval(outcome.bad)
    seconds = float(np.median(outcome.decided_at))
    when = f"{seconds:.0f} s" if np.isfinite(seconds) else "never"
    median, p95 = np.median(outcome.bad), np.percentile(outcome.bad, 95)
    return f"{median:.0f} [{low:.0f}, {high:.0f}] / {p95:.0f}; {when}; {100 * outcome.rolled_back.mean():.0f} %"


def _promotion_table(results: Results, plan: Plan) -> str:
    lines = ["Minutes until a good release is promoted (median)"]
    for judge in plan.judges:
        cells = []
        for rate in plan.rates:
            found = results.where(judge, ["good"], rates=[rate], bases=[BASE])
            minutes = float(np.median(np.concatenate([o.promoted_at for o in found]))) / 60 if found else np.nan
            cells.append(f"{rate:g} req/s: " + (f"{minutes:.1f}" if np.isfinite(minutes) else "never"))
        lines.append(f"  {judge:28s} " + "   ".join(cells))
    return "\n".join(lines)


# -- running ----------------------------------------------------------------------------------------------------


def measure(cells: Sequence[Cell], jobs: int) -> Results:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for number, (cell, outcome) in enumerate(pool.map(run_cell, cells), 1):
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
    return bars(measure(cells_of(plan), jobs or os.cpu_count() or 1), plan)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and cells, under a minute")
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only these, without bars")
    parser.add_argument("--judge", action="append", choices=list(JUDGES), help="only these; bars that need others go")
    parser.add_argument("--scale", type=float, default=1.0, help="this many times as many rollouts in every cell")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args(argv)
    plan = _scaled(QUICK if options.quick else FULL, options.scale)
    plan = replace(plan, judges=tuple(options.judge or plan.judges))
    cells = [c for c in cells_of(plan) if not options.scenario or c.scenario in options.scenario]
    results = measure(cells, options.jobs)
    if options.scenario:
        print("\n\n".join(_bad_table(results, s, plan) for s in options.scenario if not SCENARIOS[s].good))
        print(_blame_table(results))
        return 0
    print(tables(results, plan))
    rows = bars(results, plan)
    print("\nBars")
    for row in rows:
        ratio = f"  ({1 / row['ratio']:.1f} x fewer than {row['peer']})" if row["peer"] else ""
        bar = "" if row["bar"] is None else f"  bar {row['bar']:g}"
        print(f"  {'ok    ' if row['ok'] else 'MISSED'} {row['figure']}: {row['value']:.3g} {row['unit']}{bar}{ratio}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    missed = sum(not row["ok"] for row in rows)
    print(f"\n{missed} of {len(rows)} bars missed" if missed else f"\nall {len(rows)} bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
