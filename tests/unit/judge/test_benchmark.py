"""`make bench-judge` in a reduced form: every bar that a few rollouts can show, and the report's own figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks import judge as benchmark
from benchmarks.judge_bars import bars, information_limit, sentence
from benchmarks.judge_report import BASE, FAILING, Cell, Results, quantile_interval, share_interval, tables
from benchmarks.judge_run import Outcome
from benchmarks.judge_world import SCENARIOS

REDUCED = replace(
    benchmark.QUICK,
    null_runs=40,
    hard_runs=40,
    runs=100,
    peer_null_runs=40,
    rates=(200.0,),
    judges=("rebake", "Flagger, tuned", "Argo Rollouts, documented", "Kamal"),
)
LEFT_OUT = ("warm-up", "weight +10 %", "weight -10 %")
"""An hour each to simulate, and much like the others."""


@pytest.fixture(scope="module")
def results() -> Results:
    cells = [c for c in benchmark.cells_of(REDUCED) if c.scenario not in LEFT_OUT]
    return Results(benchmark.run_cell(cell) for cell in cells)


def test_no_bar_is_surely_missed_in_the_reduced_world(results: Results) -> None:
    rows = bars(results, REDUCED.rates)
    surely = [row for row in rows if not row["ok"] and row.get("interval", [row["bar"]])[0] > row["bar"]]
    assert [sentence(row) for row in surely] == []
    named = " ".join(row["figure"] for row in rows)
    assert all(f"({bar})" in named for bar in "abcdefg")
    assert "beside the best tuned peer" in named
    assert "information limit" in named


def test_the_tables_name_every_judge_with_its_interval(results: Results) -> None:
    text = tables(results, REDUCED.judges, REDUCED.shown, REDUCED.rates)
    for judge in REDUCED.judges:
        assert judge in text
    assert "Minutes until a good release is promoted, median [95 % interval]" in text
    assert "crash: bad requests, 95th percentile" in text


def test_a_missed_bar_is_told_and_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def blind(cell: Cell, _seed: int = 0) -> tuple[Cell, Outcome]:
        never = np.full(cell.runs, np.inf)
        return cell, Outcome(np.zeros(cell.runs, bool), never, never, np.full(cell.runs, 10_000.0))

    def measure(cells: list[Cell], _jobs: int, seed: int) -> Results:
        return Results(blind(cell, seed) for cell in cells)

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "speed_rows", list)
    assert benchmark.main(["--quick", "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "MISSED (b) bad requests, crash, median, worst cell: 1e+04 [1e+04, 1e+04] requests  bar 5" in out
    assert "bars missed" in out


def test_other_seeds_are_other_rollouts_and_the_same_seed_is_the_same() -> None:
    cell = Cell("rebake", "+5 points", 20.0, BASE, 20)
    first, again, other = (benchmark.run_cell(cell, seed)[1].bad.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_full_plan_has_the_whole_world() -> None:
    cells = benchmark.cells_of(benchmark.FULL)
    pooled = {s: sum(c.runs for c in cells if c.judge == "rebake" and c.scenario == s) for s in ("good", "outage")}
    assert pooled == {"good": 20_000, "outage": 20_000}
    assert {c.runs for c in cells} == {400, 1000}
    wide = {(c.rate, c.base) for c in cells if c.judge == "rebake" and c.scenario == "crash"}
    assert len(wide) == 15
    assert {c.judge for c in cells} == set(benchmark.JUDGES)
    assert {c.scenario for c in cells} == set(SCENARIOS)


def test_the_information_limit_is_that_of_the_study() -> None:
    """JUDGE.md section 3, first line: usual rate 0.1 %, known exactly."""
    excesses = (1.0, 0.05, 0.01, 0.005)
    assert [round(information_limit(x, BASE), 1) for x in excesses] == [1.0, 1.5, 2.8, 4.0]
    assert len(FAILING) == 4


def test_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(3)
    medians = [quantile_interval(rng.normal(0.0, 1.0, 100)) for _ in range(400)]
    assert np.mean([low <= 0.0 <= high for low, high in medians]) >= 0.93
    low, high = share_interval(0, 20_000)
    assert (low, round(high, 6)) == (0.0, 0.000184)
