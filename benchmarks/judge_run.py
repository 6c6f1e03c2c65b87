"""One cell of the judges' benchmark: many rollouts of one scenario under one judge, to the end of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

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
COMPACT_ABOVE = 0.3
"""Runs that are over are thrown out once they are this part of all."""


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


@dataclass(slots=True)
class _Runs:
    """The runs still under way: their places in the outcome, seconds until a decided rollback acts (inf: undecided),
    when a person would take the release back."""

    index: np.ndarray
    left: Floats
    person_at: Floats
    done: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.done = np.zeros(len(self.index), bool)

    @property
    def undecided(self) -> Bools:
        return np.asarray(np.isinf(self.left) & ~self.done)

    def keep(self, mask: Bools) -> None:
        self.index, self.left, self.person_at = self.index[mask], self.left[mask], self.person_at[mask]
        self.done = self.done[mask]


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
    """Run one cell to the end of each rollout, then add what an undetected release goes on to spoil.

    Args:
        rate: requests per second. base: usual failure rate. dt: seconds between looks.
        actuation: seconds from a decision until no request reaches the candidate.
    """
    world = World(scenario, rate, base, runs, seed)
    policy = make(world)
    out = Outcome(np.zeros(runs, bool), np.full(runs, np.inf), np.full(runs, np.inf), np.zeros(runs))
    live = _Runs(np.arange(runs), np.full(runs, np.inf), np.full(runs, np.inf))
    t = 0.0
    while t < HORIZON_SECONDS and len(live.index):
        weight = policy.routed()
        step = world.step(t, dt, weight)
        _notice(live, scenario, weight, t)
        share = np.clip(live.left / dt, 0.0, 1.0) * ~live.done
        out.bad[live.index] += world.rng.binomial(step.bad, share)
        live.left -= dt
        policy.update(t, dt, weight, step)
        t += dt
        _record(out, live, policy, t, actuation)
        settled = live.undecided & policy.settled(t)
        if not scenario.good:
            out.bad[live.index[settled]] += _later(live.person_at[settled], scenario, rate, t)
        live.done |= (live.left <= 0) | settled | (live.undecided & (t >= live.person_at))
        if live.done.mean() > COMPACT_ABOVE:
            keep = ~live.done
            live.keep(keep)
            world.keep(keep)
            policy.keep(keep)
    return out


def _notice(live: _Runs, scenario: Scenario, weight: Floats, t: float) -> None:
    """A person acts half an hour after the service as a whole shows the excess."""
    if scenario.visible_to_people and not scenario.good:
        seen = weight * scenario.excess(t) >= PERSON_SEES
        live.person_at[seen] = np.minimum(live.person_at[seen], t + PERSON_SECONDS)


def _record(out: Outcome, live: _Runs, policy: Policy, now: float, actuation: float) -> None:
    fresh = policy.harmful & live.undecided
    out.rolled_back[live.index[fresh]] = True
    out.decided_at[live.index[fresh]] = now
    live.left[fresh] = actuation
    out.promoted_at[live.index] = np.where(out.rolled_back[live.index], np.inf, policy.promoted_at)


def _later(person_at: Floats, scenario: Scenario, rate: float, t: float) -> Floats:
    """What a release that is promoted for good spoils until a person acts or the horizon ends."""
    gone = np.minimum(person_at, HORIZON_SECONDS)
    if scenario.visible_to_people and len(gone):
        seen = [x for x in np.arange(t, HORIZON_SECONDS, 60.0) if scenario.excess(float(x)) >= PERSON_SEES]
        gone = np.minimum(gone, seen[0] + PERSON_SECONDS) if seen else gone
    return bad_afterwards(scenario, rate, t, gone)
