"""Nothing remembered lies in the future. Pure.

A clock that is set back (by a person, or by a time server that found it wrong) would make every deadline that counts
from a remembered time late by as much. So a time that lies ahead of `now` is taken as `now`: what was waited for so far
is waited for again, and nothing waits longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from rebake.rollout.world import Environment, Fleet, Leaving, Rollout, Run, differs

T = TypeVar("T", float, float | None)


def _past(at: T, now: float) -> T:
    return now if at is not None and at > now else at


def _all_past(times: Mapping[str, float], now: float) -> Mapping[str, float]:
    if any(at > now for at in times.values()):
        return {name: min(at, now) for name, at in times.items()}
    return times


def _rollout(rollout: Rollout, now: float) -> Rollout:
    names = ("entered_at", "step_at", "users_at", "ramped_at", "promoted_at", "let_through_at")
    ahead = {name: now for name in names if (getattr(rollout, name) or 0.0) > now}
    return replace(rollout, **ahead) if ahead else rollout  # type: ignore[arg-type]


def _fleet(fleet: Fleet, now: float) -> Fleet:
    maps = (fleet.leaving, fleet.sick, fleet.pending, fleet.starting)
    ahead = fleet.good_at > now or any(f.at > now for f in fleet.failures)
    if not ahead and not any(at > now for times in maps for at in times.values()):
        return fleet
    return replace(
        fleet,
        good_at=min(fleet.good_at, now),
        failures=tuple(replace(f, at=min(f.at, now)) for f in fleet.failures),
        leaving=_all_past(fleet.leaving, now),
        sick=_all_past(fleet.sick, now),
        pending=_all_past(fleet.pending, now),
        starting=_all_past(fleet.starting, now),
    )


def _runs(runs: tuple[Run, ...], now: float) -> tuple[Run, ...]:
    """Slots are names and stay what they are: one that a clock shows twice is not run twice."""
    if not any(run.began > now or (run.missing or 0.0) > now for run in runs):
        return runs
    return tuple(replace(run, began=min(run.began, now), missing=_past(run.missing, now)) for run in runs)


def _leaving(gone: Leaving, now: float) -> Leaving:
    fleet, idle = _fleet(gone.fleet, now), _past(gone.idle_since, now)
    return gone if fleet is gone.fleet and idle == gone.idle_since else replace(gone, fleet=fleet, idle_since=idle)


def in_the_present(environment: Environment, now: float) -> Environment:
    """The same environment, with no remembered time after `now`; the very same value when there is none."""
    stable, candidate, rollout = environment.stable, environment.candidate, environment.rollout
    changed: dict[str, object] = {"runs": _runs(environment.runs, now)} if environment.runs else {}
    changed |= {
        "stable": stable and _fleet(stable, now),
        "candidate": candidate and _fleet(candidate, now),
        "rollout": rollout and _rollout(rollout, now),
        "leaving": tuple(_leaving(gone, now) for gone in environment.leaving),
        "stable_lost_at": _past(environment.stable_lost_at, now),
        "candidate_lost_at": _past(environment.candidate_lost_at, now),
    }
    return replace(environment, **changed) if differs(environment, changed) else environment  # type: ignore[arg-type]
