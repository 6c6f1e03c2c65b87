# ruff: noqa: ARG002 - all peers share one signature, and few need all of it
"""The peers' rules, as their sources and documents say, for the same simulated world.

Read at: Flagger 15bd6ad, Argo Rollouts 9f8d111, Kayenta a69573b, kamal-proxy d929067; the sequential test after
Lindon, Malek 2022 and Howard, Ramdas 2022. Where a rule leaves something open, the reading that spoils fewer requests
was taken. What is written here are decision rules, not the peers' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import betaln, ndtr, ndtri  # type: ignore[import-untyped]

from benchmarks.judge_world import MEDIAN_MS, SIGMA, Bools, Floats, Ints, Step, World


class Peer:
    """What all share: a weight that moves in steps, an end, and no look after promotion."""

    dt = 60.0
    fields: tuple[str, ...] = ()

    def __init__(self, world: World, weight: float) -> None:
        runs = world.runs
        self.world = world
        self.weight = np.full(runs, weight)
        self.harmful = np.zeros(runs, bool)
        self.promoted_at = np.full(runs, np.inf)

    def routed(self) -> Floats:
        return self.weight.copy()

    def settled(self, now: float) -> Bools:
        return np.asarray(np.isfinite(self.promoted_at) & (self.promoted_at <= now))

    def keep(self, mask: Bools) -> None:
        for name in ("weight", "harmful", "promoted_at", *self.fields):
            setattr(self, name, getattr(self, name)[mask])

    def promote(self, now: float, which: Bools) -> None:
        which = which & ~self.harmful & np.isinf(self.promoted_at)
        self.weight[which] = 1.0
        self.promoted_at[which] = now

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        raise NotImplementedError


class Flagger(Peer):
    """Weight grows by a step each passed interval up to 50 %; checks on the candidate alone over the last minute.

    Success of at least 99 %, p99 of at most 500 ms; no traffic is a failed check. Failed checks add up, are never
    reset, and the tick after the limit is reached rolls back (scheduler.go). Documented example ("How it works"):
    interval one minute, limit 10, step 5 %. Tutorial ("Istio Canary Deployments"): one minute, limit 5, step 10 %.
    The tuned one: interval 10 s (the floor), limit 2, step 5 %.
    """

    fields = ("failed", "window", "passed_all")

    def __init__(self, world: World, *, interval: float = 60.0, threshold: int = 10, step: float = 0.05) -> None:
        super().__init__(world, step)
        self.dt, self.threshold, self.step = interval, threshold, step
        self.failed = np.zeros(world.runs, np.int64)
        self.passed_all = np.zeros(world.runs, bool)
        self.window = np.zeros((world.runs, max(1, round(60.0 / interval)), 3))
        world.watch(np.full((1, world.runs), 500.0), np.zeros((0, world.runs)))

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        now = t + dt
        self.harmful |= (self.failed >= self.threshold) & np.isinf(self.promoted_at)
        self.window = np.roll(self.window, 1, axis=1)
        self.window[:, 0] = np.stack([step.n[0], step.errors[0], step.above[0][0]], axis=1)
        n, errors, slow = self.window.sum(axis=1).T
        bad = (n == 0) | (errors > 0.01 * n) | (slow > 0.01 * n)
        self.failed += bad
        ok = ~bad & ~self.harmful
        self.promote(now, ok & (self.weight >= 0.5 - 1e-9))
        grow = ok & np.isinf(self.promoted_at)
        self.weight[grow] = np.minimum(self.weight[grow] + self.step, 0.5)


class Argo(Peer):
    """The documented canary: 20, 40, 60, 80 %, ten minutes each; analysis from the second step on.

    Every five minutes the success rate of the last five must be at least 95 %; the fourth failure aborts
    (failureLimit 3). An undefined ratio is a failure.
    """

    fields = ("failures", "window")

    def __init__(self, world: World) -> None:
        super().__init__(world, 0.2)
        self.failures = np.zeros(world.runs, np.int64)
        self.window = np.zeros((world.runs, 5, 2))

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        now = t + dt
        self.window = np.roll(self.window, 1, axis=1)
        self.window[:, 0] = np.stack([step.n[0], step.errors[0]], axis=1)
        if now >= 600.0 and now % 300.0 == 0.0:
            n, errors = self.window.sum(axis=1).T
            self.failures += (n == 0) | (errors > 0.05 * n)
            self.harmful |= (self.failures > 3) & np.isinf(self.promoted_at)
        self.weight[:] = np.where(np.isinf(self.promoted_at), min(0.2 * (1 + now // 600.0), 0.8), 1.0)
        self.promote(now, np.full(len(self.weight), now >= 2400.0))


class Kayenta(Peer):
    """Mann-Whitney on one point a minute, 98 % interval, effect 0.25 of the estimate, allowed increase 1.1.

    5 % candidate against an equal fresh baseline, a look every five minutes at all points so far, for an hour; three
    metrics (failure ratio, p50, p99), so that one bad metric is below the marginal score of 75 and stops it.
    """

    fields = ("points",)
    minutes = 60

    def __init__(self, world: World) -> None:
        super().__init__(world, 0.05)
        self.points = np.full((world.runs, 3, 2, self.minutes), np.nan)

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        now, minute = t + dt, int(t // 60)
        if minute < self.minutes:
            self._measure(t, minute, step)
        if now % 300.0 == 0.0 and minute < self.minutes:
            for metric in range(3):
                points = self.points[:, metric, :, : minute + 1]
                self.harmful |= high(points[:, 0], points[:, 1]) & np.isinf(self.promoted_at)
        self.promote(now, np.full(len(self.weight), now >= 3600.0))

    def _measure(self, t: float, minute: int, step: Step) -> None:
        n1, k1 = step.n[0], step.errors[0]
        n0, k0 = fresh_baseline(self.world, step)
        for arm, (n, k) in enumerate(((n1, k1), (n0, k0))):
            with np.errstate(invalid="ignore", divide="ignore"):
                self.points[:, 0, arm, minute] = k / n
            for metric, q in ((1, 0.5), (2, 0.99)):
                self.points[:, metric, arm, minute] = self._quantile(t, arm, q, n - k)

    def _quantile(self, t: float, arm: int, q: float, n: Ints) -> Floats:
        """A sample quantile of n latencies: the true one with its asymptotic error."""
        s = self.world.scenario
        factor = (2.0 if s.outage and 120.0 <= t < 300.0 else 1.0) * (
            (s.slower * (3.0 if s.warm_up and t < 60.0 else 1.0)) if arm == 0 else 1.0
        )
        z, density = _mixture_quantile(q) if s.tail and arm == 0 else _plain_quantile(q)
        error = math.sqrt(q * (1 - q)) / density / np.sqrt(np.maximum(n, 1))
        noise = np.clip(self.world.rng.normal(0.0, 1.0, len(n)) * error, -3.0, 3.0)
        value = np.exp(math.log(MEDIAN_MS * factor) + self.world.latency_shift[arm] + z + noise)
        return np.where(n > 0, value, np.nan)


def _plain_quantile(q: float) -> tuple[float, float]:
    z = float(ndtri(q))
    return z * SIGMA, math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / SIGMA


def _mixture_quantile(q: float) -> tuple[float, float]:
    """Of the latencies of which 2.2 % take six times as long: log quantile over the median, and density there."""
    x = np.linspace(-3.0, 6.0, 20001)
    cdf = 0.978 * ndtr(x / SIGMA) + 0.022 * ndtr((x - math.log(6.0)) / SIGMA)
    i = int(np.searchsorted(cdf, q))
    return float(x[i]), float((cdf[i + 1] - cdf[i - 1]) / (x[i + 1] - x[i - 1]))


def fresh_baseline(world: World, step: Step) -> tuple[Ints, Ints]:
    """A baseline of the candidate's size (5 %) out of stable's 95 %."""
    share = 0.05 / 0.95
    errors = world.rng.binomial(step.errors[1], share)
    return errors + world.rng.binomial(step.n[1] - step.errors[1], share), errors


def high(candidate: Floats, baseline: Floats) -> Bools:
    """Kayenta's High: lower end of the interval of the shift above a quarter of the estimate, and ratio above 1.1.

    Args: points (runs, k), NaN where missing. Missing points make a run wait (no data is no verdict there).
    """
    bad = np.zeros(len(candidate), bool)
    whole = ~(np.isnan(candidate) | np.isnan(baseline))
    for k in np.unique(whole.sum(axis=1)):
        rows = np.nonzero(whole.sum(axis=1) == k)[0]
        if k < 3:
            continue
        a = candidate[rows][whole[rows]].reshape(len(rows), k)
        b = baseline[rows][whole[rows]].reshape(len(rows), k)
        shift = np.sort((a[:, :, None] - b[:, None, :]).reshape(len(rows), -1), axis=1)
        cut = k * k / 2 - 2.3263 * math.sqrt(k * k * (2 * k + 1) / 12)
        lower = shift[:, max(int(cut), 0)] if cut >= 1 else np.full(len(rows), -np.inf)
        estimate = np.abs(np.median(shift, axis=1))
        bad[rows] = (lower > 0.25 * estimate) & (a.mean(axis=1) >= 1.1 * b.mean(axis=1)) & (lower > 0)
    return bad


class Sequential(Peer):
    """5 % candidate against 5 % fresh baseline, tested anew each second, false alarms at most 1 %; an hour, then all.

    Failures: Dirichlet-multinomial Bayes factor on which cohort a failure falls on (Lindon, Malek 2022, section 3).
    Latency: distribution functions with bands valid at all times (Howard, Ramdas 2022, theorem 2) at ten limits.
    No margin: any difference is one.
    """

    dt = 1.0
    fields = ("failures", "answers", "slow")
    LIMITS = 10

    def __init__(self, world: World) -> None:
        super().__init__(world, 0.05)
        edges = np.repeat(np.geomspace(60.0, 800.0, self.LIMITS)[:, None], world.runs, axis=1)
        world.watch(edges, edges)
        self.failures, self.answers = np.zeros((world.runs, 2)), np.zeros((world.runs, 2))
        self.slow = np.zeros((world.runs, 2, self.LIMITS))

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        rng, share = self.world.rng, 0.05 / 0.95
        _, errors = fresh_baseline(self.world, step)
        self.failures += np.stack([step.errors[0], errors], axis=1)
        # Thin each latency class on its own, so that the fresh baseline is a true subset of stable's answers.
        inside = np.concatenate([(step.n[1] - step.errors[1])[None], step.above[1]])
        thinned = rng.binomial(inside[:-1] - inside[1:], share)
        tail = rng.binomial(inside[-1], share)
        above = np.cumsum(np.concatenate([thinned, tail[None]])[::-1], axis=0)[::-1]
        self.slow[:, 0] += step.above[0].T
        self.slow[:, 1] += above[1:].T
        successes = above[0]
        self.answers += np.stack([step.n[0] - step.errors[0], successes], axis=1)
        self.harmful |= (self._more_failures() | self._slower()) & np.isinf(self.promoted_at)
        self.promote(t + dt, np.full(len(self.weight), t + dt >= 3600.0))

    def _more_failures(self) -> Bools:
        a, b = self.failures.T
        log_factor = betaln(1 + a, 1 + b) + (a + b) * math.log(2.0)
        return np.asarray((log_factor >= math.log(1 / 0.005)) & (a > b))

    def _slower(self) -> Bools:
        n = np.maximum(self.answers, 3.0)
        band = 0.85 * np.sqrt((np.log(np.log(math.e * n)) + 0.8 * math.log(1612 / 0.0025)) / n)
        share = self.slow / n[:, :, None]
        return np.asarray(((share[:, 0] - share[:, 1]).max(axis=1)) > band.sum(axis=1))


class Kamal(Peer):
    """All at once after the health check answers; nothing is judged afterwards."""

    def __init__(self, world: World) -> None:
        super().__init__(world, 1.0)

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        self.promote(t, np.ones(len(self.weight), bool))


PEERS: dict[str, Callable[[World], Peer]] = {
    "Flagger, documented": Flagger,
    "Flagger, tutorial": lambda world: Flagger(world, threshold=5, step=0.10),
    "Flagger, tuned": lambda world: Flagger(world, interval=10.0, threshold=2),
    "Argo Rollouts, documented": Argo,
    "Kayenta, tuned": Kayenta,
    "sequential test, 5 % + 5 %": Sequential,
    "Kamal": Kamal,
}
