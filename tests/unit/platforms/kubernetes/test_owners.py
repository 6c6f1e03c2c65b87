"""Two installations that name the same service, environment and namespace: the second one is told whose it is, and
touches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.kubernetes.names import lead_name
from rebake.kubernetes.owners import Owner
from rebake.ledger.ports import Fence
from tests.unit.platforms.kubernetes.world import CORE, World

OURS, THEIRS = Owner("aaaa", "one:/home/a"), Owner("bbbb", "two:/home/b")
KEY = "shop/production"
RECORD = f"{CORE}/configmaps/{lead_name('shop', 'production')}"


def _writes(world: World) -> int:
    return sum(one.attempt.verb in ("create", "patch", "update", "delete") for one in world.cluster.asked)


def _served(world: World) -> None:
    world.again(whose=lambda: OURS)
    world.raised(world.spec(1), fence=Fence(KEY, 7))


def test_another_installation_sees_nothing_changes_nothing_and_is_told_whose_it_is(
    world: World, tmp_path: Path
) -> None:
    _served(world)
    other = world.again(Home(tmp_path / "other"), whose=lambda: THEIRS)
    before, pods = _writes(world), world.pods()
    with pytest.raises(Permanent) as refused:
        other.launch(world.spec(1, fleet="f9"), fence=Fence(KEY, 1))
    assert refused.value.code == "environment-of-another-ledger"
    assert refused.value.problem == (
        "expected shop/production of namespace default to be this installation's, found that of ledger aaaa, led from "
        "one:/home/a"
    )
    assert "rebake down production" in str(refused.value.remedy)
    assert "kubectl delete configmap shop-production-lead -n default" in str(refused.value.remedy)
    assert list(other.observe("shop", "production")) == []
    assert list(other.inspect("shop", "production")) == []
    other.retire("f1-1", 0, fence=Fence(KEY, 1))
    world.cluster.advance(5)
    world._let_work()
    assert _writes(world) == before
    assert [one["metadata"]["uid"] for one in world.pods()] == [one["metadata"]["uid"] for one in pods]


def test_another_engine_of_the_same_ledger_goes_on(world: World, tmp_path: Path) -> None:
    _served(world)
    world.again(Home(tmp_path / "replica"), whose=lambda: OURS)
    world.raised(world.spec(2), fence=Fence(KEY, 8))
    assert {one.id for one in world.all()} == {"f1-1", "f1-2"}


def test_what_a_lost_ledger_left_is_taken_over_once_its_record_is_deleted(world: World, tmp_path: Path) -> None:
    _served(world)
    world.kill()
    fresh = world.again(Home(tmp_path / "fresh"), whose=lambda: THEIRS)
    with pytest.raises(Permanent):
        fresh.launch(world.spec(1, fleet="f9"), fence=Fence(KEY, 1))
    world.http.delete(RECORD).raise_for_status()
    world.raised(world.spec(1, fleet="f9"), fence=Fence(KEY, 1))
    assert {one.id for one in world.all()} == {"f1-1", "f9-1"}

    def ended() -> bool:
        fresh.retire("f1-1", 0, fence=Fence(KEY, 2))
        return world.one("f1-1") is None

    world.until(ended)
    assert world.http.get(RECORD).json()["data"] == {"token": "2", "owner": "bbbb", "home": "two:/home/b"}


def test_an_environment_of_before_is_taken_by_who_leads_it(world: World) -> None:
    world.raised(world.spec(1), fence=Fence(KEY, 7))
    assert world.http.get(RECORD).json()["data"] == {"token": "7"}
    world.kill()
    world.again(whose=lambda: OURS)
    world.raised(world.spec(2), fence=Fence(KEY, 7))
    assert world.http.get(RECORD).json()["data"]["owner"] == "aaaa"
