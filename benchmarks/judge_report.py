"""Outcomes of the judges' benchmark by cell, and the tables drawn from them, each figure with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, binom  # type: ignore[import-untyped]

from benchmarks.judge_run import Outcome
from benchmarks.judge_world import BASE_RATES, RATES, Floats

NULLS = ("good", "warm-up", "outage")
HARD_NULLS = ("retries", "weight +10 %", "weight -10 %")
FAILING = ("crash", "+20 points", "+5 points", "endpoint")
SHOWN = (*FAILING, "+1 point", "+0.5 points", "leak", "late bomb", "p50 x1.2", "p99 x2")
LOW_BASES = tuple(b for b in BASE_RATES if b <= 1e-3)
BASE = 1e-3
"""The usual failure rate at which judges are set side by side."""


@dataclass(frozen=True, slots=True)
class Cell:
    judge: str
    scenario: str
    rate: float
    base: float
    runs: int


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


# -- intervals --------------------------------------------------------------------------------------------------


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % Clopper-Pearson interval."""
    low = float(beta.ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0


def quantile_interval(values: Floats, q: float = 0.5) -> tuple[float, float]:
    """95 % interval of a quantile by order statistics; infinite values are only large ones."""
    ordered, n = np.sort(values), len(values)
    low, high = int(binom.ppf(0.025, n, q)), int(binom.ppf(0.975, n, q))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(high, n - 1)])


def figure(values: Floats, q: float = 0.5, *, digits: int = 0) -> str:
    """ "3 [3, 4]": a quantile with its interval."""
    low, high = quantile_interval(values, q)
    middle = float(np.quantile(values, q, method="inverted_cdf"))
    return f"{_plain(middle, digits)} [{_plain(low, digits)}, {_plain(high, digits)}]"


def _plain(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "never"


# -- tables -----------------------------------------------------------------------------------------------------


def tables(results: Results, judges: Sequence[str], scenarios: Sequence[str], rates: Sequence[float]) -> str:
    """All tables as text: false rollbacks, then for each scenario bad requests and seconds, then minutes to promote."""
    parts = [blame_table(results, judges)]
    parts += [bad_table(results, scenario, judges, rates) for scenario in scenarios]
    parts.append(_promotion_table(results, judges, rates))
    return "\n\n".join(parts)


def blame_table(results: Results, judges: Sequence[str]) -> str:
    lines = ["False rollbacks of good releases, all rates pooled at a usual failure rate of 0.1 % [95 % interval]"]
    for judge in judges:
        cells = []
        for scenario in NULLS:
            hits, n = results.blamed(judge, [scenario], bases=[BASE])
            if not n:
                continue
            low, high = share_interval(hits, n)
            cells.append(f"{scenario} {100 * hits / n:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
        lines += [f"  {judge:28s} " + "   ".join(cells)] if cells else []
    return "\n".join(lines)


def bad_table(results: Results, scenario: str, judges: Sequence[str], rates: Sequence[float]) -> str:
    """Three tables of one scenario: requests spoiled (median and 95th percentile), seconds to the decision."""
    parts: list[tuple[str, Callable[[Outcome], str]]] = [
        ("bad requests, median", lambda o: figure(o.bad)),
        ("bad requests, 95th percentile", lambda o: figure(o.bad, 0.95)),
        ("seconds to decide, median; rolled back", _decided),
    ]
    head = "  " + " " * 28 + "".join(f"{f'{r:g} req/s':>32s}" for r in rates)
    lines = []
    for name, show in parts:
        lines += [f"{scenario}: {name} [95 % interval]", head]
        for judge in judges:
            cells = [results.get(judge, scenario, rate, BASE) for rate in rates]
            if any(cells):
                lines.append(f"  {judge:28s}" + "".join(f"{'-' if o is None else show(o):>32s}" for o in cells))
    return "\n".join(lines)


def _decided(outcome: Outcome) -> str:
    return f"{figure(outcome.decided_at)} s; {100 * outcome.rolled_back.mean():.0f} %"


def _promotion_table(results: Results, judges: Sequence[str], rates: Sequence[float]) -> str:
    lines = ["Minutes until a good release is promoted, median [95 % interval]"]
    for judge in judges:
        cells = []
        for rate in rates:
            found = results.where(judge, ["good"], rates=[rate], bases=[BASE])
            if found:
                minutes = np.concatenate([o.promoted_at for o in found]) / 60.0
                cells.append(f"{rate:g} req/s: {figure(minutes, digits=1)}")
        lines += [f"  {judge:28s} " + "   ".join(cells)] if cells else []
    return "\n".join(lines)
