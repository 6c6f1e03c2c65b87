"""What is asked for again, because the answer was lost with the agent, is done once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.rollout.world import KEY, Shop, plan

from rebake.app.answers import Changes
from rebake.app.asking import KEPT_SECONDS
from rebake.app.group_desk import GroupDesk
from rebake.core.codec import dump
from rebake.errors import Refused, UsageError
from rebake.ledger.ports import Entry
from rebake.release.manifest import Release
from rebake.rollout.engine import Engine
from rebake.rollout.plan import Strategy
from rebake.rollout.states import State
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


class Turning(Changes):
    """Who waits for a change lets the simulated world go on."""

    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self.shop = shop

    def wait(self, since: int, timeout_seconds: float) -> int:
        self.shop.tick()
        return since + 1


class Counter:
    """The desk of a simulated shop. `dies`: the engine does not get to look at what is written down."""

    def __init__(self) -> None:
        self.shop, self.dies = Shop(), False
        self.released: dict[str, Any] = {}
        self.desk = self.open()

    def open(self) -> GroupDesk:
        """The desk of an agent that was just started."""
        engine: Engine = self.shop.start_engine()
        self.desk = GroupDesk(engine, Turning(self.shop), Shelf(), Vault(), self._wake)
        return self.desk

    def _wake(self, key: str) -> None:
        if self.dies:
            raise KeyboardInterrupt
        for _ in range(3):  # the first look of an engine may only take the lease
            self.shop.engine.tick(key)

    def deploy(self, **more: Any) -> dict[str, Any]:
        asked = {"plan": dump(plan()), "release": A, "requested_by": "ann", **more}
        return dict(self.desk.begin(asked))

    def asked(self) -> list[Entry]:
        """What people asked for, as the ledger has it."""
        entries = self.shop.ledger.entries(kinds=["request", "decision"], limit=10_000)
        return [entry for entry in entries if "by" in entry.body or "request" in entry.body]

    def settle(self) -> None:
        """The engine goes on by itself for a while."""
        for _ in range(40):
            self.shop.tick()

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
    counter.open()
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


NAME = "q-01k9zq3m2hxr"
B = "sha256:" + "b" * 64
Ask = Callable[[Counter, dict[str, Any]], Any]


def serving(counter: Counter) -> None:
    counter.shop.serving("sha256:" + "c" * 64)
    counter.shop.serving(A)
    counter.open()


def soaking(counter: Counter) -> None:
    serving(counter)
    counter.shop.deploy(B)
    counter.shop.until_state(State.SOAKING)
    counter.open()


def asking(counter: Counter) -> None:
    serving(counter)
    counter.shop.deploy(B, approval=True)
    counter.shop.until_state(State.ASKING)
    counter.open()


def quarantined(counter: Counter) -> None:
    serving(counter)
    counter.shop.command("undo", rollout_id="r-back")
    counter.shop.until(lambda: bool(counter.shop.ledger.list("quarantine")))
    counter.shop.until(lambda: counter.shop.state is None)
    counter.open()


def frozen(counter: Counter) -> None:
    serving(counter)
    freeze(counter, {})


def freeze(counter: Counter, named: dict[str, Any]) -> Any:
    until = counter.shop.clock.now() + 60
    return counter.desk.freeze({**named, "until": until, "reason": "calm", "requested_by": "ann"})


def together(counter: Counter, named: dict[str, Any]) -> Any:
    member = {"plan": dump(plan()), "release": B}
    return counter.desk.begin_group({**named, "group": "all", "members": [member], "requested_by": "ann"})


def grouped(counter: Counter) -> None:
    serving(counter)
    together(counter, {})
    counter.shop.until_state(State.SOAKING)
    counter.open()


def release(counter: Counter, named: dict[str, Any]) -> Any:
    (_, row) = counter.shop.ledger.list("quarantine")[0] if not counter.released else ("", counter.released)
    counter.released = dict(row)
    return counter.desk.quarantine_release({**named, "revision": row["revision"], "requested_by": "ann"})


REQUESTS: dict[str, tuple[Callable[[Counter], None], Ask]] = {
    "undo": (serving, lambda c, named: c.desk.undo("shop", "production", named)),
    "undo in the soak": (soaking, lambda c, named: c.desk.undo("shop", "production", named)),
    "stop": (soaking, lambda c, named: c.desk.stop("shop", "production", named)),
    "approve": (asking, lambda c, named: c.desk.approve("shop", "production", named)),
    "down": (serving, lambda c, named: c.desk.down("shop", "production", named)),
    "release from quarantine": (quarantined, release),
    "freeze": (serving, freeze),
    "lift": (frozen, lambda c, named: c.desk.lift(named)),
    "deploy a group": (serving, together),
    "stop a group": (grouped, lambda c, named: c.desk.stop_group("all", named)),
    "undo a group": (grouped, lambda c, named: c.desk.undo_group("all", named)),
}


@pytest.mark.parametrize(("before", "ask"), REQUESTS.values(), ids=list(REQUESTS))
def test_what_changes_something_is_done_once(counter: Counter, before: Callable[[Counter], None], ask: Ask) -> None:
    before(counter)
    first = ask(counter, {"id": NAME})
    asked = counter.asked()
    counter.open()
    second = ask(counter, {"id": NAME})
    assert counter.asked() == asked
    assert second.keys() == first.keys()


@pytest.mark.parametrize(("before", "ask"), REQUESTS.values(), ids=list(REQUESTS))
def test_what_was_only_written_down_is_answered_when_it_is_done(
    counter: Counter, before: Callable[[Counter], None], ask: Ask
) -> None:
    before(counter)
    counter.dies = True
    with contextlib.suppress(KeyboardInterrupt):
        ask(counter, {"id": NAME})  # what no engine need take up is answered, and the answer is lost
    counter.dies = False
    asked = [entry for entry in counter.asked() if entry.kind == "request"]
    counter.open()
    counter.settle()
    ask(counter, {"id": NAME})
    assert [entry for entry in counter.asked() if entry.kind == "request"] == asked


def test_what_was_refused_is_refused_again(counter: Counter) -> None:
    serving(counter)
    counter.shop.deploy(B, soak_ms=0, strategy=Strategy("all-at-once"))
    counter.shop.until_state(State.LAUNCHING)
    for _ in range(2):
        counter.open()
        with pytest.raises(Refused) as refusal:
            counter.desk.approve("shop", "production", {"id": NAME})
        assert refusal.value.code == "not-now"


def test_names_are_forgotten_after_a_day(counter: Counter) -> None:
    serving(counter)
    freeze(counter, {"id": NAME})
    counter.shop.clock.advance(KEPT_SECONDS)
    freeze(counter, {"id": NAME.replace("01", "02")})
    assert [name for name, _ in counter.shop.ledger.list("asked")] == [NAME.replace("01", "02")]
