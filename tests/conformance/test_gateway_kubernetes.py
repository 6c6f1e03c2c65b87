"""The gateway of the tests, asked by its users: on the cluster that `KUBECONFIG` names, or on the emulated one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.gateways import Callers, envoy_world
from tests.unit.traffic.kubernetes_world import RouteWorld

from rebake.testing.conformance.route import until

pytestmark = pytest.mark.real
API = "gateway.networking.k8s.io/v1"
Json = dict[str, Any]


class Edge:
    def __init__(self, world: RouteWorld, callers: Callers) -> None:
        self.world, self.callers = world, callers
        for name in ("one", "two"):
            world.raise_fleet(name, called=[name])
            labels = world.pod(name)["metadata"]["labels"]
            ports = [{"port": 80, "targetPort": 8080}]
            body = {"metadata": {"name": name}, "spec": {"selector": labels, "ports": ports}}
            world.admin.post(world.at.core("services"), json=body).raise_for_status()
            until(functools.partial(self._is_ready, name), 30.0)

    def _is_ready(self, service: str) -> bool:
        chosen = {"labelSelector": f"kubernetes.io/service-name={service}"}
        slices = self.world.admin.get(self.world.at.of("discovery.k8s.io/v1", "endpointslices"), params=chosen)
        return any(row["conditions"]["ready"] for one in slices.json()["items"] for row in one["endpoints"] or ())

    def route(self, name: str, *rules: Json, host: str = "shop.example") -> None:
        parents = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}]
        spec = {"parentRefs": parents, "hostnames": [host], "rules": rules}
        body = {"apiVersion": API, "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}
        self.world.admin.post(self.world.at.of(API, "httproutes"), json=body).raise_for_status()

    def said(self, name: str) -> dict[str, tuple[str, str, int]]:
        """Of the route as it is now; empty before."""
        item = self.world.admin.get(self.world.at.of(API, "httproutes", name)).json()
        rows = [row for one in item.get("status", {}).get("parents", ()) for row in one["conditions"]]
        return {row["type"]: (row["status"], row["reason"], row["observedGeneration"]) for row in rows}

    def met(self, **headers: str) -> set[str]:
        return set(self.callers.met("shop.example", headers))


def to(*names: str, **match: Any) -> Json:
    backends = [{"name": name, "port": 80, "weight": 1} for name in names]
    return {"backendRefs": backends, **({"matches": [match]} if match else {})}


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with ExitStack() as stack:
        world, callers = stack.enter_context(envoy_world(tmp_path))
        stack.enter_context(world.in_real_time(20.0))
        yield Edge(world, callers)


def test_the_class_the_gateway_and_the_route_say_what_is_done(edge: Edge) -> None:
    edge.route("web", to("one"))
    done = {"Accepted": ("True", "Accepted", 1), "ResolvedRefs": ("True", "ResolvedRefs", 1)}
    until(lambda: edge.said("web") == done)
    gateway = edge.world.admin.get(edge.world.at.of(API, "gateways", "public")).json()["status"]
    assert {row["type"]: row["status"] for row in gateway["conditions"]} == {"Accepted": "True", "Programmed": "True"}
    until(lambda: edge.met() == {"one"})


def test_of_two_routes_at_one_name_the_older_has_the_users_and_both_are_accepted(edge: Edge) -> None:
    edge.route("a-first", to("one"))
    until(lambda: edge.said("a-first"))
    edge.route("b-second", to("two"))
    until(lambda: edge.said("b-second"))
    assert edge.said("b-second")["Accepted"][0] == "True"
    assert edge.met() == {"one"}
    edge.world.admin.delete(edge.world.at.of(API, "httproutes", "a-first")).raise_for_status()
    until(lambda: edge.met() == {"two"})


def test_a_header_is_matched_before_a_path_alone(edge: Edge) -> None:
    edge.route("web", to("one"), to("two", headers=[{"name": "x-tester", "value": "yes"}]))
    until(lambda: edge.said("web"))
    assert (edge.met(), edge.met(**{"x-tester": "yes"})) == ({"one"}, {"two"})


def test_what_the_gateway_cannot_do_is_not_accepted(edge: Edge) -> None:
    edge.route("web", to("one", queryParams=[{"name": "a", "value": "b"}]))
    until(lambda: edge.said("web"))
    assert edge.said("web")["Accepted"][:2] == ("False", "UnsupportedValue")
    assert edge.met() == {""}


def test_a_backend_that_is_not_there_loses_its_share_and_is_named(edge: Edge) -> None:
    edge.route("web", to("one", "nobody"))
    until(lambda: edge.said("web"))
    assert edge.said("web")["ResolvedRefs"][:2] == ("False", "BackendNotFound")
    assert edge.met() == {"one", ""}
