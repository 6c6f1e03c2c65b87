"""A deploy that is asked for again, because the answer was lost with the agent, is begun once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.rollout.world import KEY, Shop, plan

from rebake.app.answers import Changes
from rebake.app.desk import Desk
from rebake.core.codec import dump
from rebake.errors import UsageError
from rebake.release.manifest import Release
from rebake.rollout.engine import Engine
from rebake.testing.simulated import simulated_release

A = "sha256:" + "a" * 64
ID = "r-01k9zq3m2hxr"


class Shelf:
    def release(self, digest: str) -> Release:
        return replace(simulated_release(digest), base="scratch")

    def fetch(self, digest: str, repository: str, at: float) -> None:
        raise AssertionError("it is here already")


class Vault:
    def remember(self, value: str) -> str:
        raise AssertionError("nothing is secret")


class Counter:
    """The desk of a simulated shop. `dies`: the engine does not get to look at what is written down."""

    def __init__(self) -> None:
        self.shop, self.dies = Shop(), False
        self.desk = self.open()

    def open(self) -> Desk:
        """The desk of an agent that was just started."""
        engine: Engine = self.shop.start_engine()
        self.desk = Desk(engine, Changes(), Shelf(), Vault(), self._wake)
        return self.desk

    def _wake(self, key: str) -> None:
        if self.dies:
            raise KeyboardInterrupt
        for _ in range(3):  # the first look of an engine may only take the lease
            self.shop.engine.tick(key)

    def deploy(self, **more: Any) -> dict[str, Any]:
        asked = {"plan": dump(plan()), "release": A, "requested_by": "ann", **more}
        return dict(self.desk.begin(asked))

    def begun(self) -> list[str | None]:
        """Rollouts that began, in their order."""
        entries = self.shop.ledger.entries(kinds=["transition"], limit=1000)
        return [entry.rollout for entry in entries if entry.body["from"] is None]


@pytest.fixture
def counter() -> Counter:
    return Counter()


def test_what_was_taken_up_is_not_begun_again(counter: Counter) -> None:
    first = counter.deploy(id=ID, again=True)
    counter.open()
    assert counter.deploy(id=ID, again=True)["rollout"] == first["rollout"] == ID
    assert counter.begun() == [ID]


def test_what_was_only_written_down_is_not_asked_for_twice(counter: Counter) -> None:
    """The agent died between writing the request down and taking it up."""
    counter.dies = True
    with pytest.raises(KeyboardInterrupt):
        counter.deploy(id=ID)
    counter.dies = False
    desk = counter.open()
    assert desk._asked_before(KEY, ID)
    counter._wake(KEY)
    assert counter.deploy(id=ID)["rollout"] == ID
    assert counter.begun() == [ID]


def test_what_is_over_is_told_as_it_ended(counter: Counter) -> None:
    counter.shop.platform.behaviour(A).exits = "exit 7"
    counter.deploy(id=ID)
    assert counter.shop.until_over(ID)["outcome"] == "rolled-back"
    counter.open()
    again = counter.deploy(id=ID)
    assert (again["rollout"], again["outcome"]) == (ID, "rolled-back")
    assert counter.begun() == [ID]


def test_what_serves_already_is_told_so_under_the_id_that_was_asked_for(counter: Counter) -> None:
    counter.shop.until_over(str(counter.deploy()["rollout"]))
    second = counter.deploy(id=ID)
    assert (second["rollout"], second["outcome"]) == (ID, "promoted")
    entries = counter.shop.ledger.head()
    assert counter.deploy(id=ID)["rollout"] == ID
    assert counter.shop.ledger.head() == entries


def test_an_id_that_is_none_is_refused(counter: Counter) -> None:
    with pytest.raises(UsageError) as refusal:
        counter.deploy(id="../../etc")
    assert refusal.value.where == "id"
    assert not counter.begun()
