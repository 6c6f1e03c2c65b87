"""What is bet on: one row per metric, and how a tick becomes counts for each row.

Rows: all failures; failures of each endpoint; answers slower than each latency threshold; requests without an answer
in time; answers that refuse; answers that send the caller elsewhere; answers that do not end in time.
A request is slow when it succeeded and took longer than the threshold, so the unit is always the request that was
routed, never the answer.
The candidate's threshold lies above stable's by the allowed growth; where it cuts a 5 % bucket, that bucket's answers
count as the part of the bucket above it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebake.judge.eprocess import Floats
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings

ERROR_BETS = (0.2, 0.6, 2.0, 6.0, 20.0, 60.0, 200.0)
BODY_BETS = (0.02, 0.06, 0.15, 0.4, 1.0, 2.5, 6.0)
TAIL_BETS = (0.06, 0.2, 0.6, 2.0, 6.0, 20.0, 60.0)

SHARES: Mapping[str, float] = {
    "errors": 0.5,
    "endpoints": 0.2,
    "latency": 0.3,
    "unanswered": 0.06,
    "refusals": 0.06,
    "redirects": 0.04,
    "unfinished": 0.04,
}
"""Wealth given to each kind of metric at the start. Kinds that the samples will not carry pass theirs to the others."""

UNANSWERED, REFUSALS, REDIRECTS, UNFINISHED = "unanswered", "refusals", "redirects", "unfinished"
"""Kinds that only records of single requests carry, and the names of their rows."""
OTHERS: Mapping[str, str] = {
    UNANSWERED: "request without an answer in time",
    REFUSALS: "refusal (4xx)",
    REDIRECTS: "redirect (3xx)",
    UNFINISHED: "unfinished answer",
}
"""How sentences call one event of them."""
ENDPOINT_EXTRA = 0.002
LATENCY_EXTRA = 0.0005
UNANSWERED_EXTRA = 0.005
UNFINISHED_RATIO, UNFINISHED_EXTRA = 1.5, 0.02
"""Wide, since streams of events and large downloads are no harm, and a release may have some more of them."""
MAX_ENDPOINTS = 64
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
BUCKET_LOG = math.log(1.05)
MOST_ANSWERS = 1e15
"""A bucket holds no more, whatever it says."""
THRESHOLD_SAMPLES = 200
"""Successful stable answers needed to place the latency thresholds when there is no history."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric's constants.

    Attributes:
        name: "errors", "endpoint GET /x", "latency p99": as people read it.
        share: wealth it starts with; all rows and reserves sum to 1.
        ratio, extra: the margin: worse means p_candidate > ratio x p_stable + extra.
        prior: rate of the event in the hour before.
    """

    name: str
    share: float
    ratio: float
    extra: float
    bets: tuple[float, ...]
    prior: float = 0.0


@dataclass(frozen=True, slots=True)
class Threshold:
    """A latency limit: stable's answers are slow in the buckets from `bucket` on, the candidate's from `shifted` on.

    Bucket `shifted - 1` is cut by the candidate's limit: its answers count as `partial`.
    """

    name: str
    bucket: int
    shifted: int
    partial: float


def kind_shares(kinds: Sequence[str]) -> dict[str, float]:
    """The starting wealth of each kind that the samples will carry, scaled to sum to 1."""
    total = sum(SHARES[k] for k in kinds)
    return {k: SHARES[k] / total for k in kinds}


def kinds_of(history: Arm | None) -> tuple[str, ...]:
    """The kinds of metric that samples like `history` carry. Must be known before the first request is judged."""
    if history is None:
        return ("errors",)
    return ("errors", *(("endpoints",) if history.endpoints else ()), *(("latency",) if has_latency(history) else ()))


def rate(hits: float, n: float) -> float:
    """A rate in [0, 1] from counts that may be absurd."""
    return min(max(hits / n, 0.0), 1.0) if n > 0 else 0.0


def quantile_bucket(latency: Sequence[int], q: float) -> int:
    """Index of the first bucket that lies wholly above the quantile's nearest bucket edge."""
    counts = bucket_counts(latency)
    reached = np.cumsum(counts) / counts.sum()
    return min(int(np.argmin(np.abs(reached - q))) + 1, LATENCY_BUCKETS - 1)


def bucket_counts(latency: Sequence[int]) -> Floats:
    """Counts by bucket, float64[226]; missing buckets are zero, surplus ones join the last, negative ones are zero."""
    counts = np.zeros(LATENCY_BUCKETS)
    plain = plain_counts(latency)
    counts[: len(plain)] = plain
    return counts


def plain_counts(latency: Sequence[int]) -> Sequence[float]:
    """The same as numbers of Python, at most 226 of them, without the missing ones: a tick sums a few, and an array of
    that size costs more than its sums."""
    if not len(latency):
        return ()
    if len(latency) <= LATENCY_BUCKETS and min(latency) >= 0 and max(latency) <= MOST_ANSWERS:
        return latency
    given = [min(max(float(count), 0.0), MOST_ANSWERS) for count in latency]
    return [*given[: LATENCY_BUCKETS - 1], sum(given[LATENCY_BUCKETS - 1 :])]


def has_latency(arm: Arm) -> bool:
    """Whether the arm counts any answer by its latency."""
    return len(arm.latency) > 0 and bool(np.max(np.asarray(arm.latency, dtype=np.float64)) > 0)


def threshold(name: str, bucket: int, growth: float) -> Threshold:
    """Shift the candidate's limit up by the allowed growth (0.07 = 7 %)."""
    shift = math.log1p(max(growth, 0.0)) / BUCKET_LOG
    whole = math.floor(shift + 1e-9)
    cut = max(shift - whole, 0.0)
    return Threshold(name, bucket, min(bucket + whole + 1, LATENCY_BUCKETS), 1.0 - cut)


def thresholds(latency: Sequence[int], growth: Mapping[str, float]) -> tuple[Threshold, ...]:
    """The four limits, placed on the quantiles of the given answers: p50, p90, p99 and twice p99.

    The growth of `2xp99` is that of p99 plus five points unless given. A quantile without a growth is not judged.
    """
    limits = [threshold(q, quantile_bucket(latency, QUANTILES[q]), growth[q]) for q in QUANTILES if q in growth]
    if "p99" in growth:
        twice = quantile_bucket(latency, 0.99) + round(math.log(2.0) / BUCKET_LOG)
        limits.append(threshold("2xp99", min(twice, LATENCY_BUCKETS - 1), growth.get("2xp99", growth["p99"] + 0.05)))
    return tuple(limits)


def slow_stable(counts: Sequence[float], limit: Threshold) -> float:
    return float(sum(counts[limit.bucket :]))


def slow_candidate(counts: Sequence[float], limit: Threshold) -> tuple[float, float]:
    """(answers wholly above the candidate's limit, answers in the bucket that the limit cuts)."""
    cut = counts[limit.shifted - 1] if limit.shifted <= len(counts) else 0
    return float(sum(counts[limit.shifted :])), float(cut)


def latency_row(limit: Threshold, share: float, history: Arm | None) -> Row:
    prior = 0.0
    if history is not None and has_latency(history):
        counts = plain_counts(history.latency)
        prior = rate(slow_stable(counts, limit), sum(counts) + max(history.errors, 0))
    tail = limit.name.endswith("p99")
    return Row(f"latency {limit.name}", share, 1.0, LATENCY_EXTRA, TAIL_BETS if tail else BODY_BETS, prior)


def error_row(settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    prior = rate(history.errors, history.n) if history else 0.0
    return Row("errors", share, settings.error_ratio, settings.error_extra, ERROR_BETS, prior)


def endpoint_row(name: str, settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    n, errors = history.endpoints.get(name, (0, 0)) if history else (0, 0)
    extra = max(ENDPOINT_EXTRA, settings.error_extra)
    return Row(f"endpoint {name}", share, settings.error_ratio, extra, ERROR_BETS, rate(errors, n))


def unanswered_row(settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    prior = rate(history.unanswered, history.n + history.unanswered) if history else 0.0
    return Row(UNANSWERED, share, settings.error_ratio, max(UNANSWERED_EXTRA, settings.error_extra), ERROR_BETS, prior)


def refusal_row(settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    prior = rate(history.refused, history.n) if history else 0.0
    return Row(REFUSALS, share, settings.refusal_ratio, settings.refusal_extra, ERROR_BETS, prior)


def redirect_row(settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    prior = rate(history.redirected, history.n) if history else 0.0
    return Row(REDIRECTS, share, settings.refusal_ratio, settings.refusal_extra, ERROR_BETS, prior)


def unfinished_row(settings: JudgeSettings, share: float, history: Arm | None) -> Row:
    prior = rate(history.unfinished, history.n + history.unfinished) if history else 0.0
    ratio, extra = max(UNFINISHED_RATIO, settings.error_ratio), max(UNFINISHED_EXTRA, settings.error_extra)
    return Row(UNFINISHED, share, ratio, extra, ERROR_BETS, prior)


def newcomer_share(order: int) -> float:
    """Part of the endpoints' reserve that the `order`-th endpoint (from 0) without history gets: sums to 1 over 64."""
    return 1 / 16 if order < 8 else 1 / 64 if order < 24 else 1 / 160 if order < 64 else 0.0
