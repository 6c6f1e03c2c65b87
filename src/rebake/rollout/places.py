"""Where an environment is, when its instances and its edge are on one machine. Pure.

Several homes may share a database; each sees and reaches only what runs on its own machine. Rules:
- The home from which an environment is first deployed has it: only an engine there looks at it and acts on it.
- What people ask for (stop, undo, approve, down) may be asked anywhere: it is written down, and the engine there obeys.
- Taking it down gives it away: whoever deploys next has it.
- A platform that is the same from everywhere (a cluster) binds no environment to a home: every engine may act there,
  and the lease decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from rebake.errors import UsageError
from rebake.rollout.plan import Plan
from rebake.rollout.world import Environment, Place


def plans_of(environment: Environment) -> list[Plan]:
    """Every plan that is remembered, of what runs before of what is asked for."""
    fleets = [environment.stable, environment.candidate, *(gone.fleet for gone in environment.leaving)]
    plans = [f.plan for f in fleets if f is not None]
    return plans + [r.plan for r in (environment.rollout, *environment.queue) if r is not None]


def platform_of(environment: Environment) -> str | None:
    """The platform of an environment: where its instances are, or were last."""
    plans = plans_of(environment)
    return plans[0].platform if plans else environment.platform


def elsewhere(environment: Environment, here: Mapping[str, Place]) -> Place | None:
    """The place of an environment that an engine must leave alone; None when it may act.

    Args:
        here: by platform, the home that it acts in for this engine; empty where no platform binds to a home.
    """
    place = environment.place
    return None if not here or place is None or place.id in {one.id for one in here.values()} else place


def is_vacant(environment: Environment) -> bool:
    """Nothing of it runs or is asked for, so nothing is left behind when it moves."""
    cohorts = (environment.stable, environment.candidate, environment.rollout)
    return not (any(cohorts) or environment.queue or environment.leaving)


def refusal(environment: Environment, place: Place) -> UsageError:
    """What somebody is told who asks in the wrong home."""
    return UsageError(
        "environment-elsewhere",
        f"{environment.key} is in the home {place.folder} on {place.host}; it is changed and looked into there only",
        where=environment.key,
        remedy=f"run the command there; to move it: rebake down {environment.environment}, then deploy here",
    )


def sentence(place: Place) -> str:
    """The same, for whoever looks at it from another home."""
    return (
        f"it is in the home {place.folder} on {place.host}: health, drift and logs are seen there only; "
        "stop, undo, approve and down can be asked for here too"
    )
