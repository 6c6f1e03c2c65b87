"""Fleets that leave, beside a controller that is as quick as a real one: what is deleted it raises anew at once."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.platforms.kubernetes.fleets import Fleets
from tests.unit.platforms.kubernetes.world import CORE, World


@pytest.fixture
def made(world: World, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all pods that there were after any deletion of ours."""
    found: set[str] = set()
    delete = Fleets._delete

    def quick(self: Fleets, *words: Any) -> None:
        delete(self, *words)
        world.cluster.settle()
        found.update(one["metadata"]["name"] for one in world.http.get(f"{CORE}/pods").json()["items"])

    monkeypatch.setattr(Fleets, "_delete", quick)
    return found


@pytest.mark.parametrize("more", [{}, {"autoscale": {"max": 6}}, {"kind": "statefulset"}])
def test_a_fleet_that_leaves_whole_is_not_raised_anew(world: World, made: set[str], more: dict[str, Any]) -> None:
    world.wished |= more
    specs = [world.spec(number) for number in (1, 2, 3)]
    world.raised(*specs)
    had = {one["metadata"]["name"] for one in world.http.get(f"{CORE}/pods").json()["items"]}
    for one in specs:
        world.platform.retire(one.id, 1000)
    world.until(lambda: not world.all())
    assert made == had


def test_one_that_leaves_alone_goes_while_the_others_stay(world: World, made: set[str]) -> None:
    specs = [world.spec(number) for number in (1, 2, 3)]
    before = {one.id: one.address for one in world.raised(*specs)}
    world.gone("f1-2")
    assert made
    assert {one.id: one.address for one in world.all()} == {name: before[name] for name in ("f1-1", "f1-3")}
    world.until(lambda: len(world.http.get(f"{CORE}/pods").json()["items"]) == 2)
