"""Equal values of one environment, held once. Pure.

An engine has thousands of environments at rest, and from fleet to fleet most often only the release changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from rebake.release.manifest import Settings
from rebake.rollout.plan import Plan
from rebake.rollout.world import Environment, Fleet

T = TypeVar("T")


def frugal(environment: Environment) -> Environment:
    """The same environment. Fleets with equal plans or settings share them."""
    plans: list[Plan] = []
    settings: list[Settings] = []

    def fleet(one: Fleet) -> Fleet:
        revision = replace(one.revision, settings=_held(settings, one.revision.settings))
        return replace(one, plan=_held(plans, one.plan), revision=revision)

    stable, candidate = (None if one is None else fleet(one) for one in (environment.stable, environment.candidate))
    return replace(
        environment, stable=stable, candidate=candidate, previous=tuple(fleet(one) for one in environment.previous)
    )


def _held(known: list[T], value: T) -> T:
    """The first one that is equal."""
    for one in known:
        if one == value:
            return one
    known.append(value)
    return value
