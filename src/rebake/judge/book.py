"""The gambler's book: wealth by metric and bet, the running rates the bets are centred on, and the totals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rebake.judge.eprocess import (
    Counts,
    Floats,
    advance,
    capped_bets,
    capped_pair_bets,
    log_factors,
    log_pair_factors,
    staked_by,
)
from rebake.judge.metrics import Row

MEMORY_SECONDS = 60.0
PRIOR_REQUESTS = 200.0
PRIOR_REQUESTS_UNKNOWN = 20.0
"""Weight of the prior rate of zero when there is no history: soon outgrown by what stable shows."""


class Book:
    """Accounts for a growing list of rows. All arrays have the rows first; constant memory once the rows are known.

    Each row's e-value is its share of the wealth: what is not yet at stake, plus what the bets hold. Rows that come
    later (an endpoint first seen now) are opened with wealth kept back for them, so the sum stays an e-process.
    Source: Vovk, Wang 2021, "E-values: calibration, combination and applications", section 3 (averages are valid
    under any dependence).
    """

    def __init__(self, rows: Sequence[Row], *, prior_requests: float) -> None:
        self.prior_requests = prior_requests
        self.rows: list[Row] = []
        self.clock = 0.0
        bets = 7
        self.wealth: Floats = np.zeros((0, bets))
        self.bets: Floats = np.zeros((0, bets))
        self.constants: Floats = np.zeros((0, 4))
        self.memory: Floats = np.zeros((0, 2))
        self.totals: Floats = np.zeros((0, 4))
        self.open(rows)

    def open(self, rows: Sequence[Row]) -> None:
        """Add rows. What would be at stake by now is put at stake at once."""
        if not rows:
            return
        self.rows.extend(rows)
        staked = staked_by(self.clock)
        new = [np.full(len(r.bets), r.share * staked / len(r.bets)) for r in rows]
        self.wealth = np.vstack([self.wealth, new])
        self.bets = np.vstack([self.bets, [r.bets for r in rows]])
        self.constants = np.vstack([self.constants, [(r.share, r.ratio, r.extra, r.prior) for r in rows]])
        self.memory = np.vstack([self.memory, np.zeros((len(rows), 2))])
        self.totals = np.vstack([self.totals, np.zeros((len(rows), 4))])

    def centers(self) -> Floats:
        """Running rate of each row's event on stable, (rows,): 60 s of memory on a prior of the hour before."""
        prior = self.constants[:, 3]
        rates: Floats = (self.memory[:, 1] + self.prior_requests * prior) / (self.memory[:, 0] + self.prior_requests)
        return rates

    def bet(self, odd: float, now: float, counts: Counts, *, centered: bool = True) -> None:
        """Let the tick that ends at `now` multiply the wealth.

        With `centered=False` the bets are centred on 0 instead of the running rates. They then win less, but need only
        that the candidate's real share is at most the stated one: the mean of a factor is at most
        1 + l p (w' - (1 - w') o) <= 1 for every real share w' <= w.
        """
        _, ratio, extra, _ = self.constants.T
        center = self.centers() if centered else np.zeros(len(self.rows))
        bets = capped_bets(self.bets, center, extra, ratio, odd)
        self._multiply(now, log_factors(bets, counts, center=center, extra=extra, ratio=ratio, odd=odd))

    def bet_on_pairs(self, now: float, pairs: Floats) -> None:
        """Let pairs of requests and their copies multiply the wealth. Args: pairs: as in `log_pair_factors`."""
        _, ratio, extra, _ = self.constants.T
        bets = capped_pair_bets(self.bets, extra, ratio)
        self._multiply(now, log_pair_factors(bets, pairs, extra=extra, ratio=ratio))

    def _multiply(self, now: float, factors: Floats) -> None:
        new_stake = self._stake_until(now)
        stakes = self.constants[:, 0] * new_stake / self.bets.shape[1]
        self.wealth = advance(self.wealth, stakes[:, None], factors)

    def _stake_until(self, now: float) -> float:
        before = staked_by(self.clock)
        self.clock = max(self.clock, now) if math.isfinite(now) else self.clock
        return staked_by(self.clock) - before

    def remember(self, dt: float, stable_n: Floats, stable_hits: Floats) -> None:
        """Let the running rates see the tick; called after the bets."""
        self.memory *= math.exp(-min(max(dt, 0.0), 1e6) / MEMORY_SECONDS)
        self.memory[:, 0] += stable_n
        self.memory[:, 1] += stable_hits

    def add_totals(self, counts: Counts) -> None:
        """Count what was judged: columns candidate requests, hits, stable requests, hits."""
        hits = counts.candidate_hits + counts.partial * counts.candidate_partial
        self.totals += np.stack([counts.candidate_n, hits, counts.stable_n, counts.stable_hits], axis=1)

    def evidence(self) -> Floats:
        """Wealth of each row, (rows,); divided by the row's share it is the row's own e-value."""
        kept: Floats = self.constants[:, 0] * (1.0 - staked_by(self.clock))
        total: Floats = kept + self.wealth.sum(axis=1)
        return total

    def state(self) -> dict[str, Any]:
        return {
            "rows": [asdict(r) for r in self.rows],
            "prior_requests": self.prior_requests,
            "clock": self.clock,
            "wealth": self.wealth.tolist(),
            "memory": self.memory.tolist(),
            "totals": self.totals.tolist(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Book:
        rows = [Row(**{**r, "bets": tuple(r["bets"])}) for r in state["rows"]]
        book = cls(rows, prior_requests=state["prior_requests"])
        book.clock = state["clock"]
        for name in ("wealth", "memory", "totals"):
            setattr(book, name, np.array(state[name], dtype=np.float64).reshape(getattr(book, name).shape))
        return book
