"""Where fleets are looked for: also where an older file pointed, and whatever else is out of reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebake.errors import PlatformError
from rebake.platforms.kubernetes.homes import Spot, Spots
from rebake.testing.kubernetes import Fault
from rebake.testing.kubernetes.resources import PODS
from rebake.testing.kubernetes.status import forbidden
from tests.unit.platforms.kubernetes.world import World


def test_a_fleet_where_the_file_pointed_before_is_seen_until_it_is_gone(world: World) -> None:
    world.raised(world.spec(1))
    world.make("/api/v1/namespaces", {"metadata": {"name": "new"}})
    world.cluster.settle()
    world.wished["namespace"] = "new"
    world.raised(world.spec(1, fleet="f2"))
    assert sorted(one.id for one in world.all()) == ["f1-1", "f2-1"]
    world.kill()
    world.until_instance("f1-1", lambda i: i.healthy is True)
    world.gone("f1-1")
    file = world.home.clusters / "places.json"
    world.until(lambda: [one["namespace"] for one in json.loads(file.read_bytes())["shop/production"]] == ["new"])
    assert [one.id for one in world.all()] == ["f2-1"]


def test_a_cluster_that_is_out_of_reach_stands_in_no_others_way(world: World, tmp_path: Path) -> None:
    world.raised(world.spec(1))
    spots = Spots(world.home.clusters / "places.json")
    spots.add("other", "production", Spot(str(tmp_path / "none"), "", "default", "deployment"))
    world.kill()
    world.until_instance("f1-1", lambda i: True)
    with pytest.raises(PlatformError, match="No such file"):
        world.platform.retire("unknown-1", 0)
    world.platform.retire("f1-1", 1000)
    world.until(lambda: world.one("f1-1") is None)


def test_what_keeps_pods_from_being_deleted_is_told_to_who_retires(world: World) -> None:
    world.raised(world.spec(1))
    why = 'User "u" cannot delete resource "pods" in API group "" in the namespace "default"'
    fault = Fault(verb="delete", resource="pods", answer=forbidden(PODS, "x", why), times=1000)
    world.cluster.faults.add(fault)

    def told() -> bool:
        try:
            world.platform.retire("f1-1", 1000)
        except PlatformError as error:
            return "resources: [pods], verbs: [delete]" in (error.remedy or "")
        return False

    world.until(told)
    world.cluster.faults.clear()
    world.gone("f1-1")


def test_a_damaged_memory_of_places_is_none(tmp_path: Path) -> None:
    (tmp_path / "places.json").write_text("{")
    spots = Spots(tmp_path / "places.json")
    assert spots.all() == {}
    spot = Spot("", "ctx", "ns", "statefulset")
    spots.add("a", "b", spot)
    again = Spots(tmp_path / "places.json")
    assert again.of("a", "b") == (spot,)
    assert (spot.settings.context, spot.settings.namespace, spot.settings.kind) == ("ctx", "ns", "statefulset")
    again.forget("a", "b", spot)
    assert Spots(tmp_path / "places.json").all() == {}
