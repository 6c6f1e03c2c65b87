"""What the emulated cluster need not look at: objects by their labels, and those for which nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.deployments import Deployments
from rebake.testing.kubernetes.store import Store
from tests.unit.testing.bench import APPS, BAD, Bench, deployment

Json = dict[str, Any]


def _pod(name: str, labels: Json, *owners: str, uid: str = "") -> Json:
    references = [{"uid": owner} for owner in owners]
    metadata = {"namespace": "a", "name": name, "uid": uid or name, "labels": labels, "ownerReferences": references}
    return {"metadata": metadata}


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    with made.changed:
        yield made


def test_objects_are_found_by_all_of_their_labels_as_they_are_now(store: Store) -> None:
    for name, labels in (("p2", {"app": "x", "tier": "web"}), ("p1", {"app": "x"}), ("p3", {"tier": "web"})):
        store.put(kinds.PODS, _pod(name, labels))

    def names(**labels: str) -> list[str]:
        return [one["metadata"]["name"] for one in store.labelled(kinds.PODS, "a", labels)]

    assert (names(app="x"), names(app="x", tier="web"), names(app="y")) == (["p1", "p2"], ["p2"], [])
    assert names() == ["p1", "p2", "p3"]
    assert store.labelled(kinds.PODS, "b", {"app": "x"}) == []
    store.put(kinds.PODS, _pod("p1", {"app": "y"}))
    store.remove(kinds.PODS, _pod("p2", {"app": "x", "tier": "web"}))
    assert (names(app="x"), names(app="y"), names(tier="web")) == ([], ["p1"], ["p3"])


def test_a_write_touches_all_that_it_depends_on_and_nothing_else(store: Store) -> None:
    for name, *owners in (("top",), ("middle", "top"), ("leaf", "middle"), ("other",), ("one", "two"), ("two", "one")):
        store.put(kinds.PODS, _pod(name, {}, *owners))
    before = {name: store.touched(name) for name in ("top", "middle", "leaf", "other")}
    store.put(kinds.PODS, _pod("leaf", {"now": "other"}, "middle"))
    assert {name for name in before if store.touched(name) > before[name]} == {"top", "middle", "leaf"}
    store.remove(kinds.PODS, _pod("leaf", {"now": "other"}, "middle"))
    assert store.touched("top") == store.version
    store.put(kinds.PODS, _pod("one", {}, "two"))  # who own each other
    assert store.touched("two") == store.version


def test_controllers_pass_over_what_rests(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"web-{number}" for number in range(5)]
    for name in names:
        bench.make(f"{APPS}/deployments", deployment(name))
    bench.cluster.advance(30)
    seen: list[str] = []
    look = Deployments._one

    def heard(self: Deployments, item: Json) -> None:
        seen.append(item["metadata"]["name"])
        look(self, item)

    monkeypatch.setattr(Deployments, "_one", heard)
    for rest in [one for one in bench.cluster._controllers if isinstance(one, Deployments)]:
        monkeypatch.setattr(rest._rest, "_look", rest._one)
    bench.cluster.advance(5)
    assert seen == []
    bench.apply(f"{APPS}/deployments/web-2", deployment("web-2", image=BAD), force="true").raise_for_status()
    bench.cluster.advance(30)
    assert set(seen) == {"web-2"}
    assert bench.get(f"{APPS}/deployments/web-2")["status"]["updatedReplicas"] == 3
