"""The balancer's cumulative counters, read twice and compared: for routes that keep no records, and for what records
cannot show, the requests that were dealt and have not finished."""

from __future__ import annotations

from dataclasses import dataclass

from rebake.judge.samples import Arm
from rebake.rollout.world import Environment
from rebake.traffic.ports import Counters, RouteObservation

MIN_SECONDS = 0.05
"""Readings nearer to each other are not compared."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Cumulative counters of both cohorts at one moment, and their requests in flight."""

    at: float
    epoch: str
    weights: tuple[int, int]
    stable: Counters
    candidate: Counters
    in_flight: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Grown:
    """What two readings differ by.

    Attributes:
        since, until: when they were made.
        share: the candidate's weight in both, basis points; None when the route changed in between.
        stable, candidate: requests finished, with `started` those dealt.
    """

    since: float
    until: float
    share: int | None
    whole: int
    stable: Arm
    candidate: Arm


def read(environment: Environment, route: RouteObservation, now: float) -> Reading:
    """One reading of both cohorts."""
    stable, candidate = environment.stable, environment.candidate
    assert candidate is not None
    name = stable.id if stable is not None else ""
    return Reading(
        at=now,
        epoch=route.epoch,
        weights=(route.weights.get(name, 0), route.weights.get(candidate.id, 0)),
        stable=route.counters.get(name, Counters()),
        candidate=route.counters.get(candidate.id, Counters()),
        in_flight=(route.active.get(name, 0), route.active.get(candidate.id, 0)),
    )


def too_near(before: Reading | None, after: Reading | None) -> bool:
    """Whether the later one is not worth a comparison yet: the earlier one is kept for the next."""
    if before is None or after is None or before.epoch != after.epoch:
        return False
    return 0 <= after.at - before.at < MIN_SECONDS


def grown(before: Reading, after: Reading) -> Grown | None:
    """What happened between two readings; None where they do not count from the same start."""
    if before.epoch != after.epoch or after.at - before.at < MIN_SECONDS:
        return None
    flying = [later - earlier for earlier, later in zip(before.in_flight, after.in_flight, strict=True)]
    return Grown(
        before.at,
        after.at,
        after.weights[1] if before.weights == after.weights else None,
        sum(after.weights),
        _arm(before.stable, after.stable, flying[0]),
        _arm(before.candidate, after.candidate, flying[1]),
    )


def _arm(before: Counters, after: Counters, flying: int) -> Arm:
    requests = max(0, after.requests - before.requests)
    return Arm(requests, max(0, after.errors - before.errors), started=max(0, requests + flying))
