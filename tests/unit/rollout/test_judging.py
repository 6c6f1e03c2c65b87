"""From counters to the judge's ticks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebake.rollout.judging import Judging
from rebake.rollout.states import State
from rebake.rollout.world import Environment
from rebake.traffic.ports import Counters, RouteObservation
from tests.unit.rollout.world import CANARY, Shop


@pytest.fixture
def environment() -> Environment:
    shop = Shop()
    shop.serving("sha256:" + "a" * 64)
    shop.deploy("sha256:" + "b" * 64, strategy=CANARY)
    shop.until_state(State.HOLDING)
    return shop.environment


def test_a_service_that_answers_after_ten_seconds_is_no_routing_fault(environment: Environment) -> None:
    """For ten seconds after the shift only what stable got before it finishes; the candidate's requests fly."""
    assert environment.rollout is not None
    assert environment.stable is not None
    assert environment.candidate is not None
    stable, candidate = environment.stable.id, environment.candidate.id
    judging = Judging(environment.rollout)
    for second in range(10):
        finished, flying = 200 * second, 10 * second
        judging.look(
            environment,
            RouteObservation(
                version="v",
                weights={stable: 9500, candidate: 500},
                counters={stable: Counters(finished, 0), candidate: Counters(0, 0)},
                active={stable: 2000 - flying, candidate: flying},
                epoch="1",
                listening=True,
            ),
            float(second),
        )
    assert judging.verdict is not None
    assert judging.verdict.fault is None


def test_a_balancer_that_sends_the_candidate_nothing_is_a_routing_fault(environment: Environment) -> None:
    assert environment.rollout is not None
    assert environment.stable is not None
    assert environment.candidate is not None
    weights = {environment.stable.id: 9500, environment.candidate.id: 500}
    seen = RouteObservation("v", weights, counters={environment.stable.id: Counters()}, epoch="1", listening=True)
    judging = Judging(environment.rollout)
    for second in range(10):
        counters = {environment.stable.id: Counters(200 * second, 0)}
        judging.look(environment, replace(seen, counters=counters), float(second))
    assert judging.verdict is not None
    assert judging.verdict.fault is not None
