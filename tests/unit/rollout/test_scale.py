"""What many environments cost: idle looks that read and write nothing, spread over time; what is over is forgotten."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from rebake.core.codec import dump
from rebake.errors import LedgerConflict, Transient
from rebake.ledger.ports import Draft, Entry, Fence, Put
from rebake.rollout.engine import Engine, Ports, next_look
from rebake.rollout.plan import Strategy
from rebake.rollout.recording import RATE_SECONDS
from rebake.rollout.world import Environment, Fleet, Place
from rebake.testing.simulated import MemoryLedger, simulated_release
from rebake.traffic import ports
from tests.unit.rollout.world import KEY, Shop

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
HERE = Place("p-here", "anna", "/home/a")


class CountingLedger(MemoryLedger):
    """Remembers which of its methods were called, and what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.commits: list[tuple[Sequence[Draft], Sequence[Put]]] = []
        self.away = 0

    def commit(
        self,
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        *,
        at: float,
        fence: Fence | None = None,
        durable: bool = True,
    ) -> Sequence[Entry]:
        self.calls.append("commit")
        self.commits.append((entries, puts))
        return super().commit(entries, puts, at=at, fence=fence, durable=durable)

    def get(self, kind: str, key: str) -> Mapping[str, Any] | None:
        self.calls.append("get")
        return super().get(kind, key)

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        self.calls.append("list")
        if self.away:
            self.away -= 1
            raise Transient("ledger-unreachable", "away")
        return super().list(kind, prefix)

    def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
        self.calls.append("lease")
        return super().lease(key, owner, at=at, ttl_seconds=ttl_seconds, reason=reason)


class CountedShop(Shop):
    """A shop whose ledger counts, in a home of its own, as the agent has it."""

    ledger: CountingLedger

    def start_engine(self) -> Engine:
        if not isinstance(self.ledger, CountingLedger):
            self.ledger = CountingLedger()
        ports = Ports(
            self.ledger,
            {"simulated": self.platform},
            {"simulated": self.router},
            self.jobs,
            self.clock,
            simulated_release,
            "home:p-here",
            {"simulated": HERE},
        )
        self.engine = Engine(ports)
        return self.engine


def test_an_idle_look_neither_reads_nor_writes_the_ledger() -> None:
    shop = CountedShop()
    shop.serving(A, soak_ms=0)
    for _ in range(3):
        shop.engine.tick(KEY, asked=False)
    shop.ledger.calls.clear()
    for _ in range(20):
        shop.clock.advance(20.0)  # longer than a lease
        shop.engine.tick(KEY, asked=False)
    assert shop.ledger.calls == []


def test_a_request_is_taken_up_by_a_later_look_where_the_one_it_woke_failed() -> None:
    shop = CountedShop()
    shop.serving(A, soak_ms=0)
    rollout = shop.deploy(B, soak_ms=0)
    shop.ledger.away = 1
    with pytest.raises(Transient):
        shop.engine.tick(KEY, asked=True)
    for _ in range(500):
        shop.engine.tick(KEY, asked=False)
        shop.clock.advance(0.1)
    assert shop.ended(rollout) is not None


def test_a_look_records_all_its_intents_in_one_transaction_and_all_outcomes_in_another() -> None:
    shop = CountedShop()
    shop.serving(A, soak_ms=0)
    shop.deploy(B, instances=5)
    looks_that_act = 0
    for _ in range(60):
        before = len(shop.ledger.commits)
        shop.tick()
        commits = shop.ledger.commits[before:]
        intents = [n for n, (entries, _) in enumerate(commits) if any(e.kind == "intent" for e in entries)]
        outcomes = [n for n, (entries, _) in enumerate(commits) if any(e.kind == "outcome" for e in entries)]
        assert len(commits) <= 2
        assert len(intents) <= 1
        assert len(outcomes) <= 1
        if intents:
            looks_that_act += 1
            assert intents < outcomes
    launched = [[e for e in entries if e.body.get("do") == "Launch"] for entries, _ in shop.ledger.commits]
    assert max(map(len, launched)) == 5
    assert looks_that_act >= 3


@pytest.mark.parametrize("among", [1, 24, 100, 12_000])
def test_the_next_look_comes_within_the_interval(among: int) -> None:
    for number in range(500):
        now = 1.8e9 + number * 0.0371
        at = next_look(f"shop/place-{number}", 10.0, now, among)
        assert now < at <= now + 10.0


def test_few_environments_are_looked_at_together_and_many_are_spread() -> None:
    now = 1.8e9 + 3.3
    assert len({next_look(f"shop/place-{n}", 10.0, now, 10) for n in range(10)}) == 1
    looks = Counter(next_look(f"shop/place-{n}", 10.0, now, 12_000) // 0.1 for n in range(12_000))
    assert max(looks.values()) < 3 * 12_000 / 100  # in no tenth of a second more than thrice its share


def test_the_moment_of_a_look_stays_the_same_from_interval_to_interval() -> None:
    first = next_look("shop/place", 10.0, 1.8e9, 12_000)
    second = next_look("shop/place", 10.0, first + 0.002, 12_000)
    assert second == pytest.approx(first + 10.0, abs=1e-3)


def test_finished_rollouts_leave_nothing_in_memory() -> None:
    shop = Shop()
    fast: dict[str, Any] = {"strategy": Strategy("all-at-once"), "soak_ms": 0, "keep": 1, "instances": 1}

    def objects_after(rollouts: int) -> int:
        for number in range(rollouts):
            rollout = shop.deploy(A, {"NUMBER": str(number % 7)}, **fast)
            shop.until_over(rollout)
            shop.until(lambda: not shop.environment.leaving)
        shop.clock.advance(3700.0)  # what users met is remembered for an hour
        for _ in range(20):
            shop.tick()
        forget_what_the_world_keeps(shop)
        gc.collect()
        return len(gc.get_objects())

    first = objects_after(40)
    grown = objects_after(80) - first
    assert grown < 60, f"{grown} objects more after 80 rollouts"


def test_users_who_come_all_day_leave_nothing_in_memory() -> None:
    shop = Shop()
    shop.serving(A, soak_ms=0)
    recording = shop.engine.memory(KEY).recording
    seen = []
    for _ in range(4):
        for _ in range(90):
            shop.tick(1.0)
        seen.append(len(recording.recent))
    assert shop.engine.memory(KEY).pace.per_second > 0  # known from the counters: nobody asks the records for it
    assert seen == [seen[0]] * 4
    assert 0 < seen[0] <= RATE_SECONDS + 1


def test_fleets_that_differ_by_their_release_share_the_rest() -> None:
    shop = Shop()
    for release in (A, B, C):
        shop.until_over(shop.deploy(release, {"GREETING": "hello"}, keep=2, soak_ms=0))
    before = shop.environment

    def kept(environment: Environment) -> list[Fleet]:
        assert environment.stable is not None
        return [environment.stable, *environment.previous]

    for environment in (before, shop.start_engine().memory(KEY).environment):  # in its life, and after a restart
        assert dump(environment) == dump(before)
        assert [one.revision.release for one in kept(environment)] == [C, B, A]
        assert len({id(one.plan) for one in kept(environment)}) == 1
        assert len({id(one.revision.settings) for one in kept(environment)}) == 1
    shop.until_over(shop.deploy(A, {"GREETING": "welcome"}, keep=2, soak_ms=0))
    assert [one.revision.settings.env["GREETING"] for one in kept(shop.environment)] == ["welcome", "hello", "hello"]


def forget_what_the_world_keeps(shop: Shop) -> None:
    """The simulated ledger, platform and route remember everything, as they should; only the engine is on trial."""
    shop.ledger.rows.clear()
    environment = shop.ledger.documents["environment", KEY]
    shop.ledger.documents.clear()
    shop.ledger.documents["environment", KEY] = environment
    shop.platform.launches.clear()
    shop.router.history.clear()
    shop.router.counters.clear()
    shop.router._owed.clear()
    shop.router.records.clear()
    ports._version.cache_clear()  # bounded by its size
    assert dump(shop.environment)["rollout"] is None


def test_an_engine_that_led_before_the_clock_was_set_back_reads_what_another_one_wrote_since() -> None:
    """Its lease looks as if it were an hour young, and is long over."""
    shop = Shop()
    shop.serving(A)
    shop.command("down")
    shop.until(lambda: shop.environment.stable is None and not shop.environment.leaving)
    former = shop.engine
    shop.clock.advance(20.0)
    shop.engine = Engine(replace(former.ports, owner="another"))
    rollout = shop.deploy(B)
    shop.until(lambda: shop.environment.rollout is not None)
    shop.clock.advance(-3600.0)
    with suppress(LedgerConflict):
        former.tick(KEY, asked=False)
    seen = former.memory(KEY).environment.rollout
    assert seen is not None
    assert seen.id == rollout
