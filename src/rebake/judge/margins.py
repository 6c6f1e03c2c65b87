"""Margins wide enough for what stable's own instances differ by: no release can be held to less.

Stable's instances all run the same release; what they differ by is luck of placement, not harm. If the candidate has
m instances and stable has s, chance alone makes the cohorts differ by the spread times sqrt(1/m + 1/s). A margin
below three of these would blame good releases for it, so it is raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rebake.judge.metrics import BUCKET_LOG, bucket_counts, has_latency
from rebake.judge.samples import Arm, JudgeSettings

STANDARD_ERRORS = 3.0
FEWEST_INSTANCES = 3
"""Fewer say nothing about a spread."""
FEWEST_ANSWERS = 30
"""Of an instance, for its median to be looked at."""


def widened(settings: JudgeSettings, history: Arm | None, candidate_instances: int = 0) -> JudgeSettings:
    """The settings with each margin raised to three standard errors of the arm difference, where that is larger.

    Args:
        history: stable's hour before, with `instances` where known; else nothing is raised.
        candidate_instances: 0: as many as stable has.
    Source: JUDGE.md section 1, Margins; method of moments for the variance between groups (DerSimonian, Laird 1986,
        "Meta-analysis in clinical trials", section 2).
    """
    arms = list(history.instances.values()) if history is not None else []
    if len(arms) < FEWEST_INSTANCES:
        return settings
    unlucky = STANDARD_ERRORS * math.sqrt(1.0 / (candidate_instances or len(arms)) + 1.0 / len(arms))
    ratio = max(settings.error_ratio, 1.0 + unlucky * error_spread(arms))
    growth = math.expm1(min(unlucky * latency_spread(arms), 3.0))
    latency = {name: max(allowed, growth) for name, allowed in settings.latency.items()}
    return replace(settings, error_ratio=ratio, latency=latency)


def error_spread(arms: Sequence[Arm]) -> float:
    """Standard deviation of the instances' true failure rates, relative to their mean; 0 when chance explains all."""
    n = np.array([max(a.n, 0) for a in arms], dtype=np.float64)
    k = np.minimum(np.array([max(a.errors, 0) for a in arms], dtype=np.float64), n)
    known = n > 0
    if known.sum() < FEWEST_INSTANCES or k.sum() <= 0:
        return 0.0
    n, k = n[known], k[known]
    mean = k.sum() / n.sum()
    return math.sqrt(_between(k / n, mean * (1.0 - mean) / n)) / float(mean)


def latency_spread(arms: Sequence[Arm]) -> float:
    """Standard deviation of the logarithm of the instances' true median latencies; 0 when chance explains all."""
    places, errors = [], []
    for arm in arms:
        counts = bucket_counts(arm.latency) if has_latency(arm) else np.zeros(1)
        if counts.sum() >= FEWEST_ANSWERS:
            low, middle, high = (_place(counts, q) for q in (0.25, 0.5, 0.75))
            deviation = max((high - low) / 1.349, BUCKET_LOG / 4)
            places.append(middle)
            errors.append(deviation**2 * math.pi / 2 / counts.sum())
    if len(places) < FEWEST_INSTANCES:
        return 0.0
    return math.sqrt(_between(np.array(places), np.array(errors)))


def _between(values: np.ndarray, variances: np.ndarray) -> float:
    """Variance between groups beyond what the groups' own sampling variances explain."""
    weights = 1.0 / np.maximum(variances, 1e-300)
    mean = (weights * values).sum() / weights.sum()
    surplus = (weights * (values - mean) ** 2).sum() - (len(values) - 1)
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    return max(float(surplus / scale), 0.0) if scale > 0 else 0.0


def _place(counts: np.ndarray, q: float) -> float:
    """Logarithm (of milliseconds) of a quantile, evenly spread within its bucket."""
    reached = np.cumsum(counts) / counts.sum()
    bucket = int(np.searchsorted(reached, q))
    before = float(reached[bucket - 1]) if bucket else 0.0
    inside = (q - before) / max(float(reached[bucket]) - before, 1e-12)
    return (bucket - 1 + inside) * BUCKET_LOG
