"""How much harm may still be hidden: an upper confidence bound on the candidate's extra failures, valid at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rebake.judge.eprocess import CAP, LARGEST, Floats

LEVEL = 0.05
GRID: Floats = np.concatenate([np.geomspace(5e-5, 0.5, 40), [0.65, 0.8, 1.0]])
"""Extra failure rates that are tested, as fractions."""
_MOST = math.log(LARGEST)
_BETS: Floats = np.array([0.9, 0.3, 0.1, 0.03])


@dataclass(slots=True)
class ExtraFailures:
    """A confidence sequence for p_candidate - p_stable.

    For each extra rate d of the grid the hypothesis "the candidate fails at least d more often than stable" is tested
    with the bets of `eprocess` turned round: a candidate request has the factor 1 - l (y - c - d), a stable one
    1 + l o (y - c), mean 1 - l w (p_candidate - p_stable - d) <= 1. The bound is the largest d not yet rejected.

    Source: Waudby-Smith, Ramdas 2024, section 4.3 (hedged capital process, inverted over a grid).
    """

    log_wealth: Floats = field(default_factory=lambda: np.zeros((len(GRID), len(_BETS))))

    def update(self, center: float, odd: float, candidate: tuple[float, float], stable: tuple[float, float]) -> None:
        """Take in one tick: (requests, failures) of both cohorts, with `center` and the odds fixed before it."""
        (n1, k1), (n0, k0) = candidate, stable
        room = np.maximum(np.maximum(1.0 - center - GRID, odd * center), 1e-12)
        bets = np.minimum(_BETS, (CAP / room)[:, None])
        away = (center + GRID)[:, None]
        self.log_wealth += k1 * np.log1p(-bets * (1.0 - away)) + (n1 - k1) * np.log1p(bets * away)
        self.log_wealth += k0 * np.log1p(bets * (odd * (1.0 - center))) + (n0 - k0) * np.log1p(-bets * (odd * center))
        np.minimum(self.log_wealth, _MOST, out=self.log_wealth)

    def upper(self) -> float | None:
        """The largest extra failure rate that is not excluded with 95 % confidence; None while all are possible."""
        open_ = np.exp(self.log_wealth).sum(axis=1) < len(_BETS) / LEVEL
        if open_[-1]:
            return None
        still_open = np.flatnonzero(open_)
        return float(GRID[still_open[-1] + 1 if len(still_open) else 0])
