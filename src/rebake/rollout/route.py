"""The route an environment should have, from what is remembered and observed. Pure.

Rules:
- Weights come from the rollout alone; the candidate gets none before `SHIFTING`.
- A fleet stays registered, with weight 0, until it has drained.
- While the platform cannot be observed the route is left as it is.
- A fleet without a route (`shares`) stands in none; what its step asks for is served when its instances are at work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rebake.core.units import FULL
from rebake.rollout.fleets import serving
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.shares import at_work, has_route
from rebake.rollout.states import State
from rebake.rollout.world import Environment, Fleet, Leaving, Rollout, World
from rebake.traffic.pods import deal
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute, Mirror

LINGER_SECONDS = 0.25
"""A fleet without weight is given this long before `no request in flight` is believed: the balancer's workers take a
new route one after the other."""

_MIRRORED = frozenset({State.SHIFTING, State.HOLDING, State.ASKING})
_WITH_USERS = _MIRRORED | {State.SOAKING, State.FINISHING}


def stages(strategy: Strategy) -> int:
    """How many stages lie before the last step: copies, where there are any, then the steps (or the judge's ramp)."""
    return int(strategy.mirrors) + (1 if strategy.profile is not None else len(strategy.steps))


def first_with_users(strategy: Strategy) -> int:
    """The stage in which the candidate gets its first users."""
    return int(strategy.mirrors)


def mirroring(rollout: Rollout) -> bool:
    """Whether the candidate is given copies of users' requests now, and no users."""
    return rollout.plan.strategy.mirrors and rollout.step == 0 and rollout.state in _MIRRORED


def at_last_step(rollout: Rollout) -> bool:
    return rollout.step >= stages(rollout.plan.strategy)


def weights(environment: Environment) -> dict[str, int]:
    """Intended shares by fleet, basis points, 0 to 10 000 whatever is remembered. Empty before the first promotion."""
    stable, candidate, rollout = environment.stable, environment.candidate, environment.rollout
    met = rollout is not None and candidate is not None and rollout.state in _WITH_USERS
    share = min(max(rollout.weight, 0), FULL) if met and rollout is not None else 0
    stable = stable if stable is not None and stable.plan.routed else None
    candidate = candidate if candidate is not None and candidate.plan.routed else None
    shares = {}
    if stable is not None:
        shares[stable.id] = FULL - share if candidate is not None else FULL
    if candidate is not None:
        shares[candidate.id] = share if stable is not None or not share else FULL  # all of what nobody else can serve
    return shares


def drained(leaving: Leaving, world: World, now: float) -> bool:
    """A fleet has drained when it had no weight for a moment and the balancer says that no request is in flight, or its
    deadline passed. Where the balancer does not know, only time tells."""
    if leaving.idle_since is None or now - leaving.idle_since < LINGER_SECONDS:
        return False
    route = world.route
    active = route.active.get(leaving.fleet.id, 0) if route is not None else 0
    counted = world.route_known and (route is None or route.counts)
    return (counted and active == 0) or now - leaving.idle_since >= leaving.drain_seconds


def mirror_of(environment: Environment) -> Mirror | None:
    rollout, candidate = environment.rollout, environment.candidate
    if rollout is None or candidate is None or not mirroring(rollout):
        return None
    return Mirror(candidate.id, rollout.plan.strategy.mirror_basis_points)


def shield_of(environment: Environment, known: Collection[str]) -> str | None:
    """The candidate, for as long as it is routed beside stable: then the shield comes and goes with the weights alone,
    and going back waits for no other document. One that was taken back has it until it has drained: requests that it
    was dealt before may fail, or hang, after that.

    Args:
        known: fleets of the route, stable first where it is among them.
    """
    rollout, stable, candidate = environment.rollout, environment.stable, environment.candidate
    if stable is None or stable.id not in known:
        return None
    shielded = [gone.fleet.id for gone in environment.leaving if gone.shielded and gone.fleet.id in known]
    if rollout is not None and candidate is not None and rollout.plan.shield and candidate.id in known:
        shielded.append(candidate.id)
    return shielded[-1] if shielded else None


def governing_plan(environment: Environment) -> Plan | None:
    """Whose plan says where to listen: the candidate's once it is promoted, else stable's."""
    rollout = environment.rollout
    promoted = rollout is not None and rollout.promoted_at is not None and rollout.state is not State.RETURNING
    if environment.stable is not None and not promoted:
        return environment.stable.plan
    if rollout is not None:
        return rollout.plan
    return environment.leaving[0].fleet.plan if environment.leaving else None


def _fleet_route(fleet: Fleet, world: World, weight: int) -> FleetRoute:
    endpoints = tuple(Endpoint(i.id, i.address) for i in serving(fleet, world) if i.address)
    return FleetRoute(fleet.id, endpoints, weight, fleet.plan.run.health)


def _called(environment: Environment, routes: list[FleetRoute]) -> list[FleetRoute]:
    """Where shares are those of instances: how many of each fleet are called. What the candidate lacks of its own is
    made up by stable; what stable lacks is not by the candidate, whose share no failure may raise."""
    rollout, stable, candidate = environment.rollout, environment.stable, environment.candidate
    if rollout is None or not rollout.plan.strategy.by_instances or stable is None or candidate is None:
        return routes
    by_fleet = {one.fleet: one for one in routes}
    ours, theirs = by_fleet.get(candidate.id), by_fleet.get(stable.id)
    if ours is None or theirs is None or not ours.weight_basis_points or not theirs.weight_basis_points:
        return routes
    dealt = deal(ours.weight_basis_points, stable.plan.instances, rollout.plan.instances)
    lacking = max(0, dealt.candidate - len(ours.endpoints))
    called = {candidate.id: dealt.candidate, stable.id: dealt.stable + lacking}
    return [replace(one, called=called.get(one.fleet)) for one in routes]


def desired_route(environment: Environment, world: World, now: float) -> EnvironmentRoute | None:
    """The whole route as it should be now; None when nothing should be routed at all."""
    plan = governing_plan(environment)
    shares = weights(environment)
    fleets = [f for f in (environment.stable, environment.candidate) if f is not None and f.plan.routed]
    routes = [_fleet_route(f, world, shares[f.id]) for f in fleets]
    gone = [g for g in environment.leaving if g.fleet.plan.routed and not drained(g, world, now)]
    routes += [_fleet_route(g.fleet, world, 0) for g in gone]
    routes = [r for r in _called(environment, routes) if r.endpoints or r.weight_basis_points]
    if plan is None or not plan.routed or not routes:
        return None
    candidate = environment.candidate
    known = {r.fleet for r in routes}
    return EnvironmentRoute(
        service=environment.service,
        environment=environment.environment,
        listen=plan.listen,
        fleets=tuple(routes),
        preview=candidate.id if candidate is not None and candidate.id in known else None,
        mirror=mirror_of(environment),
        sticky=plan.sticky,
        answer_within_ms=plan.judge.answer_within_ms,
        shield=shield_of(environment, known),
    )


def at_work_as_asked(environment: Environment, world: World) -> bool:
    """Whether a candidate without a route is at its size; nothing is asked of one that is routed or going back."""
    rollout = environment.rollout
    if rollout is None or rollout.plan.routed or rollout.state is State.RETURNING:
        return True
    return at_work(environment, world)


def served(environment: Environment, world: World, wanted: EnvironmentRoute | None) -> bool:
    """Whether the balancer reports exactly the intended weights (and, where requests are mirrored, the whole route),
    and a candidate without a route has the instances that its share takes."""
    if not at_work_as_asked(environment, world) or not world.route_known:
        return False
    if not has_route(environment):
        return True
    intended = {f: w for f, w in weights(environment).items() if w}
    if world.route is None:
        return not intended
    reported = {f: w for f, w in world.route.weights.items() if w}
    if reported != intended or (intended and not world.route.listening):
        return False
    return wanted is None or wanted.mirror is None or world.route.version == wanted.version
