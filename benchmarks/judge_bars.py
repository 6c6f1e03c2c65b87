"""The bars (a) to (g) of the judge's goal, the information limit, and rebake beside the best tuned peer, as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.judge_peers import PEERS
from benchmarks.judge_report import BASE, FAILING, HARD_NULLS, LOW_BASES, NULLS, Results, quantile_interval
from benchmarks.judge_report import share_interval as _share_interval
from benchmarks.judge_run import Outcome
from benchmarks.judge_world import RATES, SCENARIOS

CELL_RUNS = 400
TUNED_MAY_BLAME = 0.05
"""A peer that blames more good releases than this is not called tuned, however few requests it lets a bad one spoil."""
FROM_THE_LIMIT = 3.0

Row = dict[str, Any]


def bars(results: Results, rates: Sequence[float]) -> list[Row]:
    """Every bar as a row; `ok` is False where one is missed."""
    low = {"bases": LOW_BASES}
    rows = _blame_rows("(a)", results, NULLS)
    rows.append(_row(f"(a) false rollbacks, worst cell of {CELL_RUNS}", 100 * _worst_cell(results, NULLS), "%", 2.0))
    for scenario in FAILING:
        found = results.where("rebake", [scenario], rates=[r for r in rates if r >= 2], **low)
        rows += _bad_rows(f"(b) bad requests, {scenario}", found, 5, 10)
    found = results.where("rebake", ["+1 point"], rates=[r for r in rates if r >= 20], **low)
    rows += _bad_rows("(c) bad requests, +1 point", found, 14, 30)
    rows += [_promotion_row(results, rate) for rate in rates]
    rows += _bad_rows("(e) bad requests, late bomb, careful", results.where("rebake, careful", ["late bomb"]), 40)
    top = [r for r in rates if r >= 200]
    for scenario, limit in (("p99 x2", 80), ("p50 x1.2", 1800)):
        found = results.where("rebake", [scenario], rates=top, **low)
        rows += _bad_rows(f"(f) slowed requests, {scenario}", found, limit)
    rows += _blame_rows("(g)", results, HARD_NULLS)
    return rows + _against_the_limit(results, rates) + _against_peers(results, rates)


def _blame_rows(bar: str, results: Results, scenarios: Sequence[str]) -> list[Row]:
    rows = []
    for scenario in scenarios:
        hits, n = results.blamed("rebake", [scenario])
        if n:
            low, high = _share_interval(hits, n)
            rows.append(_row(f"{bar} false rollbacks, {scenario}, pooled over {n:,}", 100 * hits / n, "%", 1.0))
            rows[-1]["interval"] = [100 * low, 100 * high]
    return rows


def _worst_cell(results: Results, scenarios: Sequence[str]) -> float:
    """Largest share of rollbacks in any cell, large cells cut into pieces of `CELL_RUNS`."""
    shares = [0.0]
    for outcome in results.where("rebake", scenarios):
        n = len(outcome.bad)
        starts = range(0, max(n - CELL_RUNS, 0) + 1, CELL_RUNS)
        shares += [float(outcome.rolled_back[i : i + CELL_RUNS].mean()) for i in starts]
    return max(shares)


def _bad_rows(name: str, found: Sequence[Outcome], median: float, p95: float | None = None) -> list[Row]:
    """The worst cell's median (and 95th percentile) against its bar."""
    if not found:
        return []
    rows = []
    for q, what, bar in ((0.5, "median", median), (0.95, "95th percentile", p95)):
        if bar is not None:
            worst = max(found, key=lambda o, q=q: float(np.quantile(o.bad, q)))  # type: ignore[misc]
            rows.append(_row(f"{name}, {what}, worst cell", float(np.quantile(worst.bad, q)), "requests", bar))
            rows[-1]["interval"] = list(quantile_interval(worst.bad, q))
    return rows


def _promotion_row(results: Results, rate: float) -> Row:
    found = results.where("rebake", ["good"], rates=[rate])
    minutes = np.concatenate([o.promoted_at for o in found]) / 60 if found else np.array([np.nan])
    limit = 15.0 if rate >= 20 else 25.0 if rate >= 2 else 40.0
    row = _row(f"(d) minutes to promote a good release, {rate:g} req/s", float(np.median(minutes)), "min", limit)
    return row | {"interval": list(quantile_interval(minutes))}


def information_limit(excess: float, base: float, *, alpha: float = 0.01) -> float:
    """Fewest bad requests, on average, with which any test can stop a release and blame a good one with at most alpha.

    A sequential test needs ln(1/alpha) / KL(p1 || p0) candidate requests, of which `excess` are bad; one at least. It
    is told the usual failure rate and allows no margin, so no judge of real releases can reach it.

    Args:
        excess: share of the candidate's requests that the release spoils. base: usual failure rate.
    Source: JUDGE.md section 3; Wald 1945, section 4.
    """
    worse = min(base + excess, 1.0)
    gained = worse * math.log(worse / base) + ((1 - worse) * math.log((1 - worse) / (1 - base)) if worse < 1 else 0.0)
    return max(1.0, excess * math.log(1 / alpha) / gained)


def _against_the_limit(results: Results, rates: Sequence[float]) -> list[Row]:
    """Medians of 5 points and more, 20 requests a second and more, beside what no test can beat."""
    rows = []
    for scenario in FAILING:
        release = SCENARIOS[scenario]
        # An endpoint that always fails is seen as surely as a crash by whoever looks at that endpoint alone.
        excess = 1.0 if release.dead_endpoint else release.extra
        limit = information_limit(excess, BASE)
        for rate in (r for r in rates if r >= 20):
            ours = results.get("rebake", scenario, rate, BASE)
            if ours is not None:
                mine = float(np.median(ours.bad))
                figure = f"bad requests, {scenario}, {rate:g} req/s, beside the information limit of {limit:.1f}"
                rows.append(_row(figure, mine, "requests", None) | {"ok": mine <= FROM_THE_LIMIT * limit})
                rows[-1] |= {"bar": round(FROM_THE_LIMIT * limit, 1)}
    return rows


def _against_peers(results: Results, rates: Sequence[float]) -> list[Row]:
    """At 20 requests a second and more: our median over the best tuned peer's, at most a third."""
    rows = []
    tuned = [j for j in PEERS if _blames(results, j) <= TUNED_MAY_BLAME]
    for scenario in FAILING:
        for rate in (r for r in rates if r >= 20):
            ours = results.get("rebake", scenario, rate, BASE)
            theirs = {j: results.get(j, scenario, rate, BASE) for j in tuned}
            medians = {j: float(np.median(o.bad)) for j, o in theirs.items() if o is not None}
            if ours is None or not medians:
                continue
            peer = min(medians, key=lambda j: medians[j])
            mine = float(np.median(ours.bad))
            ratio = max(mine, 1.0) / max(medians[peer], 1e-9)
            row = _row(f"bad requests, {scenario}, {rate:g} req/s, beside the best tuned peer", mine, "requests", None)
            rows.append(row | {"peer": peer, "ratio": ratio, "bar": round(1 / 3, 3), "ok": ratio <= 1 / 3})
    return rows


def _blames(results: Results, judge: str) -> float:
    hits, n = results.blamed(judge, ["good"], rates=[r for r in RATES if r >= 20], bases=[BASE])
    return hits / n if n else 1.0


def _row(figure: str, value: float, unit: str, bar: float | None) -> Row:
    ok = True if bar is None else bool(value <= bar)
    return {"figure": figure, "value": value, "unit": unit, "peer": None, "ratio": None, "bar": bar, "ok": ok}


def sentence(row: Row) -> str:
    """One row as a line of the report."""
    ratio = f"  ({1 / row['ratio']:.1f} x fewer than {row['peer']})" if row["peer"] else ""
    bar = "" if row["bar"] is None else f"  bar {row['bar']:g}"
    sure = f" [{row['interval'][0]:.3g}, {row['interval'][1]:.3g}]" if row.get("interval") else ""
    mark = "ok    " if row["ok"] else "MISSED"
    return f"  {mark} {row['figure']}: {row['value']:.3g}{sure} {row['unit']}{bar}{ratio}"
