"""Two homes on one ledger: each environment is in one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from rebake.core.codec import dump
from rebake.errors import LedgerConflict, UsageError
from rebake.ledger.ports import Draft, Fence, Put
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.homes import Homes
from rebake.rollout.world import Command, Environment, Fleet, Place, Rollout
from rebake.testing.simulated import (
    InlineJobs,
    ManualClock,
    MemoryLedger,
    SimulatedPlatform,
    SimulatedRouter,
    simulated_release,
)
from rebake.testing.simulation.scenario import plan_of, revision_of

KEY = "shop/production"
HERE, THERE = Place("1", "anna", "/home/a"), Place("2", "berta", "/home/b")


class World:
    """Attributes: cluster: a platform that is the same from everywhere, and its route."""

    def __init__(self) -> None:
        self.ledger, self.clock = MemoryLedger(), ManualClock()
        self.cluster = SimulatedPlatform(self.clock)
        self.gateway = SimulatedRouter(self.cluster)
        self.edges: dict[str, SimulatedRouter] = {}

    def homes(self, place: Place | None) -> Homes:
        here = {} if place is None else {"simulated": place}
        return Homes(self.ledger, self.clock, f"home:{place}", here, 15.0)

    def engine(self, place: Place) -> Engine:
        platform = SimulatedPlatform(self.clock)
        edge = self.edges[place.id] = SimulatedRouter(platform)
        return Engine(
            Ports(
                self.ledger,
                {"simulated": platform, "cluster": self.cluster},
                {"simulated": edge, "cluster": self.gateway},
                InlineJobs(),
                self.clock,
                simulated_release,
                place.id,
                {"simulated": place},
            )
        )

    def inhabit(self, place: Place | None) -> None:
        """Something serves there."""
        fleet = Fleet("r-1", revision_of("a", 0), plan_of(1, 0))
        environment = Environment("shop", "production", stable=fleet, platform="simulated", place=place)
        self.ledger.commit([], [Put("environment", KEY, dump(environment))], at=self.clock.at)


@pytest.fixture
def world() -> World:
    return World()


def test_who_comes_first_has_it(world: World) -> None:
    here, there = world.homes(HERE), world.homes(THERE)
    first = here.settle(KEY, "simulated")
    assert first is not None
    assert first.place == HERE
    assert here.settle(KEY, "simulated") == first
    assert there.settle(KEY, "simulated") is None  # vacant, and the first one's lease still runs
    world.inhabit(HERE)
    with pytest.raises(UsageError, match="in the home /home/a on anna") as refused:
        there.settle(KEY, "simulated")
    assert refused.value.code == "environment-elsewhere"


def test_an_environment_that_was_taken_down_can_be_taken_over(world: World) -> None:
    world.homes(HERE).settle(KEY, "simulated")
    world.clock.advance(16)
    moved = world.homes(THERE).settle(KEY, "simulated")
    assert moved is not None
    assert moved.place == THERE
    assert [e.body["home"]["host"] for e in world.ledger.entries(kinds=["note"])] == ["anna", "berta"]


def test_of_many_threads_one_writes_it_down(world: World) -> None:
    homes, found = world.homes(HERE), []
    threads = [threading.Thread(target=lambda: found.append(homes.settle(KEY, "simulated"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(world.ledger.entries()) == 1


def test_who_lost_the_race_sees_the_winner(world: World) -> None:
    """The other home writes between the look and the lease."""

    class Late(MemoryLedger):
        def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
            world.inhabit(THERE)
            return super().lease(key, owner, at=at, ttl_seconds=ttl_seconds, reason=reason)

    world.ledger = Late()
    with pytest.raises(UsageError, match="on berta"):
        world.homes(HERE).settle(KEY, "simulated")


def test_a_home_under_another_name_keeps_what_it_has(world: World) -> None:
    world.inhabit(HERE)
    renamed = replace(HERE, host="clara")
    found = world.homes(renamed).settle(KEY, "simulated")
    assert found is not None
    assert found.place == renamed


def test_an_environment_from_before_there_were_homes_belongs_to_who_asks(world: World) -> None:
    world.inhabit(None)
    found = world.homes(HERE).settle(KEY, "simulated")
    assert found is not None
    assert found.place == HERE


def test_an_engine_leaves_alone_what_is_elsewhere_and_shows_it_with_a_sentence(world: World) -> None:
    world.inhabit(THERE)
    engine = world.engine(HERE)
    rows = len(world.ledger.rows)
    assert engine.tick(KEY) >= world.clock.at + 60
    assert len(world.ledger.rows) == rows
    assert KEY not in world.ledger.leases
    view = engine.view(KEY)
    assert view["home"] == {"host": "berta", "folder": "/home/b", "here": False}
    assert view["stable"]["healthy"] is None
    assert view["route"] == {revision_of("a", 0).digest: 1.0}
    assert len(view["problems"]) == 1
    assert "on berta" in view["problems"][0]


def test_a_home_that_has_nothing_left_gives_the_environment_away_at_once(world: World) -> None:
    here, there = world.engine(HERE), world.engine(THERE)
    assert here.settle(KEY, "simulated") is not None
    _ask(world, "begin", Rollout("r-1", "deploy", revision_of("a", 0), plan_of(1, 0), "ann", world.clock.at))
    _look(world, here, until=lambda: here.memory(KEY).environment.rollout is None)
    assert here.memory(KEY).environment.stable is not None
    with pytest.raises(UsageError, match="on anna"):
        there.settle(KEY, "simulated")
    _ask(world, "down")
    _look(world, here, until=lambda: not world.ledger.held(at=world.clock.at))
    assert not world.ledger.leases[KEY][0], "it was not given back, it ran out"
    taken = there.settle(KEY, "simulated")
    assert taken is not None
    assert taken.place == THERE
    assert here.view(KEY)["home"] == {"host": "berta", "folder": "/home/b", "here": False}


def _ask(world: World, verb: Literal["begin", "down"], rollout: Rollout | None = None) -> None:
    command = Command(f"c-{verb}", verb, "ann", world.clock.at, rollout)
    world.ledger.commit([], [Put("command", f"{KEY}/{command.id}", dump(command))], at=world.clock.at)


def _look(world: World, engine: Engine, until: Callable[[], bool]) -> None:
    """Ticks, more often than a lease needs to run out, until it is so."""
    for _ in range(200):
        engine.tick(KEY)
        engine.memory(KEY)
        world.clock.advance(0.5)
        if not world.ledger.list("command") and until():
            return
    raise AssertionError("not within 100 s")


def test_what_another_home_does_is_seen_at_the_next_look(world: World) -> None:
    world.inhabit(THERE)
    engine = world.engine(HERE)
    assert engine.view(KEY)["stable"] is not None
    gone = Environment("shop", "production", place=THERE)
    world.ledger.commit([Draft("note", "shop", "production", None, {})], [Put("environment", KEY, dump(gone))], at=1.0)
    assert engine.view(KEY)["stable"] is None
    world.clock.advance(16)
    assert engine.settle(KEY, "simulated") is not None
    assert engine.view(KEY)["home"]["here"] is True


# A platform that is the same from everywhere


def _on_the_cluster(release: str = "a") -> Rollout:
    plan = replace(plan_of(1, 0), platform="cluster")
    return Rollout(f"r-{release}", "deploy", revision_of(release, 0), plan, "ann", 1.0)


def test_a_cluster_binds_its_environments_to_no_home(world: World) -> None:
    for place in (HERE, THERE):
        found = world.homes(place).settle(KEY, "cluster")
        assert found is not None
        assert found.place is None
    assert not world.ledger.entries(kinds=["note"])


def test_an_empty_environment_moves_to_a_cluster_and_back_to_a_home(world: World) -> None:
    assert _settled(world, HERE, "simulated").place == HERE
    assert _settled(world, THERE, "cluster").place is None
    assert _settled(world, THERE, "simulated").place == THERE


def test_an_inhabited_home_gives_nothing_to_a_cluster(world: World) -> None:
    world.inhabit(HERE)
    with pytest.raises(UsageError, match="on anna"):
        world.homes(THERE).settle(KEY, "cluster")


def test_either_home_leads_what_is_on_a_cluster_and_one_at_a_time(world: World) -> None:
    here, there = world.engine(HERE), world.engine(THERE)
    assert here.settle(KEY, "cluster") is not None
    _ask(world, "begin", _on_the_cluster())
    here.tick(KEY)
    with pytest.raises(LedgerConflict) as held:
        there.tick(KEY)
    assert held.value.code == "lease-held"
    world.clock.advance(16)  # the first one is gone
    _look(world, there, until=lambda: there.environment(KEY).rollout is None)
    assert len(world.cluster.processes) == plan_of(1, 0).instances
    assert world.gateway.observe("shop", "production") is not None


def test_a_home_that_follows_shows_what_the_leading_one_wrote(world: World) -> None:
    here, there = world.engine(HERE), world.engine(THERE)
    assert here.settle(KEY, "cluster") is not None
    assert there.view(KEY)["stable"] is None
    _ask(world, "begin", _on_the_cluster())
    _look(world, here, until=lambda: here.environment(KEY).rollout is None)
    assert there.view(KEY)["stable"]["revision"] == revision_of("a", 0).digest
    assert there.view(KEY)["home"] is None


def test_what_is_on_a_cluster_has_the_clusters_route_and_no_edge(world: World) -> None:
    here = world.engine(HERE)
    touched: list[str] = []
    world.edges[HERE.id].fail = lambda call, _subject: touched.append(call)
    assert here.settle(KEY, "cluster") is not None
    _ask(world, "begin", _on_the_cluster())
    _look(world, here, until=lambda: here.environment(KEY).rollout is None)
    assert world.gateway.history
    _ask(world, "down")
    _look(world, here, until=lambda: not world.cluster.processes)
    assert world.gateway.observe("shop", "production") is None
    assert not touched


def _settled(world: World, place: Place, platform: str) -> Environment:
    world.clock.advance(16)
    found = world.homes(place).settle(KEY, platform)
    assert found is not None
    return found
