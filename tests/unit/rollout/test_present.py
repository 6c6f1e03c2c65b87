"""A clock that is set between two lives of an agent: what was waited for is waited for, no shorter and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rebake.core.clock import Boot
from rebake.rollout.present import in_the_present
from rebake.rollout.states import State
from rebake.rollout.world import Place
from tests.unit.rollout.world import CANARY, KEY, Shop

A, B = ("sha256:" + c * 64 for c in "ab")
HOUR = 3600.0
NEXT_LIFE = pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])


@pytest.fixture
def shop() -> Shop:
    found = Shop()
    found.serving(A)
    return found


def go(shop: Shop, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        shop.tick()


def next_life(shop: Shop, by: float) -> None:
    """The agent ends, the clock is set, and the agent is started again."""
    shop.clock.set(by)
    for process in shop.platform.processes.values():
        process.started_at += by  # no time passes for them
    shop.start_engine()


@NEXT_LIFE
def test_a_soak_lasts_as_long_as_the_file_says(shop: Shop, by: float) -> None:
    rollout = shop.deploy(B, soak_ms=60_000)
    shop.until_state(State.SOAKING)
    go(shop, 20.0)
    next_life(shop, by)
    go(shop, 35.0)
    assert shop.state is State.SOAKING
    go(shop, 10.0)
    assert shop.ended(rollout) is not None


@NEXT_LIFE
def test_a_hold_lasts_as_long_as_the_file_says(shop: Shop, by: float) -> None:
    shop.deploy(B, strategy=replace(CANARY, hold_ms=30_000))
    shop.until_state(State.HOLDING)
    go(shop, 10.0)
    next_life(shop, by)
    go(shop, 15.0)
    assert shop.environment.rollout is not None
    assert (shop.state, shop.environment.rollout.step) == (State.HOLDING, 0)
    shop.until(lambda: shop.environment.rollout is not None and shop.environment.rollout.step == 1, 10.0)


@NEXT_LIFE
def test_what_a_rollout_took_is_told_without_the_hour(shop: Shop, by: float) -> None:
    rollout = shop.deploy(B, soak_ms=2000)
    shop.until_state(State.SOAKING)
    next_life(shop, by)
    assert 0.0 < shop.until_over(rollout)["seconds"] < 60.0


@NEXT_LIFE
def test_a_candidate_that_starts_has_its_whole_start_time(shop: Shop, by: float) -> None:
    shop.platform.behaviour(B).start_seconds = 20.0
    rollout = shop.deploy(B)
    shop.until_state(State.LAUNCHING)
    go(shop, 10.0)
    next_life(shop, by)
    shop.until(lambda: shop.state is State.SOAKING, 15.0)
    assert shop.ended(rollout) is None


@NEXT_LIFE
def test_the_clock_may_be_set_more_than_once(shop: Shop, by: float) -> None:
    shop.deploy(B, soak_ms=60_000)
    shop.until_state(State.SOAKING)
    for _ in range(4):
        next_life(shop, by)
        go(shop, 10.0)
    assert shop.state is State.SOAKING
    shop.until(lambda: shop.state is None, 25.0)


def test_a_freeze_holds_whoever_was_let_through_before_it_however_the_clock_is_set(shop: Shop) -> None:
    """When a freeze was asked for is not moved with the clock, so neither is what it is compared with."""
    shop.deploy(B, soak_ms=60_000)
    shop.until_state(State.SOAKING)
    rollout = shop.environment.rollout
    assert rollout is not None
    let = replace(shop.environment, rollout=replace(rollout, let_through="ann", let_through_at=shop.clock.now()))
    forward = Boot(shop.clock.boot().id, shop.clock.boot().at + HOUR)
    told = in_the_present(let, shop.clock.now() + HOUR, forward)
    assert told.rollout is not None
    assert told.rollout.let_through_at == shop.clock.now()
    assert told.rollout.promoted_at == pytest.approx((rollout.promoted_at or 0.0) + HOUR)


def test_across_a_reboot_a_time_that_lies_ahead_is_taken_as_now(shop: Shop) -> None:
    """The wall clock is all there is then: the soak begins anew, and lasts no longer than that."""
    rollout = shop.deploy(B, soak_ms=60_000)
    shop.until_state(State.SOAKING)
    go(shop, 40.0)
    shop.clock.set(-HOUR)
    shop.clock.reboot()
    shop.start_engine()
    go(shop, 55.0)
    assert shop.state is State.SOAKING
    go(shop, 10.0)
    assert shop.ended(rollout) is not None


def test_a_reboot_with_a_wrong_clock_ends_no_wait_where_instances_and_edge_are_on_that_machine(shop: Shop) -> None:
    """Nobody served or watched meanwhile, and no clock tells how long that was."""
    shop.deploy(B, soak_ms=60_000)
    shop.until_state(State.SOAKING)
    here = replace(shop.environment, place=Place("home", "machine", "/home"))
    later = shop.clock.now() + HOUR
    told = in_the_present(here, later, Boot("another boot", later))
    assert told.rollout is not None
    assert (told.rollout.promoted_at, told.rollout.entered_at) == (later, later)
    assert here.rollout is not None
    assert told.rollout.requested_at == here.rollout.requested_at


def test_an_environment_at_rest_is_not_written_down_for_its_clock(shop: Shop) -> None:
    go(shop, 1.0)
    before = shop.ledger.get("environment", KEY)
    shop.clock.reboot()
    shop.start_engine()
    go(shop, 1.0)
    assert shop.ledger.get("environment", KEY) == before
