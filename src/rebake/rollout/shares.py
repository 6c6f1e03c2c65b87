"""Fleets without a route: their share of the work is their share of the instances. Pure.

Nobody deals work to them, so a share is set by how many instances of the candidate run. The rules:
- no instance of the candidate runs before its checks passed: who runs, works;
- stable keeps its full size until the soak ends, so the candidate comes on top: with N of stable a share of s takes
  ceil(s N / (1 - s)) of the candidate, at most its full size, which half and more come to;
- going back, and a stable that is relieved, is an instance told to finish: SIGTERM, its drain time, then the end.
"""

from __future__ import annotations

from rebake.core.units import FULL
from rebake.rollout.fleets import healthy, serving
from rebake.rollout.places import plans_of
from rebake.rollout.states import State
from rebake.rollout.world import Environment, Rollout, World

_AT_WORK = frozenset({State.SHIFTING, State.HOLDING, State.ASKING, State.SOAKING, State.FINISHING})


def instances_at(share_basis_points: int, stable: int, full: int) -> int:
    """How many instances of the candidate do this share of the work beside a whole stable.

    Args:
        share_basis_points: the step's share; any number, 0 and less is none of the work.
        stable: instances of stable; 0 when there is none.
        full: instances of the candidate at full size.

    >>> [instances_at(share, 4, 4) for share in (0, 500, 2000, 2500, 5000, 10_000)], instances_at(500, 0, 4)
    ([0, 1, 1, 2, 4, 4], 4)
    """
    if share_basis_points <= 0:
        return 0
    if share_basis_points >= FULL or stable <= 0:
        return full
    return min(full, -(-share_basis_points * stable // (FULL - share_basis_points)))


def candidate_size(environment: Environment) -> int:
    """How many instances the candidate should have now."""
    rollout, stable = environment.rollout, environment.stable
    if rollout is None:
        return 0
    if rollout.plan.routed:
        return rollout.plan.instances
    if rollout.plan.schedule is not None or not _may_work(rollout):
        return 0
    return instances_at(rollout.weight, stable.plan.instances if stable is not None else 0, rollout.plan.instances)


def _may_work(rollout: Rollout) -> bool:
    """Whether its checks are passed and a person, where one is asked, approved."""
    return rollout.state in _AT_WORK and not (rollout.state is State.ASKING and rollout.asking == "approval")


def runs_share(environment: Environment) -> int:
    """The candidate's share of a scheduled job's runs now, basis points."""
    rollout = environment.rollout
    if rollout is None or environment.candidate is None or not _may_work(rollout):
        return 0
    return min(max(rollout.weight, 0), FULL)


def at_work(environment: Environment, world: World) -> bool:
    """Whether the candidate has the instances that its share takes, all of them healthy."""
    candidate = environment.candidate
    if not world.instances_known:
        return False
    return candidate is None or len(healthy(candidate, world)) >= candidate_size(environment)


def realised(environment: Environment, world: World) -> dict[str, float]:
    """The share of the work that each cohort does now, by its live instances, or of a job's runs: 0 to 1."""
    if is_scheduled(environment):
        share = runs_share(environment) / FULL
        return {"stable": 1.0 - share if environment.stable is not None else 0.0, "candidate": share}
    cohorts = {"stable": environment.stable, "candidate": environment.candidate}
    live = {
        name: 0 if fleet is None else sum(1 for i in serving(fleet, world) if i.healthy)
        for name, fleet in cohorts.items()
    }
    return {name: count / max(1, sum(live.values())) for name, count in live.items()}


def is_scheduled(environment: Environment) -> bool:
    """Whether it is a scheduled job's, as far as is remembered."""
    return any(plan.schedule is not None for plan in plans_of(environment))


def has_route(environment: Environment) -> bool:
    """Whether any fleet of the environment is reached through a route, as far as is remembered."""
    plans = plans_of(environment)
    return not plans or any(plan.routed for plan in plans)
