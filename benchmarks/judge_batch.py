"""rebake's judge and ramp for thousands of rollouts at once: the shipped e-process, counted in arrays.

The bets, caps, factors, start times and routing check are the shipped functions themselves (they take any leading
axes); what `Judge` and `ramp` do with plain numbers is repeated here with arrays, and `check_twin` proves on random
rollouts that both say the same, tick by tick.
"""

from __future__ import annotations

import math

import numpy as np

from benchmarks.judge_world import ENDPOINT_SHARES, Bools, Floats, Ints, Step, World
from rebake.judge import judge as shipped
from rebake.judge import shared_fate, warm_up
from rebake.judge.book import MEMORY_SECONDS, PRIOR_REQUESTS
from rebake.judge.eprocess import Counts, advance, capped_bets, log_factors, odds, staked_by
from rebake.judge.metrics import Row, Threshold, endpoint_row, error_row, kind_shares, latency_row, thresholds
from rebake.judge.replay import HOLD_BACK, SHORTEST_SOAK_SECONDS, SOAK_UNTIL_SECONDS
from rebake.judge.routing import NEEDED as FAULT_NEEDED
from rebake.judge.routing import log_ratios, too_few
from rebake.judge.rows import KNOWN_ENDPOINTS_SHARE
from rebake.judge.samples import Arm, JudgeSettings
from rebake.traffic import ramp

ENDPOINTS = len(ENDPOINT_SHARES)
LIMITS = 4
ROWS = 1 + ENDPOINTS + LIMITS
# fmt: off
PER_RUN = [
    "prior", "wealth", "memory", "staked", "routing", "first_candidate", "braked", "harmful", "fault", "too_few",
    "seen_candidate", "wished", "weight", "rate", "baked", "finished", "promoted_at", "burn_candidate", "burn_stable",
    "burn_limit", "partial", "evidence", "last_tick", "stable_order", "candidate_order",
]
# fmt: on


class Batch:
    """State of all rollouts; every array named in `PER_RUN` has the runs first."""

    def __init__(self, world: World, profile: ramp.Profile, settings: JudgeSettings | None = None) -> None:
        self.settings = settings or JudgeSettings()
        self.course = ramp.COURSES[profile]
        self.needed = 1.0 / self.settings.false_rollbacks
        runs = world.runs
        rows, limits = self._rows(world)
        first = rows[0]
        self.share = np.array([r.share for r in first])
        self.ratio = np.array([r.ratio for r in first])
        self.extra = np.array([r.extra for r in first])
        self.base_bets = np.array([r.bets for r in first])
        self.reserve = 1.0 - self.share.sum()
        self.prior = np.array([[r.prior for r in run] for run in rows])
        self.wealth = np.broadcast_to(
            (self.share * staked_by(0.0) / self.base_bets.shape[1])[None, :, None], (runs, *self.base_bets.shape)
        ).copy()
        self.memory = np.zeros((runs, ROWS, 2))
        self.staked = np.full(runs, staked_by(0.0))
        self.promoted_at = np.full(runs, np.inf)
        self.last_tick = np.zeros(runs)
        self.routing = np.zeros((runs, log_ratios(0.5, 0, 0).shape[-1]))
        self.first_candidate = np.full(runs, np.inf)
        self.partial = np.array([[limit.partial for limit in run] for run in limits])
        self.braked, self.harmful = np.zeros(runs, bool), np.zeros(runs, bool)
        self.fault, self.finished = np.zeros(runs, bool), np.zeros(runs, bool)
        self.too_few = np.zeros(runs, bool)
        self.seen_candidate, self.baked = np.zeros(runs), np.zeros(runs)
        self.evidence = np.ones(runs)
        start, _ = ramp.begin(world.rate)
        self.wished, self.weight = np.full(runs, start.wished), np.full(runs, start.weight)
        self.rate = np.full(runs, start.rate)
        self.burn_candidate, self.burn_stable = np.zeros((runs, 2)), np.zeros((runs, 2))
        self.burn_limit = np.array([shared_fate.SharedFate.of(arm).limit for arm in self.histories])
        self._watch(world, limits)

    def _rows(self, world: World) -> tuple[list[list[Row]], list[tuple[Threshold, ...]]]:
        n, errors, latency = world.history()
        shares = kind_shares(("errors", "endpoints", "latency"))
        each = shares["endpoints"] * KNOWN_ENDPOINTS_SHARE / ENDPOINTS
        rows: list[list[Row]] = []
        limits: list[tuple[Threshold, ...]] = []
        self.histories: list[Arm] = []
        for i in range(world.runs):
            arm = Arm(int(n[i]), int(errors[i]), {}, latency[i].tolist())
            names = [f"e{k}" for k in range(ENDPOINTS)]
            ends = {k: (round(n[i] * s), round(errors[i] * s)) for k, s in zip(names, ENDPOINT_SHARES, strict=True)}
            arm = Arm(arm.n, arm.errors, ends, arm.latency)
            self.histories.append(arm)
            run = thresholds(arm.latency, self.settings.latency)
            rows.append(
                [error_row(self.settings, shares["errors"], arm)]
                + [endpoint_row(k, self.settings, each, arm) for k in names]
                + [latency_row(limit, shares["latency"] / LIMITS, arm) for limit in run]
            )
            limits.append(run)
        return rows, limits

    def _watch(self, world: World, limits: list[tuple[Threshold, ...]]) -> None:
        stable = np.array([[1.05 ** (x.bucket - 1) for x in run] for run in limits])
        candidate = np.array([[1.05 ** (x.shifted - k) for x in run for k in (2, 1)] for run in limits])
        self.stable_order = np.argsort(stable, axis=1)
        self.candidate_order = np.argsort(candidate, axis=1)
        world.watch(np.sort(candidate, axis=1).T, np.sort(stable, axis=1).T)

    def keep(self, mask: Bools) -> None:
        for name in PER_RUN:
            setattr(self, name, getattr(self, name)[mask])

    # -- one tick -----------------------------------------------------------------------------------------------

    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None:
        """Judge one tick and move the ramp. `routed`: the share asked for in this tick."""
        now = t + dt
        busy = np.nonzero(step.n.sum(axis=0) > 0)[0]
        new = (step.n[0] > 0) & np.isinf(self.first_candidate)
        self.first_candidate[new] = t
        if len(busy):
            self._bet(busy, now, dt, routed[busy], self._counts(step, busy))
        self._burn(dt, step)
        self._ramp(now, dt, step)

    def _counts(self, step: Step, busy: Ints) -> Counts:
        table = np.zeros((6, len(busy), ROWS))
        table[0, :, 0], table[1, :, 0] = step.n[0, busy], step.errors[0, busy]
        table[2, :, 0], table[3, :, 0] = step.n[1, busy], step.errors[1, busy]
        ends = slice(1, 1 + ENDPOINTS)
        for cohort, at in ((0, 0), (1, 2)):
            table[at, :, ends] = step.by_endpoint[cohort, 0][:, busy].T
            table[at + 1, :, ends] = step.by_endpoint[cohort, 1][:, busy].T
        late = slice(1 + ENDPOINTS, ROWS)
        table[0, :, late], table[2, :, late] = step.n[0, busy, None], step.n[1, busy, None]
        ours = _unsort(step.above[0][:, busy].T, self.candidate_order[busy]).reshape(len(busy), LIMITS, 2)
        table[1, :, late], table[4, :, late] = ours[:, :, 1], ours[:, :, 0] - ours[:, :, 1]
        table[3, :, late] = _unsort(step.above[1][:, busy].T, self.stable_order[busy])
        table[5, :, late] = self.partial[busy]
        return Counts(*table)

    def _bet(self, busy: Ints, now: float, dt: float, routed: Floats, counts: Counts) -> None:
        odd = odds(routed)[:, None]
        idle = np.maximum(now - dt - self.last_tick[busy], 0.0)
        memory = self.memory[busy] * np.exp(-idle / MEMORY_SECONDS)[:, None, None]
        center = (memory[:, :, 1] + PRIOR_REQUESTS * self.prior[busy]) / (memory[:, :, 0] + PRIOR_REQUESTS)
        center[self.fault[busy]] = 0.0
        ratio, extra = np.broadcast_to(self.ratio, center.shape), np.broadcast_to(self.extra, center.shape)
        bets = capped_bets(self.base_bets[None], center, extra, ratio, odd)
        judged = self._warm(counts, now - self.first_candidate[busy] >= warm_up.SECONDS)
        factor = log_factors(bets, judged, center=center, extra=extra, ratio=ratio, odd=odd)
        stake = staked_by(now) - self.staked[busy]
        new_stake = (stake[:, None] * self.share / self.base_bets.shape[1])[:, :, None]
        betting = ~self.fault[busy] | self.too_few[busy]
        wealth = advance(self.wealth[busy], new_stake, factor)
        self.wealth[busy] = np.where(betting[:, None, None], wealth, self.wealth[busy])
        self.staked[busy] = np.where(betting, staked_by(now), self.staked[busy])
        memory *= math.exp(-dt / MEMORY_SECONDS)
        memory[:, :, 0] += counts.stable_n
        memory[:, :, 1] += counts.stable_hits
        self.memory[busy], self.last_tick[busy] = memory, now
        self._decide(busy, routed, counts, betting)

    @staticmethod
    def _warm(counts: Counts, warm: Bools) -> Counts:
        judged = np.ones((len(warm), ROWS))
        judged[~warm, 1 + ENDPOINTS :] = 0.0
        return Counts(
            counts.candidate_n * judged,
            counts.candidate_hits * judged,
            counts.stable_n * judged,
            counts.stable_hits * judged,
            counts.candidate_partial * judged,
            counts.partial,
        )

    def _decide(self, busy: Ints, routed: Floats, counts: Counts, betting: Bools) -> None:
        kept = (1.0 - self.staked[busy]) * self.share.sum()
        evidence = self.reserve + kept + self.wealth[busy].sum(axis=(1, 2))
        self.evidence[busy] = np.where(betting, evidence, self.evidence[busy])
        ratios = log_ratios(routed, counts.candidate_n[:, 0], counts.stable_n[:, 0])
        self.routing[busy] = np.clip(self.routing[busy] + np.where(betting[:, None], ratios, 0.0), -600.0, 600.0)
        evidence = self.evidence[busy]
        self.harmful[busy] |= betting & (evidence >= self.needed)
        fresh = ~self.fault[busy] & ~self.harmful[busy] & (np.exp(self.routing[busy]).mean(axis=1) >= FAULT_NEEDED)
        self.too_few[busy] |= fresh & too_few(self.routing[busy])
        self.fault[busy] |= fresh
        limit = np.where(self.braked[busy], shipped.BRAKE_UNTIL, shipped.BRAKE_ABOVE)
        self.braked[busy] = evidence > limit
        self.seen_candidate[busy] += counts.candidate_n[:, 0]

    def _burn(self, dt: float, step: Step) -> None:
        keep = math.exp(-dt / shared_fate.MEMORY_SECONDS)
        for i, name in ((0, "burn_candidate"), (1, "burn_stable")):
            setattr(self, name, getattr(self, name) * keep + np.stack([step.n[i], step.errors[i]], axis=1))

    @property
    def both_burn(self) -> Bools:
        burning = [
            (x[:, 1] >= shared_fate.FEWEST_FAILURES) & (x[:, 1] > self.burn_limit * x[:, 0])
            for x in (self.burn_candidate, self.burn_stable)
        ]
        return burning[0] & burning[1]

    def _ramp(self, now: float, dt: float, step: Step) -> None:
        c = self.course
        keep = math.exp(-dt / ramp.RATE_MEMORY_SECONDS)
        self.rate = keep * self.rate + (1 - keep) * step.n.sum(axis=0) / dt
        held = self.braked | self.fault | self.harmful | self.both_burn | self.finished
        half = ~held & (self.weight >= ramp.HALF)
        self.baked[half] += dt
        done = half & (self.baked >= c.bake_seconds)
        self.finished |= done
        self.promoted_at[done] = now
        grow = ~held & ~half
        cap = np.full(len(grow), ramp.HALF)
        if now < c.second_seconds:
            cap[self.seen_candidate < c.second_requests] = ramp.SECOND_CAP
        if now < c.first_seconds:
            cap[self.seen_candidate < c.first_requests] = ramp.FIRST_CAP
        if now < c.half_seconds:
            cap = np.minimum(cap, ramp.SECOND_CAP)
        cap[self.seen_candidate <= 0] = ramp.FIRST_CAP
        most = math.inf
        if now < c.careful_seconds:
            cap[:] = ramp.FIRST_CAP
            most = c.most_requests_per_second
        wished = np.minimum(self.wished * math.exp(min(dt / ramp.GROWTH_SECONDS, 1.0)), most)
        wished = np.minimum(wished, math.e * np.maximum(self.weight * self.rate, ramp.START_REQUESTS_PER_SECOND))
        reached = np.minimum(np.maximum(wished / np.maximum(self.rate, 1e-12), ramp.SMALLEST), cap)
        self.wished = np.where(grow, wished, self.wished)
        self.weight = np.where(grow, np.maximum(self.weight, reached), self.weight)

    def routed(self) -> Floats:
        """The share as the route carries it: whole basis points."""
        weight = np.where(self.finished, 1.0 - HOLD_BACK, self.weight)
        return np.asarray(np.maximum(np.round(weight * 10_000), 1) / 10_000)

    def settled(self, now: float) -> Bools:
        """Runs that nobody watches any more: promoted for good."""
        watched_until = np.maximum(SOAK_UNTIL_SECONDS, self.promoted_at + SHORTEST_SOAK_SECONDS)
        return np.asarray(self.finished & (now >= watched_until))


def _unsort(values: Ints, order: Ints) -> Ints:
    plain = np.empty_like(values)
    np.put_along_axis(plain, order, values, axis=1)
    return plain
