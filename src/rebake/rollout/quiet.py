"""When a look need not be decided: nothing is under way, and nothing changed since one that found nothing to do. Pure.

An engine looks at thousands of environments in which nothing happens. `decide` says the same of the same: what is
remembered, what is observed and the time are all it knows, and a decision that asks to be woken at no time does not
hang on the time. `tests/properties/test_quiet.py` holds it to that.
"""

from __future__ import annotations

from rebake.rollout.actions import Decision
from rebake.rollout.fleets import all_is_well
from rebake.rollout.world import Environment, World


def is_quiet(environment: Environment, world: World, decision: Decision) -> bool:
    """Whether a decision, made of these, found nothing to do, and nothing that waits for its time."""
    nothing_done = not (decision.actions or decision.notes or decision.ended or decision.refused)
    nothing_said = not (decision.quarantine or decision.succeeded or decision.withdrawn)
    same = decision.environment is environment and decision.wake_at == float("inf")
    return nothing_done and nothing_said and same and _at_rest(environment, world)


def _at_rest(environment: Environment, world: World) -> bool:
    """Whether nothing is under way: all that serves is there, well and alone."""
    stable = environment.stable
    if environment.rollout or environment.queue or environment.candidate or environment.leaving:
        return False
    if stable is None:
        return not world.instances
    return stable.plan.schedule is None and all_is_well(stable, world.instances, stable.plan.instances)


def alike(before: World, world: World) -> bool:
    """Whether an environment at rest looks as it did, in all that `decide` asks then. What balancers count, what jobs
    came to and what was judged is not among it."""
    if not (world.route_known and world.instances_known) or world.commands:
        return False
    if not (before.route_known and before.instances_known):
        return False
    route, known = world.route, before.route
    same_route = route is known or (route is not None and known is not None and route.version == known.version)
    return same_route and world.instances == before.instances
