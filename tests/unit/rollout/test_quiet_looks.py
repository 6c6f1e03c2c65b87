"""Looks at an environment in which nothing happens cost next to nothing, and still see everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rebake.core.codec import dump
from rebake.ledger.ports import Put
from rebake.rollout import decide as deciding
from rebake.rollout import engine as driving
from rebake.rollout.states import State
from rebake.rollout.world import Freeze
from rebake.testing.simulated import MemoryLedger
from tests.unit.rollout.world import CANARY, KEY, Shop


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.serving("a")
    for _ in range(3):
        shop.tick(1.0)
    return shop


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    decide, decided = deciding.decide, list[Any]()

    def counted(*parts: Any) -> Any:
        decided.append(parts)
        return decide(*parts)

    monkeypatch.setattr(driving, "decide", counted)
    return decided


def test_a_look_that_sees_the_same_decides_nothing(shop: Shop, decided: list[Any]) -> None:
    for _ in range(20):
        shop.tick(10.0)  # users go on meanwhile
    assert decided == []


def test_an_instance_that_ends_is_seen_at_once(shop: Shop, decided: list[Any]) -> None:
    shop.platform.kill(next(iter(shop.platform.processes)))
    shop.tick()
    assert decided
    shop.until(lambda: shop.engine.view(KEY)["stable"]["healthy"] == 2)


def test_a_route_that_somebody_changed_is_put_right(shop: Shop) -> None:
    key = ("shop", "production")
    wished = shop.router.routes[key]
    shop.router.routes[key] = replace(wished, answer_within_ms=1)
    shop.until(lambda: shop.router.routes[key] == wished, 10.0)


def test_a_request_is_taken_up_at_once(shop: Shop) -> None:
    shop.deploy("b")
    shop.tick()
    assert shop.state is not None


def test_a_clock_that_is_set_back_has_it_decided_anew(shop: Shop, decided: list[Any]) -> None:
    shop.clock.advance(-3600.0)
    shop.tick()
    assert decided


def _reads_of_freezes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read, reads = MemoryLedger.list, list[str]()

    def counted(self: MemoryLedger, kind: str, prefix: str = "") -> Any:
        reads.extend([kind] if kind == "freeze" else [])
        return read(self, kind, prefix)

    monkeypatch.setattr(MemoryLedger, "list", counted)
    return reads


def test_freezes_are_read_once_a_second_while_a_rollout_waits_for_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.deploy("b", strategy=CANARY)
    shop.until_state(State.HOLDING)
    reads = _reads_of_freezes(monkeypatch)
    for _ in range(30):
        shop.tick(0.1)
    assert shop.state is State.HOLDING
    assert 2 <= len(reads) <= 5


def test_a_freeze_asked_for_a_moment_ago_holds_the_next_step(shop: Shop) -> None:
    """Whatever was read within the last second: before anything is done it is read anew."""
    shop.deploy("b", strategy=CANARY)
    shop.until_state(State.HOLDING)
    rollout = shop.environment.rollout
    assert rollout is not None
    over = (rollout.step_at or 0.0) + CANARY.hold_ms / 1000
    shop.until(lambda: shop.clock.now() >= over - 0.15)
    freeze = Freeze("*", "ann", shop.clock.now(), shop.clock.now() + 60.0, "calm")
    shop.ledger.commit([], [Put("freeze", "*", dump(freeze))], at=shop.clock.now())
    for _ in range(30):
        shop.tick(0.1)
    after = shop.environment.rollout
    assert after is not None
    assert (after.step, after.weight) == (rollout.step, rollout.weight)
    assert "frozen by ann" in str(after.held)
