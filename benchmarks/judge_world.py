"""The world that judges are tried in: thousands of rollouts of one service side by side, in arrays.

Arrivals are doubly stochastic (bursts and a daily wave), error rates drift together for both cohorts and differ
between instances, latencies are lognormal. A scenario says what the release does, or what happens to it. Every draw
comes from one seeded generator, so a run is repeatable. Nothing here knows any judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped]

from rebake.judge.samples import LATENCY_BUCKETS

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

RATES = (0.2, 2.0, 20.0, 200.0, 2000.0)
BASE_RATES = (0.0, 1e-4, 1e-3, 1e-2)
ENDPOINT_SHARES = (0.5, 0.3, 0.15, 0.05)
HORIZON_SECONDS = 4 * 3600.0
PERSON_SEES = 0.0144
PERSON_SECONDS = 1800.0
MEDIAN_MS, SIGMA = 100.0, math.log(404.0 / 100.0) / 2.3263478740408408
BURST_SD, BURST_SECONDS = 0.3, 10.0
DRIFT_SD, DRIFT_SECONDS = 0.5, 60.0
DAILY_SWING, DAY_SECONDS = 0.3, 86400.0
INSTANCES = {"candidate": 2, "stable": 8}
ERROR_SPREAD, LATENCY_SPREAD = 0.10, 0.03


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a release does, or what happens while it rolls out.

    Attributes:
        good: rolling it back is a mistake.
        extra: share of the candidate's requests that the release makes fail, at once.
        leak: as `extra`, reached after ten minutes from zero. bomb: as `extra`, from minute 20 on.
        dead_endpoint: every candidate request to the last endpoint (5 %) fails.
        slower: factor on all the candidate's latencies. tail: 2.2 % of its requests take six times as long.
        outage: a shared dependency fails from 120 s to 300 s. warm_up: its latency is threefold for 60 s.
        retries: failed requests are tried again, up to three times, each routed afresh, and mostly fail again.
        wrong_weight: the share really routed, over the share asked for.
    """

    name: str
    good: bool = False
    extra: float = 0.0
    leak: float = 0.0
    bomb: float = 0.0
    dead_endpoint: bool = False
    slower: float = 1.0
    tail: bool = False
    outage: bool = False
    warm_up: bool = False
    retries: bool = False
    wrong_weight: float = 1.0

    def excess(self, t: float) -> float:
        """Share of the candidate's requests that the release spoils at time t (fails, or slows)."""
        if self.slower > 1.0:
            return 1.0
        return min(self.failing(t) + (0.05 if self.dead_endpoint else 0.0) + (0.022 if self.tail else 0.0), 1.0)

    def failing(self, t: float) -> float:
        """Share of the candidate's requests, on every endpoint, that the release makes fail at time t."""
        return self.extra + self.leak * min(t / 600.0, 1.0) + (self.bomb if t >= 1200.0 else 0.0)

    @property
    def visible_to_people(self) -> bool:
        """Failures are noticed service-wide by people; slowness, in this world, is not."""
        return self.slower == 1.0 and not self.tail


SCENARIOS: Mapping[str, Scenario] = {
    s.name: s
    for s in (
        Scenario("good", good=True),
        Scenario("warm-up", good=True, warm_up=True),
        Scenario("outage", good=True, outage=True),
        Scenario("crash", extra=1.0),
        Scenario("+20 points", extra=0.20),
        Scenario("+5 points", extra=0.05),
        Scenario("+1 point", extra=0.01),
        Scenario("+0.5 points", extra=0.005),
        Scenario("endpoint", dead_endpoint=True),
        Scenario("leak", leak=0.10),
        Scenario("late bomb", bomb=0.05),
        Scenario("p50 x1.2", slower=1.2),
        Scenario("p99 x2", tail=True),
        Scenario("retries", good=True, retries=True),
        Scenario("weight +10 %", good=True, wrong_weight=1.1),
        Scenario("weight -10 %", good=True, wrong_weight=0.9),
    )
}


@dataclass(slots=True)
class Step:
    """What one tick brought, by run. `n`, `errors`: (2, runs), candidate first; `by_endpoint`: (2, 2, endpoints, runs)
    as requests and failures; `above`: for each cohort, successes above each of the asked edges, (edges, runs);
    `bad`: requests that the release itself spoiled."""

    n: Ints
    errors: Ints
    by_endpoint: Ints
    above: tuple[Ints, Ints]
    bad: Ints


class World:
    """`runs` rollouts of one scenario at one traffic and one usual error rate."""

    def __init__(self, scenario: Scenario, rate: float, base: float, runs: int, seed: int) -> None:
        self.scenario, self.rate, self.base = scenario, rate, base
        self.rng = np.random.default_rng(seed)
        rng = self.rng
        self.burst = rng.normal(0.0, BURST_SD, runs)
        self.drift = rng.normal(0.0, DRIFT_SD, runs)
        self.phase = rng.uniform(0.0, 2 * math.pi, runs)
        self.error_factor = np.stack([rng.normal(1.0, ERROR_SPREAD, (k, runs)).mean(0) for k in INSTANCES.values()])
        self.error_factor = np.maximum(self.error_factor, 0.0)
        self.latency_shift = np.stack([rng.normal(0.0, LATENCY_SPREAD, (k, runs)).mean(0) for k in INSTANCES.values()])
        self.edges: tuple[Floats, Floats] = (np.zeros((0, runs)), np.zeros((0, runs)))
        self._survival_key: Any = None
        self._survival: list[Floats] = []

    @property
    def runs(self) -> int:
        return len(self.burst)

    def keep(self, mask: Bools) -> None:
        """Forget the other runs."""
        for name in ("burst", "drift", "phase"):
            setattr(self, name, getattr(self, name)[mask])
        self.error_factor = self.error_factor[:, mask]
        self.latency_shift = self.latency_shift[:, mask]
        self.edges = (self.edges[0][:, mask], self.edges[1][:, mask])
        self._survival_key = None

    def watch(self, candidate_edges: Floats, stable_edges: Floats) -> None:
        """Ask for the number of successes slower than these limits, ms, (edges, runs), rising."""
        self.edges = (candidate_edges, stable_edges)
        self._survival_key = None

    def history(self) -> tuple[Ints, Ints, Ints]:
        """The hour before, of stable: requests (runs,), failures (runs,), latency counts (runs, 226)."""
        n = self.rng.poisson(self.rate * 3600.0, self.runs)
        errors = self.rng.binomial(n, np.minimum(self.base * self.error_factor[1], 1.0))
        edges = 1.05 ** np.arange(LATENCY_BUCKETS)
        z = (np.log(edges)[None, :] - math.log(MEDIAN_MS) - self.latency_shift[1][:, None]) / SIGMA
        share = np.diff(np.concatenate([np.zeros((self.runs, 1)), ndtr(z)], axis=1), axis=1)
        share[:, -1] += 1.0 - share.sum(axis=1)
        return n, errors, self.rng.multinomial(n - errors, np.maximum(share, 0.0))

    def step(self, t: float, dt: float, weight: Floats) -> Step:
        """One tick from t to t + dt with the candidate's share `weight` (runs,)."""
        self._drift_on(dt)
        n = self._arrivals(t, dt, weight)
        rates = np.minimum(self.base * np.exp(self.drift - DRIFT_SD**2 / 2) * self.error_factor, 1.0)
        if self.scenario.outage and 120.0 <= t < 300.0:
            rates = np.minimum(rates + 0.30, 1.0)
        by_endpoint, bad = self._requests(t, n, rates)
        if self.scenario.retries:
            self._retry(by_endpoint, weight)
        n, errors = by_endpoint[:, 0].sum(axis=1), by_endpoint[:, 1].sum(axis=1)
        above = self._above(t, n - errors)
        if self.scenario.slower > 1.0:
            bad = bad + n[0]
        return Step(n, errors, by_endpoint, above, bad + self._tail_bad(n[0] - errors[0]))

    def _tail_bad(self, successes: Ints) -> Ints:
        return self.rng.binomial(successes, 0.022) if self.scenario.tail else np.zeros(self.runs, np.int64)

    def _drift_on(self, dt: float) -> None:
        for name, sd, seconds in (("burst", BURST_SD, BURST_SECONDS), ("drift", DRIFT_SD, DRIFT_SECONDS)):
            keep = math.exp(-dt / seconds)
            noise = self.rng.normal(0.0, sd * math.sqrt(1 - keep * keep), self.runs)
            setattr(self, name, getattr(self, name) * keep + noise)

    def _arrivals(self, t: float, dt: float, weight: Floats) -> Ints:
        wave = 1.0 + DAILY_SWING * np.sin(self.phase + 2 * math.pi * t / DAY_SECONDS)
        total = self.rng.poisson(self.rate * dt * wave * np.exp(self.burst - BURST_SD**2 / 2))
        candidate = self.rng.binomial(total, np.minimum(weight * self.scenario.wrong_weight, 1.0))
        return np.stack([candidate, total - candidate])

    def _requests(self, t: float, n: Ints, rates: Floats) -> tuple[Ints, Ints]:
        """Spread requests over endpoints and let them fail. Returns (2, 2, endpoints, runs) and the spoiled ones."""
        spread = np.zeros((2, 2, len(ENDPOINT_SHARES), self.runs), np.int64)
        left, rest = n, 1.0
        for e, share in enumerate(ENDPOINT_SHARES[:-1]):
            spread[:, 0, e] = self.rng.binomial(left, share / rest)
            left, rest = left - spread[:, 0, e], rest - share
        spread[:, 0, -1] = left
        if self.base > 0.0 or self.scenario.outage:
            spread[:, 1] = self.rng.binomial(spread[:, 0], rates[:, None, :])
        bad = np.zeros(self.runs, np.int64)
        failing = self.scenario.failing(t)
        if failing > 0.0:
            spoiled = self.rng.binomial(spread[0, 0] - spread[0, 1], min(failing, 1.0))
            spread[0, 1] += spoiled
            bad = bad + spoiled.sum(axis=0)
        if self.scenario.dead_endpoint:
            bad = bad + spread[0, 0, -1] - spread[0, 1, -1]
            spread[0, 1, -1] = spread[0, 0, -1]
        return spread, bad

    def _retry(self, spread: Ints, weight: Floats) -> None:
        again = spread[:, 1].sum(axis=0)
        for _ in range(3):
            mine = self.rng.binomial(again, weight)
            tried = np.stack([mine, again - mine])
            failed = self.rng.binomial(tried, 0.8)
            spread[:, 0] += tried
            spread[:, 1] += failed
            again = failed.sum(axis=0)

    def _above(self, t: float, successes: Ints) -> tuple[Ints, Ints]:
        if not self.edges[0].size and not self.edges[1].size:
            return np.zeros((0, self.runs), np.int64), np.zeros((0, self.runs), np.int64)
        outage = self.scenario.outage and 120.0 <= t < 300.0
        warm_up = self.scenario.warm_up and t < 60.0
        if self._survival_key != (outage, warm_up):
            self._survival_key = (outage, warm_up)
            factor = (2.0 if outage else 1.0, 2.0 if outage else 1.0)
            factor = (factor[0] * (3.0 if warm_up else 1.0) * self.scenario.slower, factor[1])
            self._survival = [_conditional(self._survivals(i, factor[i])) for i in (0, 1)]
        first, second = (self._chain(self._survival[i], successes[i]) for i in (0, 1))
        return first, second

    def _survivals(self, cohort: int, factor: float) -> Floats:
        place = np.log(np.maximum(self.edges[cohort], 1e-9)) - math.log(MEDIAN_MS * factor) - self.latency_shift[cohort]
        plain: Floats = ndtr(-place / SIGMA)
        if self.scenario.tail and cohort == 0:
            return 0.978 * plain + 0.022 * np.asarray(ndtr(-(place - math.log(6.0)) / SIGMA))
        return plain

    def _chain(self, conditional: Floats, successes: Ints) -> Ints:
        above = np.zeros(conditional.shape, np.int64)
        left = successes
        for i, share in enumerate(conditional):
            left = above[i] = self.rng.binomial(left, share)
        return above


def _conditional(survival: Floats) -> Floats:
    """Probability to be above each edge given that the one below it was passed."""
    before = np.concatenate([np.ones((1, survival.shape[1])), survival[:-1]])
    return np.asarray(np.clip(survival / np.maximum(before, 1e-300), 0.0, 1.0))


def bad_afterwards(scenario: Scenario, rate: float, since: float, gone_at: Floats) -> Floats:
    """Expected requests that a release with all the traffic spoils from `since` until it is gone, by run."""
    grid = np.arange(since, HORIZON_SECONDS, 60.0)
    excess = np.array([scenario.excess(t) for t in grid])
    spent = np.clip(gone_at[:, None] - grid[None, :], 0.0, 60.0)
    return np.asarray(rate * (spent * excess[None, :]).sum(axis=1))
