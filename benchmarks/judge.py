"""How many requests a bad release spoils before each judge takes it back, and how often a good one is blamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.judge_batch import Batch
from benchmarks.judge_world import (
    HORIZON_SECONDS,
    PERSON_SECONDS,
    PERSON_SEES,
    Bools,
    Floats,
    Scenario,
    Step,
    World,
    bad_afterwards,
)

ACTUATION_SECONDS = 2.0
COMPACT_BELOW = 0.7


class Policy(Protocol):
    """A judge with its ramp, for many runs at once. Arrays have the runs first."""

    harmful: Bools
    promoted_at: Floats

    def routed(self) -> Floats: ...
    def update(self, t: float, dt: float, routed: Floats, step: Step) -> None: ...
    def settled(self, now: float) -> Bools: ...
    def keep(self, mask: Bools) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """By run: rolled back by the judge; seconds to that decision and to promotion (inf: never); spoiled requests."""

    rolled_back: Bools
    decided_at: Floats
    promoted_at: Floats
    bad: Floats


def simulate(
    make: Callable[[World], Policy],
    scenario: Scenario,
    rate: float,
    base: float,
    *,
    runs: int,
    seed: int,
    dt: float = 1.0,
    actuation: float = ACTUATION_SECONDS,
) -> Outcome:
    """Run one cell to the end of each rollout, then add what an undetected release goes on to spoil."""
    world = World(scenario, rate, base, runs, seed)
    policy = make(world)
    out = Outcome(np.zeros(runs, bool), np.full(runs, np.inf), np.full(runs, np.inf), np.zeros(runs))
    index = np.arange(runs)
    left = np.full(runs, np.inf)
    person_at = np.full(runs, np.inf)
    done = np.zeros(runs, bool)
    t = 0.0
    while t < HORIZON_SECONDS and len(index):
        weight = policy.routed()
        step = world.step(t, dt, weight)
        seen = scenario.visible_to_people and scenario.excess(t) > 0
        if seen:
            person_at[weight * scenario.excess(t) >= PERSON_SEES] = np.minimum(
                person_at[weight * scenario.excess(t) >= PERSON_SEES], t + PERSON_SECONDS
            )
        share = np.clip(left / dt, 0.0, 1.0) * ~done
        out.bad[index] += np.where(share >= 1.0, step.bad, world.rng.binomial(step.bad, share))
        left -= dt
        policy.update(t, dt, weight, step)
        t += dt
        fresh = policy.harmful & np.isinf(left) & ~done
        out.rolled_back[index[fresh]] = True
        out.decided_at[index[fresh]] = t
        left[fresh] = actuation
        out.promoted_at[index] = np.where(out.rolled_back[index], np.inf, policy.promoted_at)
        by_person = ~done & (t >= person_at) & np.isinf(left)
        settled = ~done & policy.settled(t) & np.isinf(left)
        _add_later(out, index, settled, world, policy, scenario, t, person_at)
        done |= (left <= 0) | by_person | settled
        if done.mean() > 1 - COMPACT_BELOW:
            keep = ~done
            index, left, person_at, done = index[keep], left[keep], person_at[keep], done[keep]
            world.keep(keep)
            policy.keep(keep)
    return out


def _add_later(out, index, settled, world, policy, scenario, t, person_at):  # type: ignore
    if not settled.any() or scenario.good:
        return
    gone = person_at[settled]
    grid = np.arange(t, HORIZON_SECONDS, 10.0)
    hits = grid[[scenario.excess(x) >= PERSON_SEES for x in grid]] if scenario.visible_to_people else grid[:0]
    first = hits[0] + PERSON_SECONDS if len(hits) else np.inf
    gone = np.minimum(np.minimum(gone, first), HORIZON_SECONDS)
    out.bad[index[settled]] += bad_afterwards(scenario, world.rate, 1.0, t, gone)
