"""Gateways and HTTPRoutes of the emulated cluster: what is written, what is said, what is done."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.testing.kubernetes import Behaviour, Cluster
from tests.unit.testing.bench import APPS, BAD, CORE, GATEWAY, GOOD, Bench, container_of, deployment, service

Json = dict[str, Any]
ROUTE = f"{GATEWAY}/httproutes/web"


def _route(**weights: int) -> Json:
    backends = [{"name": name, "port": 80, "weight": weight} for name, weight in weights.items()]
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}
    spec = {"parentRefs": [parent], "rules": [{"backendRefs": backends}]}
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    return {**kind, "metadata": {"name": "web"}, "spec": spec}


@pytest.fixture
def both(bench: Bench) -> Bench:
    """Two fleets behind two Services, and a Gateway."""
    for name, image in (("stable", GOOD), ("candidate", BAD)):
        bench.make(f"{APPS}/deployments", deployment(name, 2, image))
        bench.make(f"{CORE}/services", service(name, name))
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": "emulated", "listeners": [listener]}
    bench.make(f"{GATEWAY}/gateways", {"metadata": {"name": "edge"}, "spec": spec})
    bench.cluster.advance(5)
    return bench


def _said(bench: Bench) -> dict[str, tuple[str, str, int]]:
    rows = bench.get(ROUTE)["status"]["parents"][0]["conditions"]
    return {one["type"]: (one["status"], one["reason"], one["observedGeneration"]) for one in rows}


def test_weights_are_told_and_done(both: Bench) -> None:
    assert both.apply(ROUTE, _route(stable=95, candidate=5)).status_code == 201
    both.cluster.settle()
    assert _said(both) == {"Accepted": ("True", "Accepted", 1), "ResolvedRefs": ("True", "ResolvedRefs", 1)}
    assert both.cluster.gateway.shares("default", "web") == {"stable": 0.95, "candidate": 0.05}
    gateway = both.get(f"{GATEWAY}/gateways/edge")["status"]
    assert gateway["listeners"][0]["attachedRoutes"] == 1
    assert {one["type"]: one["status"] for one in gateway["conditions"]} == {"Accepted": "True", "Programmed": "True"}


def test_what_is_written_is_done_only_after_the_gateways_time(both: Bench) -> None:
    both.apply(ROUTE, _route(stable=1, candidate=0))
    both.cluster.settle()
    both.cluster.gateway.lag_seconds = 3
    assert both.apply(ROUTE, _route(stable=0, candidate=1)).json()["metadata"]["generation"] == 2
    both.cluster.advance(2)
    assert both.cluster.gateway.shares("default", "web") == {"stable": 1.0}
    assert _said(both)["Accepted"][2] == 1
    both.cluster.advance(2)
    assert both.cluster.gateway.shares("default", "web") == {"candidate": 1.0}
    assert _said(both)["Accepted"][2] == 2


def test_a_backend_without_ready_endpoints_loses_its_share(both: Bench) -> None:
    both.apply(ROUTE, _route(stable=3, candidate=1))
    both.cluster.behave(BAD, Behaviour(ready=False))
    both.cluster.settle()
    assert both.cluster.gateway.shares("default", "web") == {"stable": 0.75, "": 0.25}


@pytest.mark.parametrize("pause", [0, 5])
def test_a_pod_that_ends_before_the_data_plane_knows_loses_requests(both: Bench, pause: int) -> None:
    body = deployment("stable", 2, GOOD)
    if pause:
        container_of(body)["lifecycle"] = {"preStop": {"sleep": {"seconds": pause}}}
    both.apply(f"{APPS}/deployments/stable", body, force="true").raise_for_status()
    both.apply(ROUTE, _route(stable=1))
    both.cluster.advance(20)
    both.cluster.targets.lag_seconds = 2
    for pod in both.pods("stable"):
        both.http.delete(f"{CORE}/pods/{pod['metadata']['name']}")
        least = 1.0
        for _ in range(80):
            both.cluster.advance(0.25)
            least = min(least, both.cluster.gateway.shares("default", "web").get("stable", 0.0))
        assert least == (1.0 if pause else 0.5)


def test_a_backend_that_is_not_there(both: Bench) -> None:
    both.apply(ROUTE, _route(stable=1, nobody=1))
    both.cluster.settle()
    assert _said(both)["ResolvedRefs"][:2] == ("False", "BackendNotFound")
    assert both.cluster.gateway.shares("default", "web") == {"stable": 0.5, "": 0.5}


def test_a_route_to_no_listener_of_its_name(both: Bench) -> None:
    body = _route(stable=1)
    body["spec"]["parentRefs"][0]["sectionName"] = "https"
    both.apply(ROUTE, body)
    both.cluster.settle()
    assert _said(both)["Accepted"][:2] == ("False", "NoMatchingParent")


def test_a_custom_resource_has_its_own_ways(both: Bench) -> None:
    made = both.apply(ROUTE, _route(stable=1)).json()
    backend = made["spec"]["rules"][0]["backendRefs"][0]
    assert (backend["group"], backend["kind"]) == ("", "Service")
    assert made["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    wrong = both.apply(ROUTE, _route(stable=-1)).json()
    assert wrong["message"] == (
        'HTTPRoute.gateway.networking.k8s.io "web" is invalid: spec.rules[0].backendRefs[0].weight: Invalid value: -1: '
        "spec.rules[0].backendRefs[0].weight in body should be greater than or equal to 0"
    )
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    assert both.http.patch(ROUTE, json={}, headers=headers).status_code == 415
    del made["metadata"]["resourceVersion"]
    unversioned = both.http.put(ROUTE, json=made).json()
    assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in unversioned["message"]


def test_a_service_needs_a_port(both: Bench) -> None:
    body = _route(stable=1)
    del body["spec"]["rules"][0]["backendRefs"][0]["port"]
    assert both.apply(ROUTE, body).json()["message"].endswith("Must have port for Service reference")


def test_a_status_is_written_by_its_own_path_and_nothing_else_is(both: Bench) -> None:
    both.apply(ROUTE, _route(stable=1))
    parent = {"parentRef": {"name": "other"}, "controllerName": "example.org/other", "conditions": []}
    body = {**_route(stable=0), "status": {"parents": [parent]}}
    ignored = both.apply(ROUTE, {**_route(stable=1), "status": {"parents": [parent]}}).json()
    assert "status" not in ignored
    written = both.apply(f"{ROUTE}/status", body, manager="other").json()
    assert written["status"]["parents"][0]["controllerName"] == "example.org/other"
    assert written["spec"]["rules"][0]["backendRefs"][0]["weight"] == 1
    assert written["metadata"]["generation"] == 1
    rows = {one["manager"]: one for one in written["metadata"]["managedFields"]}
    assert (rows["other"]["subresource"], rows["other"]["fieldsV1"]) == ("status", {"f:status": {"f:parents": {}}})
    both.cluster.settle()
    known = [one["controllerName"] for one in both.get(ROUTE)["status"]["parents"]]
    assert known == ["example.org/other", "rebake.testing/gateway-controller"]


def test_two_who_apply_rules_are_in_conflict_over_all_of_them(both: Bench) -> None:
    both.apply(ROUTE, _route(stable=1))
    body = both.apply(ROUTE, _route(stable=0), manager="rival").json()
    assert body["message"] == 'Apply failed with 1 conflict: conflict with "rebake": .spec.rules'


def test_defaults_that_are_left_out_seem_to_change_a_list_that_another_holds(both: Bench) -> None:
    explicit = both.apply(ROUTE, _route(stable=1)).json()
    lists = {name: explicit["spec"][name] for name in ("parentRefs", "rules")}
    assert both.apply(ROUTE, {**_route(), "spec": lists}, manager="second").status_code == 200
    body = both.apply(ROUTE, _route(stable=1), manager="third").json()
    assert body["message"].splitlines()[1:] == ["- .spec.rules", 'conflicts with "second":', "- .spec.rules"]


def test_applying_the_same_again_writes_nothing_though_defaults_were_filled_in(both: Bench) -> None:
    first = both.apply(ROUTE, _route(stable=1)).json()
    both.cluster.clock.advance(60)
    again = both.apply(ROUTE, _route(stable=1)).json()
    assert again == first


def test_a_cluster_without_the_gateway_api_says_so() -> None:
    with Cluster(gateway=False) as cluster, Bench(cluster) as bench:
        assert bench.http.get("/apis/gateway.networking.k8s.io/v1").status_code == 404
        assert "gateway.networking.k8s.io" not in {one["name"] for one in bench.get("/apis")["groups"]}
        assert bench.http.get(f"{GATEWAY}/httproutes").status_code == 404
