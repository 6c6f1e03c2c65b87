"""What keeps the engine from going on is told by every view, until a look succeeds; what was seen stays seen."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from rebake.app.answers import Answers, Changes
from rebake.errors import LedgerConflict, Permanent
from rebake.rollout.engine import Engine
from rebake.rollout.states import State
from tests.unit.rollout.world import CANARY, KEY, Shop


class Disk:
    """Of a shop's ledger: full, broken in another way, or well."""

    def __init__(self, shop: Shop) -> None:
        self.error: Exception | None = None
        shop.ledger.fail = self._fail

    def _fail(self, _call: str) -> None:
        if self.error is not None:
            raise self.error

    def fills_up(self) -> None:
        self.error = Permanent("disk-full", "the disk is full", where="/home/state.db", remedy="free space")


@pytest.fixture
def shop() -> Shop:
    """A rollout that holds: its judge is written down every few seconds."""
    shop = Shop()
    shop.serving("a")
    shop.deploy("b", strategy=CANARY)
    shop.until_state(State.HOLDING)
    return shop


def _fails(shop: Shop) -> None:
    """Go on until a look fails."""
    for _ in range(100):
        shop.clock.advance(1.0)
        shop.router.serve("shop", "production", 100)
        try:
            shop.engine.tick(KEY)
        except (Permanent, ZeroDivisionError):
            return
    raise AssertionError("no look failed")


def test_a_full_disk_is_told_with_place_remedy_and_since_when(shop: Shop) -> None:
    Disk(shop).fills_up()
    _fails(shop)
    first = shop.engine.view(KEY)["stuck"]
    _fails(shop)
    view = shop.engine.view(KEY)
    assert view["stuck"] == first  # since the first of them
    assert {**view["stuck"], "since": ""} == {
        "since": "",
        "error": "disk-full",
        "problem": "the disk is full",
        "where": "/home/state.db",
        "remedy": "free space",
    }
    assert view["rollout"]["hindered"] == view["problems"][:1]
    assert view["problems"][0] == (
        f"the engine cannot go on since {view['stuck']['since']}: the disk is full [/home/state.db] (free space)"
    )
    live = shop.engine.rollout_view(KEY, view["rollout"]["rollout"])
    assert live is not None
    assert live["hindered"] == view["rollout"]["hindered"]


def test_what_is_healthy_is_shown_as_healthy_while_nothing_can_be_written(shop: Shop) -> None:
    Disk(shop).fills_up()
    _fails(shop)
    view = shop.engine.view(KEY)
    assert [view[cohort]["healthy"] for cohort in ("stable", "candidate")] == [2, 2]
    assert sum(view["route"].values()) == pytest.approx(1.0)


def test_it_is_gone_when_a_look_succeeds(shop: Shop) -> None:
    told: list[str] = []
    shop.engine.on_change = told.append
    disk = Disk(shop)
    disk.fills_up()
    _fails(shop)
    disk.error = None
    told.clear()
    shop.until(lambda: shop.engine.view(KEY)["stuck"] is None, 5.0)
    view = shop.engine.view(KEY)
    assert view["stuck"] is None
    assert not any("cannot go on" in text for text in view["problems"])
    assert told  # whoever watches learns it at once


def test_a_defect_is_told_as_one(shop: Shop) -> None:
    Disk(shop).error = ZeroDivisionError("division by zero")
    _fails(shop)
    stuck = shop.engine.view(KEY)["stuck"]
    assert (stuck["error"], stuck["where"]) == ("broken-invariant", KEY)
    assert "ZeroDivisionError" in stuck["problem"]


def test_an_agent_that_was_just_started_looks_before_it_tells(shop: Shop) -> None:
    """Also when its first look cannot be finished, and nobody waits for long."""
    Disk(shop).fills_up()
    changes = Changes()
    engine = shop.start_engine()
    engine.on_change = changes.add
    answers = Answers(engine, changes, lambda _key: None)
    asked: list[Any] = []
    asking = threading.Thread(target=lambda: asked.append(answers.environment("shop", "production")))
    asking.start()
    _fails(shop)
    asking.join(10.0)
    assert asked[0]["stable"]["healthy"] == 2
    assert engine.view(KEY)["stuck"]["error"] == "disk-full"


def test_a_view_waits_for_nothing_once_the_agent_has_begun(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as an environment that another home deployed meanwhile: nobody here looks at it."""
    answers = Answers(shop.start_engine(), Changes(), lambda _key: None)
    answers._began -= 3600.0
    monkeypatch.setattr(Changes, "wait", lambda *_: pytest.fail("somebody waits"))
    assert answers.status()["environments"][0]["stable"]["healthy"] == 0


def test_an_engine_that_another_one_leads_is_not_hindered_and_tells_what_that_one_did(shop: Shop) -> None:
    first = shop.engine
    standby, refused = Engine(replace(first.ports, owner="another")), list[str]()
    for _ in range(20):
        shop.clock.advance(1.0)
        shop.router.serve("shop", "production", 100)
        first.tick(KEY)
        try:
            standby.tick(KEY)
        except LedgerConflict as error:
            refused.append(error.code)
        told = standby.view(KEY)
        assert (told["stuck"], told["rollout"]["state"]) == (None, first.view(KEY)["rollout"]["state"])
    assert set(refused) == {"lease-held"}
    assert (first.leads(KEY), standby.leads(KEY)) == (True, False)
    shop.clock.advance(60.0)
    standby.tick(KEY)
    assert (first.leads(KEY), standby.leads(KEY)) == (False, True)
