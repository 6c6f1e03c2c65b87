"""Where an environment is, when its instances and its edge are on one machine. Pure.

Several homes may share a database; each sees and reaches only what runs on its own machine. Rules:
- The home from which an environment is first deployed has it: only an engine there looks at it and acts on it.
- What people ask for (stop, undo, approve, down) may be asked anywhere: it is written down, and the engine there obeys.
- Taking it down gives it away: whoever deploys next has it.
An engine without a place (a platform that is the same from everywhere) may act on every environment; the lease decides.
"""

from __future__ import annotations

from rebake.errors import UsageError
from rebake.rollout.world import Environment, Place


def elsewhere(environment: Environment, here: Place | None) -> Place | None:
    """The place of an environment that an engine `here` must leave alone; None when it may act."""
    place = environment.place
    return None if here is None or place is None or place.id == here.id else place


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
