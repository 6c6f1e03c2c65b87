"""Two engines, late effects, storms of conflicts, broken watches, a server that is away, and kills between any two
requests."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.errors import LedgerConflict, RebakeError, Transient
from rebake.kubernetes import informer
from rebake.ledger.ports import Fence
from rebake.platforms.kubernetes import leads
from rebake.testing.kubernetes import Cluster, Fault
from rebake.testing.kubernetes.access import Attempt
from rebake.testing.kubernetes.resources import DEPLOYMENTS
from rebake.testing.kubernetes.status import conflict
from tests.unit.platforms.kubernetes.world import CORE, World, world_of

KEY = "shop/production"


def test_an_engine_that_stood_still_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is refused for a new fleet, for one it made itself, and for what the new engine never touched."""
    monkeypatch.setattr(leads, "_BELIEVED_SECONDS", 0.0)
    late = world.platform
    late.launch(world.spec(1), fence=Fence(KEY, 6))
    leading = world.again(Home(tmp_path / "other"))
    leading.launch(world.spec(1, fleet="f2"), fence=Fence(KEY, 7))
    with pytest.raises(LedgerConflict, match="token 6, after one with token 7"):
        late.launch(world.spec(1, fleet="f3"), fence=Fence(KEY, 6))
    with pytest.raises(LedgerConflict, match="token 6"):
        late.launch(world.spec(2), fence=Fence(KEY, 6))
    with pytest.raises(LedgerConflict, match="token 6"):
        late.retire("f1-1", 0, fence=Fence(KEY, 6))
    assert sorted(one.id for one in leading.observe("shop", "production")) == ["f1-1", "f2-1"]
    late.launch(world.spec(1, fleet="f9"), fence=Fence("shop/staging", 1))
    leading.retire("f1-1", 0, fence=Fence(KEY, 7))


def test_a_fleet_refuses_an_older_token_even_where_the_record_is_lost(world: World) -> None:
    world.platform.launch(world.spec(1), fence=Fence(KEY, 7))
    world.http.delete(f"{CORE}/configmaps/shop-production-lead").raise_for_status()
    other = world.again()
    with pytest.raises(LedgerConflict, match="token 6"):
        other.launch(world.spec(2), fence=Fence(KEY, 6))
    assert [one.id for one in other.observe("shop", "production")] == ["f1-1"]


def test_two_engines_that_launch_at_once_lose_no_place(world: World, tmp_path: Path) -> None:
    first, second = world.platform, world.again(Home(tmp_path / "other"))
    specs = [world.spec(number) for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit((first if n % 2 else second).launch, spec) for n, spec in enumerate(specs)]
        for one in done:
            one.result()
    assert len(world.deployments()) == 1
    for spec in specs:
        world.until_instance(spec.id, lambda i: i.healthy is True)
    assert world.deployments()[0]["spec"]["replicas"] == 8
    for spec in specs:
        world.pod_of(spec.id)
    assert len(world.pods()) == 8
    for platform in (first, second):
        assert {one.id for one in platform.observe("shop", "production")} == {spec.id for spec in specs}


def test_a_storm_of_conflicts_is_weathered_and_one_without_end_is_transient(world: World) -> None:
    world.raised(world.spec(1))
    stale = conflict(DEPLOYMENTS, "x")
    world.cluster.faults.add(Fault(verb="patch", resource="deployments", answer=stale, times=6))
    world.raised(world.spec(2))
    world.cluster.faults.clear()
    world.cluster.faults.add(Fault(verb="patch", resource="deployments", answer=stale, times=1000))
    with pytest.raises(Transient) as refused:
        world.platform.launch(world.spec(3))
    assert refused.value.code == "kubernetes-conflict"
    world.cluster.faults.clear()
    world.raised(world.spec(3))
    assert len(world.pods()) == 3


def test_broken_watches_and_forgotten_versions_lose_nothing(world: World) -> None:
    world.raised(world.spec(1))
    for number in (2, 3):
        world.cluster.faults.cut_watches()
        world.platform.launch(world.spec(number))
        world.cluster.forget_history()
        world.until_instance(f"f1-{number}", lambda i: i.healthy is True)
    world.cluster.faults.cut_watches()
    world.gone("f1-2")
    assert sorted(one.id for one in world.all()) == ["f1-1", "f1-3"]


def test_while_the_server_is_away_instances_stay_known_and_then_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (serving,) = world.raised(world.spec(1))
    with world.cluster.api_server_away():
        assert world.one("f1-1") == serving
        with pytest.raises(Transient, match="cannot be reached"):
            world.platform.launch(world.spec(2))
        with pytest.raises(Transient, match="cannot be reached"):
            world.platform.retire("f1-1", 0)
        monkeypatch.setattr(informer, "STALE_SECONDS", 0.0)

        def told() -> bool:
            try:
                world.all()
            except Transient as error:
                return error.code == "kubernetes-unreachable"
            return False

        world.until(told)
    found = world.until_instance("f1-1", lambda i: True)
    assert (found.id, found.address, found.healthy) == (serving.id, serving.address, True)
    assert len(world.pods()) == 1


# --- kills -----------------------------------------------------------------------------------------------------------


LONGEST = 52
"""Requests of a whole journey, watches apart."""
EACH = 1 if os.environ.get("REBAKE_EVERY_REQUEST") else 8
"""Each so many requests are tried; all of them in `make torture`."""


@dataclass(slots=True)
class Kill(Fault):
    """From the nth request on nothing is answered; the nth may take effect. Watches are not counted."""

    nth: int = 1
    _seen: int = 0
    struck: threading.Event = field(default_factory=threading.Event)

    def fits(self, attempt: Attempt) -> bool:
        if attempt.verb == "watch" or attempt.resource is None:
            return self.struck.is_set()
        self._seen += 1
        if self._seen == self.nth:
            self.struck.set()
            return True
        self.after = False  # all that follow have none
        return self.struck.is_set()


class Journey:
    """What the engine asks for: two instances, one replaced, then none. Each wish is repeated until it holds."""

    def __init__(self, world: World, kill: Kill | None) -> None:
        self.world, self.kill, self.most = world, kill, 0

    def run(self) -> None:
        world = self.world
        for number in (1, 2):
            self._do(lambda number=number: world.platform.launch(world.with_secret(number)))
        self._until({"f1-1", "f1-2"})
        self._do(lambda: world.platform.launch(world.with_secret(3)))
        self._retire("f1-1")
        self._until({"f1-2", "f1-3"})
        for number in (2, 3):
            self._retire(f"f1-{number}")
        self._until(set())

    def _do(self, wish: object) -> None:
        assert callable(wish)
        while True:
            try:
                wish()
            except RebakeError:
                self._recover()
                continue
            return

    def _recover(self) -> None:
        """Where the kill struck, another process takes over."""
        if self.kill is not None and self.kill.struck.is_set():
            self.world.cluster.faults.clear()
            self.kill = None
            self.world.kill()

    def _retire(self, instance: str) -> None:
        def gone() -> bool:
            try:
                self.world.platform.retire(instance, 1000)
                return self.world.one(instance) is None
            except RebakeError:
                self._recover()
                return False

        self.world.until(gone, self.world.all)

    def _until(self, wanted: set[str]) -> None:
        def holds() -> bool:
            self.most = max(self.most, len(self.world.cluster.store.all(DEPLOYMENTS)))
            try:
                found = self.world.all()
            except RebakeError:
                self._recover()
                return False
            if self.kill is not None and self.kill.struck.is_set():
                self._recover()
                return False
            return {one.id for one in found} == wanted and all(one.healthy for one in found)

        self.world.until(holds, self.world.all)


def _pods_by_mark(world: World, seen: dict[str, set[str]]) -> None:
    for pod in world.pods():
        mark = pod["metadata"].get("labels", {}).get("rebake.dev/instance")
        if mark:
            seen.setdefault(mark, set()).add(pod["metadata"]["uid"])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, LONGEST + 1, EACH))
def test_killed_at_any_request_another_goes_on_without_a_second_fleet_or_a_lost_place(
    tmp_path: Path, nth: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer, "SYNC_SECONDS", 1.0)  # nobody answers the one that was killed
    with Cluster() as cluster, world_of(tmp_path, cluster) as world:
        journey = Journey(world, None)
        assert world.platform.name == "kubernetes"  # opened before the kill is ordered
        journey.kill = Kill(nth=nth, after=after, times=1 << 30)
        cluster.faults.add(journey.kill)
        journey.run()
        cluster.faults.clear()  # where it struck what came after the journey
        assert journey.most == 1
        assert world.deployments() == []
        world.until(lambda: not world.pods() and not world.items(f"{CORE}/secrets"))


def test_a_journey_is_no_longer_than_the_kills_reach(world: World) -> None:
    Journey(world, None).run()
    assert sum(one.attempt.verb != "watch" for one in world.cluster.asked) <= LONGEST


def test_a_pod_is_given_to_one_instance_for_good(world: World) -> None:
    seen: dict[str, set[str]] = {}
    world.raised(world.spec(1), world.spec(2))
    _pods_by_mark(world, seen)
    name = world.pod_of("f1-1")["metadata"]["name"]
    world.http.delete(f"{CORE}/pods/{name}").raise_for_status()
    exited = world.until_instance("f1-1", lambda i: i.state == "exited")
    assert exited.exit == "its pod was deleted by somebody else"
    world.until(lambda: len([one for one in world.pods() if "deletionTimestamp" not in one["metadata"]]) == 2)
    _pods_by_mark(world, seen)
    assert {mark: len(uids) for mark, uids in seen.items()} == {"f1-1": 1, "f1-2": 1}
    world.platform.launch(world.spec(1))
    assert world.one("f1-1") == exited
    world.platform.retire("f1-1", 0)
    world.raised(world.spec(3))
    world.until(lambda: world.one("f1-1") is None)
    world.until(lambda: len(world.pods()) == 2)
    assert {one.id for one in world.all()} == {"f1-2", "f1-3"}
