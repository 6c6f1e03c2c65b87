"""Whole rollouts on a real cluster under load. Without `KUBECONFIG` they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.kubernetes import names
from tests.e2e.roads import Roads, roads
from tests.e2e.site import until

pytestmark = pytest.mark.real
CANARY = "    strategy: {canary: {steps: [10%, 50%], hold: 15s}}\n    judge: {min_requests: 20}\n    soak: 5m\n"


SCALED = "    strategy: blue-green\n    soak: 5m\n"


@pytest.fixture
def scaled(tmp_path: Path) -> Iterator[Roads]:
    with roads(tmp_path, gateway=False) as site:
        site.block = "      autoscale: {max: 5}\n"
        site.describe(SCALED)
        site.edit_file("run:\n", "run:\n  resources: {memory: 128MiB, cpu: 0.1}\n")
        yield site


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Roads]:
    with roads(tmp_path, gateway=True) as site:
        site.describe(CANARY)
        yield site


def test_a_canary_by_weights_is_promoted_under_load_and_a_bad_one_taken_back(shop: Roads) -> None:
    assert shop.ship("one").code == 0
    with shop.users() as load:
        good = shop.ship("two")
        assert good.code == 0, good.out + good.err
        assert good.doc["outcome"] == "promoted"
        assert good.doc["requests"]["candidate"]["total"] > 100
        assert set(load.report().statuses) == {"2xx"}, load.report()
        bad = shop.ship("bad", fail_every=2)
        assert bad.code == 3, bad.out + bad.err
        assert "bad answer" in bad.doc["reason"]
        assert bad.doc["requests"]["stable"]["errors"] == 0
        until(lambda: shop.weights() == [10_000])
    met = load.stop()
    assert met.lost == 0
    assert 0 < met.statuses.pop("5xx") < met.statuses.pop("2xx") / 50, "only the bad release's own"
    assert not met.statuses


def test_what_an_autoscaler_made_of_a_fleet_is_left_to_it_and_the_next_fleet_begins_so(scaled: Roads) -> None:
    assert scaled.ship("one").code == 0
    ((name, size),) = scaled.sizes().items()
    assert size == 2
    path = scaled.at.of("apps/v1", "deployments", name, "scale")
    grown = {"spec": {"replicas": 4}}
    headers = {"Content-Type": "application/merge-patch+json"}
    scaled.at.client.patch(path, json=grown, headers=headers).raise_for_status()
    until(lambda: len(scaled.items(scaled.at.core("pods"))) == 4)
    done = scaled.ship("two")
    assert done.code == 0, done.out + done.err
    assert sorted(scaled.sizes().values()) == [4, 4]
    assert scaled.status()["instances"], "told without those that the autoscaler added"
    assert scaled.rebake("drift", "production", "--json").code == 0


def test_a_fleet_is_spread_over_nodes_beside_one_that_is_there(scaled: Roads) -> None:
    nodes = [one for one in scaled.items("/api/v1/nodes") if not one["spec"].get("unschedulable")]
    if len(nodes) < 2:
        pytest.skip("needs two nodes")
    assert scaled.ship("one").code == 0
    assert scaled.ship("two").code == 0
    pods = scaled.items(scaled.at.core("pods"))
    where = {(one["metadata"]["labels"][names.FLEET], one["spec"]["nodeName"]) for one in pods}
    assert len(pods) == len(where) == 4
