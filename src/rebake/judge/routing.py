"""Is the traffic really split as the route says? An e-process on how many requests each cohort got."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from rebake.judge.eprocess import Floats

TOLERANCE = 0.05
"""Relative error of the share that is no fault: requests in flight while the weight moves, rounding of weights. The
judge's own margins absorb it (the ratio 1.1 covers a share that is 10 % wrong)."""
NEEDED = 1000.0
_SIZES = np.array([0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 4.0])
_STEPS = np.concatenate([_SIZES, -_SIZES])


def log_ratios(weight: Any, candidate_n: Any, stable_n: Any) -> Floats:
    """Log likelihood ratios of a larger and of a smaller share than the tolerated ones.

    Against the nearest tolerated share each is a test martingale, and against shares further inside the tolerance a
    supermartingale, because the likelihood ratio is monotone in the count.

    Args: three arrays of one shape (or numbers), 0 < weight < 1.
    Returns: that shape with a last axis of 14 alternatives.
    Source: Wald 1945, section 2; Robbins 1970 (mixtures over alternatives).
    """
    up, down = _remembered(weight) if isinstance(weight, float) else _directions(weight)
    n1, n0 = np.asarray(candidate_n)[..., None], np.asarray(stable_n)[..., None]
    ratios: Floats = n1 * up + n0 * down
    return ratios


def _directions(weight: Any) -> tuple[Floats, Floats]:
    """What one request of the candidate, and one of stable, adds to each alternative's logarithm."""
    w = np.asarray(weight, dtype=np.float64)[..., None]
    edge = np.where(_STEPS > 0, np.minimum(w * (1 + TOLERANCE), 0.5 * (1 + w)), w * (1 - TOLERANCE))
    meant = edge / (1 - edge)
    told = meant * np.exp(_STEPS)
    return _STEPS + np.log1p(meant) - np.log1p(told), np.log1p(meant) - np.log1p(told)


_remembered = lru_cache(maxsize=256)(_directions)
"""A weight stays for many ticks."""


@dataclass(slots=True)
class RoutingCheck:
    """Evidence that the candidate does not get the share it was meant to get."""

    log_wealth: Floats = field(default_factory=lambda: np.zeros(len(_STEPS)))

    def update(self, weight: float, candidate_n: float, stable_n: float) -> None:
        self.log_wealth = np.clip(self.log_wealth + log_ratios(weight, candidate_n, stable_n), -600.0, 600.0)

    @property
    def evidence(self) -> float:
        return float(np.exp(self.log_wealth).mean())

    @property
    def too_few(self) -> bool:
        """The evidence says that the candidate gets fewer requests than it should, not more."""
        return bool(too_few(self.log_wealth))


def too_few(log_wealth: Floats) -> Any:
    """Whether the alternatives of a smaller share hold most of the wealth; the alternatives are the last axis."""
    half = len(_SIZES)
    return np.max(log_wealth[..., half:], axis=-1) > np.max(log_wealth[..., :half], axis=-1)
