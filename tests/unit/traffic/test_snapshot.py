"""Envoy's documents, compared whole. Renew them with REBAKE_RENEW_GOLDEN=1 and read the difference."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebake.errors import BrokenInvariant
from rebake.release.manifest import Health
from rebake.traffic.envoy import routes, snapshot
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute, Mirror, Sticky

GOLDEN = Path(__file__).parent / "golden"
PATHS = snapshot.EdgePaths(Path("/home/edge"))
STABLE = FleetRoute("f1", (Endpoint("a", "127.0.0.1:7001"), Endpoint("b", "[::1]:7002")), 9_500)
CANDIDATE = FleetRoute("f2", (Endpoint("c", "127.0.0.1:7003"),), 500, Health(path="/up", interval_ms=50))
PLAIN = EnvironmentRoute("shop", "production", "127.0.0.1:8081", (STABLE, CANDIDATE))
FULL = replace(PLAIN, preview="f2", mirror=Mirror("f2", 250), sticky=Sticky("cohort", 600))
UNPROMOTED = EnvironmentRoute("shop", "staging", "0.0.0.0:8080", (replace(STABLE, weight_basis_points=0),))


def compare(name: str, found: Any) -> None:
    path = GOLDEN / f"{name}.json"
    if os.environ.get("REBAKE_RENEW_GOLDEN"):
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(path.read_text())


def test_the_bootstrap_is_as_agreed() -> None:
    compare("bootstrap", snapshot.bootstrap(PATHS, Path("/run/admin.sock")))


def test_clusters_are_as_agreed() -> None:
    compare("clusters", snapshot.clusters([UNPROMOTED, FULL], PATHS))


def test_endpoints_are_as_agreed() -> None:
    compare("endpoints", snapshot.endpoints_resource("shop/production/f1", STABLE))


def test_listeners_are_as_agreed_and_an_unpromoted_environment_has_none() -> None:
    compare("listeners", snapshot.listeners([UNPROMOTED, FULL], PATHS))


def test_a_plain_route_is_as_agreed() -> None:
    compare("route-plain", routes.route_configuration(PLAIN))


def test_a_route_with_preview_mirror_and_sticky_callers_is_as_agreed() -> None:
    compare("route-full", routes.route_configuration(FULL))


@pytest.mark.parametrize("route", [PLAIN, FULL, replace(FULL, preview=None), replace(FULL, sticky=None)])
def test_weights_and_version_are_read_back_from_every_kind_of_route(route: EnvironmentRoute) -> None:
    document = json.loads(json.dumps(routes.route_configuration(route)))
    assert routes.weights_in(document) == {"shop/production/f1": 9_500, "shop/production/f2": 500}
    assert routes.version_in(document) == route.version


def test_stable_stands_first_so_that_sticky_keys_move_one_way() -> None:
    for entry in routes.route_configuration(replace(FULL, preview=None))["virtual_hosts"][0]["routes"]:
        clusters = entry["route"]["weighted_clusters"]["clusters"]
        assert [c["name"] for c in clusters] == ["shop/production/f1", "shop/production/f2"]


def test_a_fleet_without_weight_stands_in_no_route_but_keeps_its_cluster() -> None:
    moved = replace(
        PLAIN, fleets=(replace(STABLE, weight_basis_points=0), replace(CANDIDATE, weight_basis_points=10_000))
    )
    assert routes.weights_in(routes.route_configuration(moved)) == {"shop/production/f2": 10_000}
    assert [c["name"] for c in snapshot.clusters([moved], PATHS)] == ["shop/production/f1", "shop/production/f2"]


def test_a_switch_changes_the_route_and_nothing_else() -> None:
    moved = replace(
        FULL, fleets=(replace(STABLE, weight_basis_points=0), replace(CANDIDATE, weight_basis_points=10_000))
    )
    assert snapshot.clusters([moved], PATHS) == snapshot.clusters([FULL], PATHS)
    assert snapshot.listeners([moved], PATHS) == snapshot.listeners([FULL], PATHS)
    assert routes.route_configuration(moved) != routes.route_configuration(FULL)


def test_another_wish_with_the_same_weights_is_still_another_document() -> None:
    grown = replace(PLAIN, fleets=(replace(STABLE, endpoints=STABLE.endpoints[:1]), CANDIDATE))
    assert routes.route_configuration(grown) != routes.route_configuration(PLAIN)


SHIELDED = replace(PLAIN, shield="f2")


def test_a_shielded_route_and_its_clusters_are_as_agreed() -> None:
    compare("route-shielded", routes.route_configuration(SHIELDED))
    compare("clusters-shielded", snapshot.clusters([SHIELDED], PATHS))


def test_a_shield_is_in_the_way_only_while_both_fleets_have_users_and_changes_no_cluster() -> None:
    for weights in ((10_000, 0), (0, 10_000)):
        first, second = (replace(f, weight_basis_points=w) for f, w in zip(SHIELDED.fleets, weights, strict=True))
        moved = replace(SHIELDED, fleets=(first, second))
        assert "~shield" not in json.dumps(routes.route_configuration(moved))
        assert snapshot.clusters([moved], PATHS) == snapshot.clusters([SHIELDED], PATHS)


def test_what_may_not_be_sent_twice_is_never_shielded() -> None:
    *shielded, rest = routes.route_configuration(SHIELDED)["virtual_hosts"][0]["routes"]
    assert rest["match"] == {"prefix": "/"}
    assert "~shield" not in json.dumps(rest)
    methods = [entry["match"]["headers"][0]["string_match"]["exact"] for entry in shielded]
    assert methods[::2] == methods[1::2] == ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]
    for ours, others in zip(shielded[::2], shielded[1::2], strict=True):
        assert ours["route"]["cluster"] == "shop/production/f2~shield"
        share = ours["match"]["runtime_fraction"]["default_value"]
        assert share == {"numerator": 500, "denominator": "TEN_THOUSAND"}
        assert [c["name"] for c in others["route"]["weighted_clusters"]["clusters"]] == ["shop/production/f1"]
        assert "hedge_policy" not in others["route"]
    assert [("hedge_policy" in entry["route"]) for entry in shielded[::2]] == [True, True, True, False, False, True]


def test_callers_who_stick_are_shielded_by_a_header_of_the_weighted_share_alone() -> None:
    entries = routes.route_configuration(replace(SHIELDED, sticky=Sticky()))["virtual_hosts"][0]["routes"]
    stable, candidate = entries[0]["route"]["weighted_clusters"]["clusters"]
    assert "request_headers_to_add" not in stable
    assert candidate["name"] == "shop/production/f2~shield"
    assert "runtime_fraction" not in json.dumps(entries)


def test_a_cookie_name_with_signs_of_a_pattern_is_taken_literally() -> None:
    document = json.dumps(routes.route_configuration(replace(PLAIN, sticky=Sticky("a.b*"))))
    assert "a\\\\.b\\\\*=" in document


def test_equal_wishes_render_to_equal_bytes() -> None:
    first, second = (snapshot.encode(snapshot.response(snapshot.clusters([FULL], PATHS))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "broken",
    [
        replace(PLAIN, fleets=(STABLE,)),
        replace(
            PLAIN, fleets=(replace(STABLE, weight_basis_points=-1), replace(CANDIDATE, weight_basis_points=10_001))
        ),
        replace(PLAIN, fleets=(STABLE, replace(CANDIDATE, fleet="f1"))),
        replace(PLAIN, preview="f3"),
        replace(PLAIN, mirror=Mirror("f3", 1)),
        replace(PLAIN, shield="f3"),
        replace(PLAIN, shield="f1"),
    ],
    ids=[
        "weights-short",
        "weight-negative",
        "fleet-twice",
        "preview-of-nobody",
        "mirror-to-nobody",
        "shield-of-nobody",
        "shield-by-itself",
    ],
)
def test_a_wish_that_contradicts_itself_is_our_defect(broken: EnvironmentRoute) -> None:
    with pytest.raises(BrokenInvariant):
        snapshot.check_route(broken)


@pytest.mark.parametrize("sound", [PLAIN, FULL, UNPROMOTED, replace(PLAIN, fleets=())])
def test_a_sound_wish_passes(sound: EnvironmentRoute) -> None:
    snapshot.check_route(sound)
