"""Is the traffic really split as the route says? An e-process on how many requests each cohort got."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rebake.judge.eprocess import Floats

TOLERANCE = 0.05
"""Relative error of the share that is no fault: requests in flight while the weight moves, rounding of weights. The
judge's own margins absorb it (the ratio 1.1 covers a share that is 10 % wrong)."""
NEEDED = 100.0
_STEPS = np.array([0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 4.0])


def log_ratios(weight: float, candidate_n: float, stable_n: float) -> Floats:
    """Log likelihood ratios of a larger and of a smaller share than the tolerated ones, shape (14,).

    Against the nearest tolerated share each is a test martingale, and against shares further inside the tolerance a
    supermartingale, because the likelihood ratio is monotone in the count.
    Source: Wald 1945, section 2; Robbins 1970 (mixtures over alternatives).
    """
    high = min(weight * (1 + TOLERANCE), 0.5 * (1 + weight))
    low = weight * (1 - TOLERANCE)
    log_wealth = []
    for edge, sign in ((high, 1.0), (low, -1.0)):
        logit = math.log(edge / (1 - edge))
        alternative = 1.0 / (1.0 + np.exp(-(logit + sign * _STEPS)))
        log_wealth.append(
            candidate_n * np.log(alternative / edge) + stable_n * np.log1p((edge - alternative) / (1 - edge))
        )
    return np.concatenate(log_wealth)


@dataclass(slots=True)
class RoutingCheck:
    """Evidence that the candidate does not get the share it was meant to get."""

    log_wealth: Floats = field(default_factory=lambda: np.zeros(2 * len(_STEPS)))

    def update(self, weight: float, candidate_n: float, stable_n: float) -> None:
        self.log_wealth = np.clip(self.log_wealth + log_ratios(weight, candidate_n, stable_n), -600.0, 600.0)

    @property
    def evidence(self) -> float:
        return float(np.exp(self.log_wealth).mean())
