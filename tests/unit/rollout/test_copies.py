"""Before the first user: the candidate is given copies of users' requests, and judged by them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebake.rollout.plan import HttpCheck, Strategy
from rebake.rollout.states import State
from rebake.rollout.world import Job
from tests.unit.rollout.world import Shop

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def shop() -> Shop:
    return Shop()


COPIED = Strategy("canary", steps=(500, 2500), hold_ms=10_000, mirror_basis_points=5000, mirror_ms=5_000)


def test_a_canary_that_asks_for_it_is_tried_with_copies_before_its_first_user(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=COPIED)
    shop.until_state(State.HOLDING)
    entered = shop.clock.now()
    route = shop.router.routes["shop", "production"]
    assert route.mirror is not None
    assert (shop.weights()[B], route.mirror.share_basis_points) == (0, 5000)
    shop.until(lambda: shop.weights()[B] == 500)
    assert shop.clock.now() - entered >= 5.0
    assert shop.router.routes["shop", "production"].mirror is None
    shop.until(lambda: shop.weights()[B] == 2500)
    shop.until(lambda: shop.weights()[B] == 10_000)
    view = shop.engine.rollout_view("shop/production", rollout)
    assert view is not None
    assert view["steps"] == 4
    assert view["verdict"]["copies"]["total"] >= 200


@pytest.mark.parametrize("strategy", [COPIED, Strategy("shadow", mirror_basis_points=2000, mirror_ms=60_000)])
def test_a_release_that_crashes_on_copies_is_taken_back_and_no_user_met_it(shop: Shop, strategy: Strategy) -> None:
    shop.serving(A)
    shop.platform.behaviour(B).error_rate = 1.0
    view = shop.until_over(shop.deploy(B, strategy=strategy))
    assert view["outcome"] == "rolled-back"
    assert "copied requests" in view["reason"]
    assert view["requests"]["candidate"] == {"total": 0, "errors": 0}
    assert view["verdict"]["copies"]["errors"] >= 5
    assert all(route.fleets[-1].weight_basis_points == 0 for route in shop.router.history if len(route.fleets) > 1)


def test_a_release_that_falls_down_under_copies_does_not_stay_up(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, strategy=replace(COPIED, mirror_ms=60_000))
    shop.until_state(State.HOLDING)
    for _ in range(8):
        for name, process in list(shop.platform.processes.items()):
            if process.spec.release == B and process.exit is None:
                shop.platform.kill(name)
        for _ in range(30):
            shop.tick()
    view = shop.until_over(rollout)
    assert view["outcome"] == "rolled-back"
    assert view["requests"]["candidate"]["total"] == 0


def test_a_canary_whose_callers_ask_for_nothing_that_can_be_copied_goes_on_to_its_first_step(shop: Shop) -> None:
    shop.serving(A)
    shop.deploy(B, strategy=replace(COPIED, mirror_basis_points=0))
    shop.until_state(State.HOLDING)
    shop.until(lambda: shop.weights()[B] == 500, seconds=20)


def test_a_shadow_whose_callers_ask_for_nothing_holds_and_asks(shop: Shop) -> None:
    shop.serving(A)
    shop.rate = 0
    shop.deploy(B, strategy=Strategy("shadow", mirror_basis_points=2000, mirror_ms=5_000))
    shop.until_state(State.ASKING)


def test_the_judges_own_ramp_begins_after_the_copies(shop: Shop) -> None:
    shop.serving(A)
    strategy = Strategy("canary", profile="fast", mirror_basis_points=5000, mirror_ms=10_000)
    shop.deploy(B, strategy=strategy, hold_back_basis_points=2000)
    shop.until(lambda: shop.environment.rollout is not None and shop.environment.rollout.weight > 0)
    rollout = shop.environment.rollout
    assert rollout is not None
    assert (rollout.step, rollout.weight) == (1, 50)
    shop.until_state(State.SOAKING, seconds=1200)
    assert shop.weights() == {A: 2000, B: 8000}


def test_checks_by_http_are_the_first_copies_and_none_of_those_that_are_needed(shop: Shop) -> None:
    shop.serving(A)
    shop.rate = 0
    shop.jobs.scripted["smoke"] = Job("done")
    shop.deploy(B, strategy=replace(COPIED, mirror_ms=60_000), checks=(HttpCheck("smoke", "/notes"),))
    shop.until_state(State.HOLDING)
    for _ in range(20):
        shop.tick()
    verdict = shop.engine.memory("shop/production").world.verdict
    assert verdict is not None
    assert (verdict.copies, verdict.kind) == ((2, 0), "undecided")
    assert verdict.evidence < 1.0


def test_an_undo_of_a_canary_with_copies_moves_users_at_once(shop: Shop) -> None:
    shop.serving(A, strategy=COPIED)
    shop.until_over(shop.deploy(B, soak_ms=0))
    shop.command("undo", rollout_id="r-undo")
    view = shop.until_over("r-undo", seconds=5)
    assert view["outcome"] == "promoted"
    assert all(route.mirror is None for route in shop.router.history)
