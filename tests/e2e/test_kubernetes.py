"""Whole rollouts on a cluster by the real command line and agent: API server emulated, registry and Prometheus real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebake.kubernetes import names
from rebake.testing.kubernetes import Behaviour
from rebake.testing.registry_server import RegistryServer
from tests.e2e.harbour import BY_SERVICE, CANARY, NAME, Harbour, harbour
from tests.e2e.site import until

pytestmark = pytest.mark.real


@pytest.fixture
def plain(tmp_path: Path, registry: RegistryServer) -> Iterator[Harbour]:
    """Without a gateway."""
    with harbour(tmp_path, registry.host, gateway=False) as site:
        site.describe(BY_SERVICE)
        yield site


@pytest.fixture
def shop(tmp_path: Path, registry: RegistryServer) -> Iterator[Harbour]:
    with harbour(tmp_path, registry.host, gateway=True) as site:
        site.describe(CANARY)
        yield site


def _chosen(site: Harbour) -> str:
    service = site.admin("services", NAME)
    assert service is not None
    return str(service["spec"]["selector"][names.FLEET])


def _rollout(site: Harbour) -> dict[str, Any]:
    found: dict[str, Any] = site.status()["rollout"] or {}
    return found


def _settings_of(site: Harbour, fleet: str) -> list[str]:
    """What the pods of a fleet are told of the environment's settings."""
    from tests.e2e.harbour import _items

    pods = [
        one
        for one in _items(site.cluster, "pods")
        if one["metadata"]["labels"].get(names.FLEET) == fleet and "deletionTimestamp" not in one["metadata"]
    ]
    names_of_maps = {
        source["configMapRef"]["name"]
        for pod in pods
        for one in pod["spec"]["containers"]
        for source in one.get("envFrom", ())
        if "configMapRef" in source
    }
    maps = [one for one in _items(site.cluster, "configmaps") if one["metadata"]["name"] in names_of_maps]
    return [str(one.get("data", {}).get("GREETING")) for one in maps]


def test_without_a_gateway_the_service_moves_and_undo_brings_the_settings_back(plain: Harbour) -> None:
    plain.describe("    env: {GREETING: hello}\n" + BY_SERVICE)
    done = plain.ship()
    assert done.code == 0, done.err
    first = _chosen(plain)
    assert _settings_of(plain, first) == ["hello"]
    plain.describe("    env: {GREETING: goodbye}\n" + BY_SERVICE)
    done = plain.ship("two")
    assert done.code == 0, done.err
    second = _chosen(plain)
    assert second != first
    assert _settings_of(plain, second) == ["goodbye"]
    undone = plain.rebake("undo", "production", "--json")
    assert undone.code == 0, undone.err
    assert undone.doc["warm"]
    until(lambda: _chosen(plain) == first)
    assert _settings_of(plain, first) == ["hello"]


def _behind(site: Harbour) -> dict[str, int]:
    """Pods that users of the Service reach, by fleet."""
    from rebake.traffic.kubernetes.reading import SERVICE_OF_SLICE
    from tests.e2e.harbour import _items

    fleets = {one["metadata"]["name"]: one["metadata"]["labels"][names.FLEET] for one in _items(site.cluster, "pods")}
    rows = [
        row
        for one in _items(site.cluster, "endpointslices")
        if one["metadata"]["labels"][SERVICE_OF_SLICE] == NAME
        for row in one["endpoints"] or ()
    ]
    met = [fleets[row["targetRef"]["name"]] for row in rows if row["conditions"]["ready"]]
    return {fleet: met.count(fleet) for fleet in met}


def test_without_a_gateway_a_canary_goes_by_pods_and_back(plain: Harbour) -> None:
    plain.block = "      canary_by: instances\n"
    plain.describe("    strategy: {canary: {steps: [33%], hold: 2s}}\n    undecided: promote\n    soak: 5m\n")
    assert plain.ship().code == 0
    first = _chosen(plain)
    done = plain.ship("two", "--detach")
    assert done.code == 0, done.err
    until(lambda: _rollout(plain).get("state") == "holding", 60)
    second = next(one for one in _behind(plain) if one != first)
    assert _behind(plain) == {first: 2, second: 1}
    assert plain.status()["route"], "the share is told"
    until(lambda: _rollout(plain).get("state") == "soaking", 60)
    until(lambda: _behind(plain) == {first: 1, second: 2})
    stopped = plain.rebake("stop", "production")
    assert stopped.code in (0, 6), stopped.err
    until(lambda: _behind(plain) == {first: 2})
    assert _chosen(plain) == first


CHECKS = """\
checks:
  - {name: smoke, http: {path: /, expect_body: one}}
  - name: told
    command: [python3, -c, "import os, urllib.request as u; u.urlopen(os.environ['REBAKE_URL'] + '/healthz').read()"]
"""


def test_checks_reach_pods_through_the_api_server(plain: Harbour) -> None:
    plain.describe(BY_SERVICE + CHECKS)
    done = plain.ship("one")
    assert done.code == 0, done.out + done.err
    asked = [one.attempt for one in plain.cluster.asked if one.attempt.subresource == "portforward"]
    assert len({one.name for one in asked}) == 2, "each of both pods"
    refused = plain.ship("two")
    assert refused.code == 3, refused.out + refused.err
    assert "the body does not contain 'one'" in refused.out + refused.err


def test_another_home_with_the_same_names_is_told_whose_they_are_and_touches_nothing(
    plain: Harbour, tmp_path: Path
) -> None:
    assert plain.ship().code == 0
    first, behind = _chosen(plain), _behind(plain)
    (tmp_path / "other").mkdir()
    other = Harbour(tmp_path / "other", plain.cluster, plain.registry, "", None)
    try:
        other.describe(BY_SERVICE)
        refused = other.ship("two")
        assert refused.code == 5, refused.out + refused.err
        assert "that of ledger" in refused.out + refused.err
        assert str(plain.home) in refused.out + refused.err
        assert (_chosen(plain), _behind(plain)) == (first, behind)
        assert plain.status()["stable"]["healthy"] == 2
    finally:
        left = other.clear()
    assert not left
    assert _behind(plain) == behind


def test_a_release_that_cannot_start_is_refused_with_its_log_and_nobody_meets_it(plain: Harbour) -> None:
    assert plain.ship().code == 0
    first = _chosen(plain)
    bad = plain.seal("bad", Behaviour(exits=1, log=("no such table: users",)))
    done = plain.deploy("--release", bad)
    assert done.code == 3, done.out + done.err
    assert "no such table: users" in done.out + done.err
    assert _chosen(plain) == first


def test_a_canary_is_promoted_on_what_prometheus_saw(shop: Harbour) -> None:
    assert shop.ship().code == 0
    done = shop.ship("two")
    assert done.code == 0, done.out + done.err
    verdict = done.doc["verdict"]
    assert "0 bad answers of" in verdict["reason"], "it was healthy before the last step"
    assert verdict["candidate"]["total"] >= 20
    assert verdict["candidate"]["errors"] == 0
    assert sorted(shop.weights()) == [2_000, 8_000], "the soak keeps a hold-back on stable"


def test_a_release_that_fails_users_is_taken_back_with_its_numbers(shop: Harbour) -> None:
    assert shop.ship().code == 0
    assert shop.gateway is not None
    bad = shop.seal("bad")
    shop.gateway.failing.add(bad)
    done = shop.deploy("--release", bad)
    assert done.code == 3, done.out + done.err
    assert done.doc["outcome"] == "rolled-back"
    assert "bad answer" in done.doc["reason"]
    assert done.doc["requests"]["candidate"]["errors"] > 0
    assert done.doc["requests"]["stable"]["errors"] == 0
    until(lambda: shop.weights() == [10_000])


def test_a_rollout_goes_on_where_it_was_when_the_agent_is_killed(shop: Harbour) -> None:
    assert shop.ship().code == 0
    done = shop.ship("two", "--detach")
    assert done.code == 0, done.err
    until(lambda: _rollout(shop).get("state") == "holding", 60)
    shop.kill_agent()
    assert sorted(shop.weights()) == [5_000, 5_000], "users do not need the agent"
    assert shop.rebake("agent", "start").code == 0
    until(lambda: _rollout(shop).get("state") == "soaking", 90)
    assert sorted(shop.weights()) == [2_000, 8_000]
    history = shop.rebake("ledger", "show", "--json", "-e", "production", "-n", "5000").doc["entries"]
    launched = [e["body"]["action"] for e in history if e["kind"] == "intent" and "launch:" in e["body"]["action"]]
    assert len(launched) == len(set(launched)) == 4
