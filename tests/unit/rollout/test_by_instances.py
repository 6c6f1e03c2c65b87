"""Rollouts where a share of the users is one of the instances behind one address."""

from __future__ import annotations

import pytest

from rebake.app.pod_shares import refuse_shares
from rebake.errors import UsageError
from rebake.judge.samples import Arm
from rebake.rollout.judging import Judging
from rebake.rollout.plan import Strategy
from rebake.rollout.states import State
from rebake.traffic.pods import deal
from rebake.traffic.ports import EnvironmentRoute, FleetRoute, RouteObservation, Sample, Samples
from tests.unit.rollout.world import Shop, plan

A, B = ("sha256:" + c * 64 for c in "ab")
STEPS = Strategy("canary", steps=(2000, 5000), hold_ms=5_000, by_instances=True)


@pytest.fixture
def shop() -> Shop:
    made = Shop()
    made.serving(A, instances=4)
    made.router.history.clear()
    return made


def _called(route: EnvironmentRoute) -> list[tuple[int, int | None]]:
    return [(one.weight_basis_points, one.called) for one in route.fleets if one.weight_basis_points]


def test_each_step_says_how_many_of_each_fleet_are_called_and_the_last_leaves_a_hold_back(shop: Shop) -> None:
    shop.deploy(B, instances=4, strategy=STEPS, hold_back_basis_points=2000, undecided="promote")
    shop.until_state(State.SOAKING)
    met = list(dict.fromkeys(tuple(_called(route)) for route in shop.router.history))
    assert met == [
        ((10_000, None),),
        ((8000, 4), (2000, 1)),
        ((5000, 4), (5000, 4)),
        ((2000, 1), (8000, 4)),
    ]


def test_a_candidate_that_lacks_instances_is_made_up_for_by_stable_and_never_the_other_way_round(shop: Shop) -> None:
    shop.deploy(B, instances=4, strategy=Strategy("canary", steps=(7500,), hold_ms=60_000, by_instances=True))
    shop.until_state(State.HOLDING)
    assert _called(shop.router.history[-1]) == [(2500, 1), (7500, 3)]
    candidate, stable = shop.environment.candidate, shop.environment.stable
    assert candidate is not None
    assert stable is not None
    shop.platform.behaviour(B).start_seconds = 60
    for instance in [name for name, one in shop.platform.processes.items() if one.spec.fleet == candidate.id][:2]:
        shop.platform.kill(instance)
    shop.until(lambda: len(_route_of(shop, candidate.id).endpoints) == 2, 5)
    assert _called(shop.router.history[-1]) == [(2500, 2), (7500, 3)]


def _route_of(shop: Shop, fleet: str) -> FleetRoute:
    return next(one for one in shop.router.history[-1].fleets if one.fleet == fleet)


def test_the_judge_bets_by_the_requests_that_each_fleet_really_had(shop: Shop) -> None:
    """Kept connections give the candidate's pod half of what its share says: neither a fault of the route nor of it."""
    shop.deploy(B, instances=4, strategy=STEPS)
    shop.until_state(State.HOLDING)
    environment = shop.environment
    assert environment.rollout is not None
    assert environment.stable is not None
    assert environment.candidate is not None
    stable, candidate = environment.stable.id, environment.candidate.id
    weights = {stable: 8000, candidate: 2000}
    route = RouteObservation("v", weights, epoch="1", listening=True, counts=False)
    judging = Judging(environment.rollout)
    for second in range(60):
        arms = {stable: Arm(900, 9), candidate: Arm(100, 1)}
        samples = Samples((Sample(second, weights, arms),), {"to": second})
        judging.look(environment, route, float(second), samples)
    assert judging.verdict is not None
    assert judging.verdict.fault is None
    assert judging.verdict.kind != "harmful", "one request in ten is its own, and one failure in ten"
    assert "weaker than with a gateway" in judging.verdict.reason


def test_a_share_that_cannot_be_had_beside_the_fleet_that_serves_is_refused(shop: Shop) -> None:
    wish = plan(instances=9, strategy=Strategy("canary", steps=(1000,), by_instances=True))
    with pytest.raises(UsageError) as refused:
        refuse_shares(wish, shop.environment.stable)
    assert refused.value.code == "share-not-had"
    assert refused.value.problem == (
        "expected a share that 9 instances beside the 4 that serve can have (20%), found 10%"
    )
    assert "first deploy the release that serves with instances: 9" in str(refused.value.remedy)
    refuse_shares(plan(instances=4, strategy=STEPS), shop.environment.stable)
    assert deal(1000, 4, 9).share == 2000
