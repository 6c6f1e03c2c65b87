"""The two tests for metrics that are not the route's own requests. Pure, incremental, constant memory.

They are weaker than the judge's test on requests, because nobody drew by lot on which cohort these events fall: each
says in `assumption` what it must take for granted. Both keep the form of a bet: wealth that begins at 1, and that
nobody can expect to multiply under "the candidate is no worse than the margins allow".

The rules that keep them valid (edit with care):
- bets, running rate and margin are fixed before the reading they are used for;
- what one reading can win is capped (`MOST_WON`); capping only loses wealth. So no single interval decides: a source
  that saw an outage of both cohorts on one of them first cannot take a good release back;
- what it can lose is not capped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rebake.judge.eprocess import LARGEST, SMALLEST_SHARE, Counts, Floats, capped_bets, log_factors, odds, staked_by
from rebake.judge.margins import STANDARD_ERRORS
from rebake.judge.metrics import ERROR_BETS

MOST_WON = math.log(4.0)
"""Logarithm of what one interval can multiply the wealth by."""
MEMORY_SECONDS = 600.0
PRIOR_COUNT = 20.0
"""Weight of the prior rate of zero: soon outgrown by what stable shows."""
NUMBER_BETS = (0.3, 0.8, 1.4, 1.8)
"""Bets on the mean of values in [0, 1] against 1/2; below 2 no factor is negative."""
ALONE_SPANS = 4

Pair = tuple[float, float]


@dataclass(slots=True)
class Wealth:
    """Several bets and start times of one metric, averaged: S <- (S + pi) x factor, as in `eprocess`."""

    bets: int
    clock: float = 0.0
    parts: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.parts.size:
            self.parts = np.full(self.bets, staked_by(0.0) / self.bets)

    def multiply(self, now: float, log_factor: Floats) -> None:
        """Let an interval that ends at `now` (seconds since the first) multiply the wealth."""
        before = staked_by(self.clock)
        self.clock = max(self.clock, now)
        stake = (staked_by(self.clock) - before) / self.bets
        grown = (self.parts + stake) * np.exp(np.clip(log_factor, -600.0, MOST_WON))
        self.parts = np.minimum(grown, LARGEST)

    @property
    def evidence(self) -> float:
        return float(1.0 - staked_by(self.clock) + self.parts.sum())

    def state(self) -> dict[str, Any]:
        return {"clock": self.clock, "parts": self.parts.tolist()}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Wealth:
        parts = np.array(state["parts"], dtype=np.float64)
        return cls(len(parts), float(state["clock"]), parts)


@dataclass(slots=True)
class ShareTest:
    """Is the candidate's share of hits above ratio x stable's + extra?

    The bets of `eprocess`, with the share of the events that fell to the candidate as it turned out, o = n1/n0,
    instead of a share that was drawn by. For n1 independent events with mean probability p1 and n0 with p0, by
    concavity of the logarithm, log E <= n1 l (p1 - c - delta) - n0 l o (rho p0 - c) = n1 l (p1 - rho p0 - delta) <= 0
    under the hypothesis. So within one interval events must be independent; between intervals nothing is assumed.
    With `weight` (the total is the requests that were dealt by it) no independence is needed.

    Source: Waudby-Smith, Ramdas 2024, section 4; Turner, Ly, Grünwald 2024, "Generic E-variables for exact sequential
        k-sample tests", section 2 (tests conditional on the counts of the blocks).
    """

    ratio: float
    extra: float
    wealth: Wealth = field(default_factory=lambda: Wealth(len(ERROR_BETS)))
    seen: Pair = (0.0, 0.0)

    def update(self, now: float, dt: float, candidate: Pair, stable: Pair, weight: float | None = None) -> bool:
        """Take in one interval: (hits, total) of both cohorts.

        Args:
            now: seconds since the metric's first reading. weight: the candidate's share that requests were dealt by.
        Returns: whether there was something to compare.
        """
        (k1, n1), (k0, n0) = _clamped(candidate), _clamped(stable)
        compared = n1 > 0 and n0 > 0 and (weight is None or SMALLEST_SHARE <= weight <= 1 - SMALLEST_SHARE)
        if compared:
            odd = n1 / n0 if weight is None else odds(weight)
            self.wealth.multiply(now, self._log_factors((k1, n1), (k0, n0), odd))
        keep = math.exp(-max(dt, 0.0) / MEMORY_SECONDS)
        self.seen = (self.seen[0] * keep + k0, self.seen[1] * keep + n0)
        return compared

    def _log_factors(self, candidate: Pair, stable: Pair, odd: float) -> Floats:
        center = np.array([self.seen[0] / (self.seen[1] + PRIOR_COUNT)])
        extra, ratio = np.array([self.extra]), np.array([self.ratio])
        (k1, n1), (k0, n0) = candidate, stable
        counts = Counts(np.array([n1]), np.array([k1]), np.array([n0]), np.array([k0]))
        bets = capped_bets(np.array([ERROR_BETS]), center, extra, ratio, odd)
        factors: Floats = log_factors(bets, counts, center=center, extra=extra, ratio=ratio, odd=odd)[0]
        return factors

    def state(self) -> dict[str, Any]:
        return {"wealth": self.wealth.state(), "seen": list(self.seen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.wealth = Wealth.restore(state["wealth"])
        self.seen = (float(state["seen"][0]), float(state["seen"][1]))


def _clamped(pair: Pair) -> Pair:
    hits, total = (value if math.isfinite(value) else 0.0 for value in pair)
    total = min(max(total, 0.0), 1e15)
    return min(max(hits, 0.0), total), total


@dataclass(slots=True)
class Spread:
    """What stable's own instances differ by for longer than a span: placement, not harm.

    A difference that lasts shows in the covariance between an instance's deviation from the others in one span and
    in the next; noise that a span forgets does not. The deviations of s instances sum to zero, so the sum of their
    products has mean (s - 1) times that covariance.

    Attributes:
        lasting: its standard deviation for one instance, relative to the level of the metric.
        sums: of the span under way, by instance. before: deviations of the last one.
        products: (sum, count) of the covariances so far.
    """

    sums: dict[str, Pair] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    products: Pair = (0.0, 0.0)

    def add(self, numbers: Mapping[str, float]) -> None:
        for unit, value in numbers.items():
            total, count = self.sums.get(unit, (0.0, 0.0))
            self.sums[unit] = (total + value, count + 1.0)

    def close(self) -> None:
        """A span is over."""
        means = {unit: total / count for unit, (total, count) in self.sums.items()}
        self.sums = {}
        middle = sum(means.values()) / len(means) if means else 0.0
        now = {unit: (mean - middle) / abs(middle) for unit, mean in means.items()} if middle else {}
        both = now.keys() & self.before.keys()
        if len(both) > 1:
            covariance = sum(now[unit] * self.before[unit] for unit in both) / (len(both) - 1)
            self.products = (self.products[0] + covariance, self.products[1] + 1.0)
        self.before = now

    @property
    def lasting(self) -> float:
        total, count = self.products
        return math.sqrt(max(total / count, 0.0)) if count else 0.0

    def state(self) -> dict[str, Any]:
        sums = {unit: list(pair) for unit, pair in self.sums.items()}
        return {"sums": sums, "before": dict(self.before), "products": list(self.products)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Spread:
        sums = {unit: (float(pair[0]), float(pair[1])) for unit, pair in state["sums"].items()}
        return cls(sums, dict(state["before"]), (float(state["products"][0]), float(state["products"][1])))


@dataclass(slots=True)
class NumberTest:
    """Is the candidate's number more often than not worse than stable's by more than the margin?

    In each reading u is the part of all pairs (an instance of the candidate, one of stable's) in which the candidate's
    is worse by more than the margin; a tie counts half. Where instances are exchangeable within the margin, u has mean
    at most 1/2 whatever its distribution and whatever moves all instances together, so 1 + l (u - 1/2) is a fair bet.
    What one reading says of the next (a queue that was long is long) would break it, so the readings of one span are
    averaged into one u. What lasts for longer than a span is measured on stable's own instances, and the margin is
    raised to three standard errors of it (`Spread`). A cohort that is one number shows no such thing: its spans are
    four times as long.

    Source: Waudby-Smith, Ramdas 2024, section 4.1 (betting on bounded means); Howard, Ramdas, McAuliffe, Sekhon 2021,
        section 3 (sign tests under exchangeability); Mann, Whitney 1947 (u).
    """

    percent: float
    absolute: float
    higher_is_worse: bool
    span_seconds: float
    wealth: Wealth = field(default_factory=lambda: Wealth(len(NUMBER_BETS)))
    until: float | None = None
    pairs: Pair = (0.0, 0.0)
    spread: Spread = field(default_factory=Spread)
    widened: float = 0.0

    def update(self, now: float, candidate: Mapping[str, float], stable: Mapping[str, float]) -> bool:
        """Take in one reading: numbers by unit, at `now` seconds since the first.

        Returns: whether there was something to compare.
        """
        if self.until is not None and now >= self.until:
            self._close(now)
        if not candidate or not stable:
            return False
        if self.until is None:
            self._open(now, len(candidate), len(stable))
        u = worse_pairs(list(candidate.values()), self._limits(list(stable.values())), self.higher_is_worse)
        self.pairs = (self.pairs[0] + u, self.pairs[1] + 1.0)
        self.spread.add(stable)
        return True

    def _open(self, now: float, candidates: int, stables: int) -> None:
        """A span begins: its length and its margin are what is known by now."""
        self.until = now + self.span_seconds * (1 if stables > 1 else ALONE_SPANS)
        self.widened = STANDARD_ERRORS * self.spread.lasting * math.sqrt(1.0 / candidates + 1.0 / stables)

    def _close(self, now: float) -> None:
        total, count = self.pairs
        if count:
            self.wealth.multiply(now, np.log1p(np.array(NUMBER_BETS) * (total / count - 0.5)))
        self.spread.close()
        self.until, self.pairs = None, (0.0, 0.0)

    def _limits(self, stable: Sequence[float]) -> list[float]:
        sign = 1.0 if self.higher_is_worse else -1.0
        return [y + sign * (max(self.percent, self.widened) * abs(y) + self.absolute) for y in stable]

    def state(self) -> dict[str, Any]:
        return {
            "wealth": self.wealth.state(),
            "until": self.until,
            "pairs": list(self.pairs),
            "spread": self.spread.state(),
            "widened": self.widened,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.wealth = Wealth.restore(state["wealth"])
        self.until, self.widened = state["until"], float(state["widened"])
        self.pairs = (float(state["pairs"][0]), float(state["pairs"][1]))
        self.spread = Spread.restore(state["spread"])


def worse_pairs(candidate: Sequence[float], limits: Sequence[float], higher_is_worse: bool) -> float:
    """The part of all pairs in which the candidate's number lies beyond the limit; a tie counts half.

    >>> worse_pairs([3.0, 1.0], [2.0, 1.0], True)
    0.625
    """
    difference = np.subtract.outer(np.asarray(candidate, dtype=np.float64), np.asarray(limits, dtype=np.float64))
    signs = np.sign(difference if higher_is_worse else -difference)
    return float((1.0 + signs).mean() / 2.0)
