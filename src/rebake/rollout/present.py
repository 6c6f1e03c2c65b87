"""Remembered times are told by the clock of now, and none of them lies ahead. Pure.

How long something was waited for is the difference between now and a remembered time, so both must be of one clock.
The engine's clock is not set while it lives (`core.clock.SystemClock`), but between two lives anybody may have set it.
So what is remembered says when its machine's boot began, by the clock of then (`Environment.boot`). Now's clock says
the same of the same boot; where the two differ the clock was set by as much, and every remembered time is moved with
it: an hour that did not pass ends no hold and no soak, and an hour that comes twice makes none longer.

Across a reboot nothing but the wall clocks can be compared, and nobody served or watched while the machine was off.
Where the machine has instances and edge too, what was waited for begins anew then. Another engine of a cluster on
another machine goes on by the clock of its own; a time that lies ahead of now is taken as now there: what was waited
for so far is waited for again, and nothing waits longer than that.

What is no beginning of a wait stays as it is: slots of a schedule and ends of freezes are times of the calendar. So is
when a person let a rollout through, which is compared with when somebody froze: a freeze is never moved, and must not
be passed over because a clock was set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from rebake.core.clock import Boot, set_between
from rebake.rollout.world import Environment, Fleet, Leaving, Rollout, Run, World, differs

T = TypeVar("T", Rollout, Run, Leaving, Fleet)
Told = Callable[[float], float]
"""A remembered time as it is told now."""

_ROLLOUT = ("entered_at", "step_at", "users_at", "ramped_at", "promoted_at")
_RUN = ("began", "missing")
"""Times at which a wait began."""


def _each(value: T, names: tuple[str, ...], told: Told) -> T:
    """The same value with these of its times as they are told now; the very same where none is told otherwise. A time
    of 0 never was."""
    changed: dict[str, Any] = {}
    for name in names:
        at = getattr(value, name)
        if at and (now := told(at)) != at:
            changed[name] = now
    return replace(value, **changed) if changed else value


def _all(times: Mapping[str, float], told: Told) -> Mapping[str, float]:
    found = {name: told(at) for name, at in times.items()}
    return times if found == times else found


def _fleet(fleet: Fleet, told: Told, waits: Told) -> Fleet:
    maps = {name: getattr(fleet, name) for name in ("leaving", "sick", "pending", "starting")}
    changed: dict[str, Any] = {name: _all(times, waits) for name, times in maps.items() if times}
    if fleet.failures:
        changed["failures"] = tuple(replace(f, at=told(f.at)) for f in fleet.failures)
    fleet = _each(fleet, ("good_at",), told)
    known = all(getattr(fleet, name) == value for name, value in changed.items())
    return fleet if known else replace(fleet, **changed)


def _rollout(rollout: Rollout, told: Told, waits: Told) -> Rollout:
    return _each(_each(rollout, ("requested_at",), told), _ROLLOUT, waits)


def _leaving(gone: Leaving, told: Told, waits: Told) -> Leaving:
    fleet, gone = _fleet(gone.fleet, told, waits), _each(gone, ("idle_since",), waits)
    return gone if fleet is gone.fleet else replace(gone, fleet=fleet)


def _retold(environment: Environment, told: Told, waits: Told | None = None, **also: Any) -> Environment:
    """The same environment, with every time as it is told now; the very same value when none is told otherwise.

    Args:
        waits: for times at which a wait began, where they are told otherwise than others.
    """
    waits = waits or told
    stable, candidate, rollout = environment.stable, environment.candidate, environment.rollout
    lost = {name: getattr(environment, name) for name in ("stable_lost_at", "candidate_lost_at", "fell_at")}
    changed: dict[str, Any] = {
        "stable": stable and _fleet(stable, told, waits),
        "candidate": candidate and _fleet(candidate, told, waits),
        "rollout": rollout and _rollout(rollout, told, waits),
        "queue": tuple(_rollout(waiting, told, waits) for waiting in environment.queue),
        "leaving": tuple(_leaving(gone, told, waits) for gone in environment.leaving),
        "runs": tuple(_each(_each(run, ("ended",), told), _RUN, waits) for run in environment.runs),
        **{name: at if at is None else waits(at) for name, at in lost.items()},
        **also,
    }
    return replace(environment, **changed) if differs(environment, changed) else environment


def rebooted(environment: Environment, boot: Boot | None) -> bool:
    """Whether this was decided in another boot of a machine: what ran on it ended by that, and by nothing else."""
    return environment.boot is not None and boot is not None and environment.boot.id != boot.id


def in_the_present(environment: Environment, now: float, boot: Boot | None = None) -> Environment:
    """The same environment, told by the clock of now, with no remembered time after `now`; the very same value when it
    is so already.

    Args:
        boot: of this machine, by the clock of now.
    """
    by = set_between(environment.boot, boot)
    if by:
        environment = _retold(environment, lambda at: at + by, boot=boot)
    anew = environment.place is not None and rebooted(environment, boot)
    environment = _retold(environment, partial(min, now), (lambda _at: now) if anew else None)
    rollout = environment.rollout
    if rollout is not None and (rollout.let_through_at or 0.0) > now:
        environment = replace(environment, rollout=replace(rollout, let_through_at=now))
    return environment


def dated(environment: Environment, before: Environment, world: World) -> Environment:
    """What is remembered from now on, which says by which clock its times are told: from when on there is one.

    An environment in which nothing is waited for need not be written down for that. What a reboot ended is found at the
    first look that shows instances: until then it is remembered that there was one.
    """
    boot, again = world.boot, rebooted(environment, world.boot)
    known = environment.boot is not None and not again
    at_rest = environment is before and environment.rollout is None
    if boot is None or known or at_rest or (again and not world.instances_known):
        return environment
    return replace(environment, boot=boot)
