"""A look that is not decided, because nothing changed, would have decided nothing: at any later time, whatever is
counted meanwhile."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given
from hypothesis import strategies as st

from rebake.rollout.actions import ApplyRoute
from rebake.rollout.decide import decide
from rebake.rollout.quiet import alike, is_quiet
from rebake.rollout.world import Environment, World
from rebake.traffic.ports import Counters

from .worlds import NOW, any_world, environments, worlds


def _at_rest(environment: Environment, world: World) -> tuple[Environment, World]:
    """Most generated environments are under way, and none of those is quiet: mostly well, then."""
    stable = environment.stable
    if stable is not None:
        stable = replace(stable, failures=(), leaving={}, sick={}, pending={}, starting={})
        mine = [replace(i, state="running", drift=()) for i in world.instances if i.fleet == stable.id]
        stable = replace(stable, plan=replace(stable.plan, instances=len(mine), schedule=None))
        world = replace(world, instances=tuple(mine))
    at_rest = replace(
        environment, stable=stable, rollout=None, queue=(), candidate=None, leaving=(), candidate_lost_at=None
    )
    return at_rest, replace(world, commands=(), unseen="", unheard="")


def _converged(environment: Environment, world: World) -> tuple[Environment, World]:
    """As a balancer would have it that did what it was asked, after a few looks."""
    for _ in range(4):
        environment = decide(environment, world, NOW).environment
        actions = decide(environment, world, NOW).actions
        for route in [action.route for action in actions if isinstance(action, ApplyRoute)]:
            weights = {f.fleet: f.weight_basis_points for f in route.fleets}
            assert world.route is not None
            world = replace(world, route=replace(world.route, version=route.version, weights=weights, listening=True))
    return environment, world


def _counted(world: World) -> World:
    """The same world a while later: what nobody decides by has changed."""
    route = world.route and replace(world.route, counters={"a": Counters(9, 9)}, active={"a": 3}, epoch="later")
    return replace(
        world, route=route, requests_per_second=77.0, log_tails={"i": ("x",)}, verdict=None, looked_away=True
    )


@any_world
@given(environments(), worlds(), st.sampled_from([0.0, 0.1, 10.0, 3600.0, 1e7]))
def test_what_is_not_decided_would_have_come_to_nothing(environment: Environment, world: World, later: float) -> None:
    environment, world = _at_rest(environment, world)
    if world.route is not None:
        environment, world = _converged(environment, world)
    decision = decide(environment, world, NOW)
    quiet = is_quiet(environment, world, decision)
    event(f"quiet: {quiet}, serves: {environment.stable is not None}")
    after = _counted(world)
    if not quiet or not alike(world, after):
        return
    again = decide(environment, after, NOW + later)
    assert is_quiet(environment, after, again)
