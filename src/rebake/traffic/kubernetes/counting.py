"""From scraped counters to samples for the judge. Pure.

A counter says how many requests finished between two scrapes of one target. The rules:
- What lies between two scrapes counts if, in all that time, one setting of the weights was in force, and had been for
  `GUARD_SECONDS`: until then proxies take a change up one after the other, and requests finish that the former setting
  dealt. What lies across a change is nobody's evidence.
- A counter that fell began again from zero: its value is what came since.
- A series that was not there at its target's last scrape began at zero then: gateways make a series with the first
  request it counts. One of a target that was never scraped before has an unknown past, and counts from its next scrape.
- What a target did not say in a scrape is nothing, never zero failures of somebody's requests: requests and failures
  are read from the same scrape.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rebake.judge.samples import LATENCY_BUCKETS, Arm
from rebake.prometheus.api import Matrix
from rebake.traffic.kubernetes.templates import Queries, kinds_of
from rebake.traffic.ports import Sample

GUARD_SECONDS = 5.0
_STEP = math.log(1.05)
_TARGET = ("job", "instance", "prometheus", "prometheus_replica", "cluster")
"""Labels by which two scraped series are known to be of one target."""

Target = tuple[str, ...]
Interval = tuple[Target, float, float]
"""A target, and the times of two of its scrapes that follow each other."""


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which one setting of the weights was in force.

    Attributes:
        key: changes with every change of the route, also one that is taken back.
        begin, end: when it was first and last seen, seconds since the epoch.
    """

    key: str
    begin: float
    end: float
    weights: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Scraped:
    """What one fleet's queries gave, by query."""

    queries: Queries
    found: Mapping[str, Matrix]

    def of(self, queries: Sequence[str]) -> Matrix:
        """What several queries gave together."""
        return [one for query in queries for one in self.found.get(query, [])]


def scrape_seconds(scraped: Iterable[Scraped]) -> float | None:
    """The time between two scrapes; None where too few are known."""
    times = _times(matrix for one in scraped for matrix in one.found.values())
    gaps = [later - earlier for known in times.values() for earlier, later in pairwise(known)]
    return statistics.median(gaps) if gaps else None


def samples_in(
    fleets: Mapping[str, Scraped], periods: Sequence[Period], since: float, until: float
) -> tuple[Sample, ...]:
    """Requests that finished in scrapes after `since` and up to `until`, oldest first."""
    times = _times(matrix for one in fleets.values() for matrix in one.found.values())
    arms: dict[Interval, dict[str, _Tally]] = defaultdict(dict)
    for fleet, scraped in fleets.items():
        for interval, tally in _tallies(scraped, times).items():
            arms[interval][fleet] = tally
    found = []
    for interval in sorted(_intervals(times), key=lambda one: (one[2], one)):
        _, begin, end = interval
        period = _period_of(periods, begin, end) if since < end <= until else None
        counted = {fleet: tally.arm() for fleet, tally in arms.get(interval, {}).items()}
        if period is not None and any(arm.n for arm in counted.values()):
            weights = {fleet: weight for fleet, weight in period.weights.items() if weight}
            found.append(Sample(int(end), weights, counted))
    return tuple(found)


def _period_of(periods: Sequence[Period], begin: float, end: float) -> Period | None:
    return next((one for one in periods if one.begin + GUARD_SECONDS <= begin and end <= one.end), None)


def _times(matrices: Iterable[Matrix]) -> dict[Target, list[float]]:
    """When each target was scraped, as far as any of its series shows."""
    found: dict[Target, set[float]] = defaultdict(set)
    for matrix in matrices:
        for labels, values in matrix:
            found[_target(labels)].update(at for at, _ in values)
    return {target: sorted(times) for target, times in found.items()}


def _target(labels: Mapping[str, str]) -> Target:
    return tuple(labels.get(name, "") for name in _TARGET)


def _intervals(times: Mapping[Target, list[float]]) -> Iterable[Interval]:
    return [(target, a, b) for target, known in times.items() for a, b in pairwise(known)]


def growth(matrix: Matrix, times: Mapping[Target, list[float]]) -> list[tuple[Interval, Mapping[str, str], float]]:
    """What each series grew by, from scrape to scrape."""
    found: list[tuple[Interval, Mapping[str, str], float]] = []
    for labels, values in matrix:
        target = _target(labels)
        known = times[target]
        first = bisect_left(known, values[0][0]) if values else 0
        before = [(known[first - 1], 0.0)] if values and first else []
        for (a, earlier), (b, later) in pairwise([*before, *values]):
            grown = later - earlier if later >= earlier else later
            if grown and math.isfinite(grown):
                found.append(((target, a, b), labels, grown))
    return found


class _Tally:
    """One fleet's requests between two scrapes."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = defaultdict(float)
        self.buckets: dict[float, float] = defaultdict(float)

    def arm(self) -> Arm:
        n = round(self.counts["n"])
        errors, refused = round(self.counts["errors"]), round(self.counts["refused"])
        redirected = round(self.counts["redirected"])
        return Arm(
            n, min(errors, n), latency=_latency(self.buckets), refused=min(refused, n), redirected=min(redirected, n)
        )


def _tallies(scraped: Scraped, times: Mapping[Target, list[float]]) -> dict[Interval, _Tally]:
    queries = scraped.queries
    tallies: dict[Interval, _Tally] = defaultdict(_Tally)
    for interval, labels, grown in growth(scraped.of(queries.requests), times):
        tallies[interval].counts["n"] += grown
        for kind in kinds_of(labels.get(queries.code, "")) if queries.code else ():
            tallies[interval].counts[kind] += grown
    for interval, _, grown in growth(scraped.of(queries.errors), times):
        tallies[interval].counts["errors"] += grown
    for interval, labels, grown in growth(scraped.of(queries.latency), times):
        bound = _bound(labels.get("le", ""))
        if bound is not None:
            tallies[interval].buckets[bound * queries.unit_ms] += grown
    return dict(tallies)


def _bound(le: str) -> float | None:
    try:
        return float(le)
    except ValueError:
        return None


def _latency(cumulative: Mapping[float, float]) -> Sequence[int]:
    """The judge's buckets from a histogram's: each request in the last one of ours within its bound. What is above all
    bounds is taken to be twice as slow as the largest. Both cohorts are measured by the same bounds."""
    if not cumulative:
        return ()
    counts, below, last = [0] * LATENCY_BUCKETS, 0.0, 1.0
    for bound in sorted(cumulative):
        last = bound if math.isfinite(bound) else 2 * last
        more = round(cumulative[bound] - below)
        if more > 0:
            counts[_bucket(last)] += more
        below = max(below, cumulative[bound])
    return counts


def _bucket(bound_ms: float) -> int:
    """The last bucket that ends within the bound; see `judge.samples.LATENCY_BUCKETS`."""
    return min(max(math.floor(math.log(max(bound_ms, 1.0)) / _STEP + 1e-9), 0), LATENCY_BUCKETS - 1)
