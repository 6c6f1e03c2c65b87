"""The edge folder: order, idempotence, and what stays while a loaded route may still name it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rebake.traffic.envoy import snapshot
from rebake.traffic.envoy.documents import Documents
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute

STABLE = FleetRoute("f1", (Endpoint("a", "127.0.0.1:7001"),), 10_000)
CANDIDATE = FleetRoute("f2", (Endpoint("b", "127.0.0.1:7002"),), 0)
ROUTE = EnvironmentRoute("shop", "production", "127.0.0.1:8081", (STABLE, CANDIDATE))
KEY = "shop.production"


@pytest.fixture
def paths(tmp_path: Path) -> snapshot.EdgePaths:
    return snapshot.EdgePaths(tmp_path)


@pytest.fixture
def documents(paths: snapshot.EdgePaths) -> Documents:
    found = Documents(paths)
    found.write_all({KEY: ROUTE}, [ROUTE])
    found.keep_wish(KEY, ROUTE)
    return found


def clusters_in(paths: snapshot.EdgePaths) -> list[str]:
    return [c["name"] for c in json.loads(paths.clusters.read_bytes())["resources"]]


def test_a_wish_is_found_again_by_the_next_agent(documents: Documents, paths: snapshot.EdgePaths) -> None:
    assert Documents(paths).wishes() == {KEY: ROUTE}


def test_an_unreadable_wish_is_left_out(documents: Documents, paths: snapshot.EdgePaths) -> None:
    paths.wish("shop.staging").write_text("{")
    paths.wish("shop.other").write_text('{"service": 3}')
    assert Documents(paths).wishes() == {KEY: ROUTE}


def test_an_equal_document_is_not_written_again(documents: Documents, paths: snapshot.EdgePaths) -> None:
    before = paths.clusters.stat().st_ino
    documents.write_clusters([ROUTE], keep_others=True)
    assert paths.clusters.stat().st_ino == before
    Documents(paths).write_clusters([ROUTE], keep_others=True)
    assert paths.clusters.stat().st_ino == before


def test_a_leaving_cluster_stays_until_nobody_names_it(documents: Documents, paths: snapshot.EdgePaths) -> None:
    alone = replace(ROUTE, fleets=(STABLE,))
    assert documents.write_clusters([alone], keep_others=True) is True
    assert clusters_in(paths) == ["shop/production/f1", "shop/production/f2"]
    documents.write_clusters([alone], keep_others=False)
    assert clusters_in(paths) == ["shop/production/f1"]
    assert documents.write_clusters([alone], keep_others=True) is False


def test_a_switch_tells_which_cluster_lost_its_users(documents: Documents) -> None:
    moved = replace(
        ROUTE, fleets=(replace(STABLE, weight_basis_points=0), replace(CANDIDATE, weight_basis_points=10_000))
    )
    assert documents.write_route(moved) == {"shop/production/f1"}
    assert documents.write_route(moved) == frozenset()


def test_a_refused_listener_can_be_told_again(documents: Documents, paths: snapshot.EdgePaths) -> None:
    before = paths.listeners.stat().st_ino
    documents.write_listeners([ROUTE], again=True)
    assert paths.listeners.stat().st_ino != before
    assert documents.listeners() == {"shop.production@127.0.0.1:8081"}


def test_files_of_what_left_are_swept(documents: Documents, paths: snapshot.EdgePaths) -> None:
    documents.sweep({KEY: replace(ROUTE, fleets=(STABLE,))})
    assert [p.name for p in (paths.root / "eds").iterdir()] == ["shop%2Fproduction%2Ff1.json"]
    documents.sweep({})
    assert not list((paths.root / "eds").iterdir())
    assert not list((paths.root / "rds").iterdir())


def test_no_half_written_file_is_ever_seen(documents: Documents, paths: snapshot.EdgePaths) -> None:
    assert not [p for p in paths.root.rglob("*") if p.name.startswith(".")]


def test_a_document_changed_by_hand_is_found_and_written_again(documents: Documents, paths: snapshot.EdgePaths) -> None:
    assert documents.intact(ROUTE)
    for path in (paths.route(KEY), paths.endpoints(snapshot.cluster_of(ROUTE, STABLE))):
        right = path.read_bytes()
        path.write_bytes(right.replace(b"7001", b"9999").replace(b'"/"', b'"/other"'))
        assert not documents.intact(ROUTE)
        documents.write_all({KEY: ROUTE}, [ROUTE])
        assert path.read_bytes() == right
        assert documents.intact(ROUTE)
