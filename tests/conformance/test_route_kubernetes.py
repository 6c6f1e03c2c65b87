"""A cluster's route passes what every route must do for an engine: by a gateway's weights, and by shares of pods.

`TestRouteByEnvoy` and `TestRouteByInstances` run on the cluster that `KUBECONFIG` names, or else on the emulated one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.gateways import Callers, envoy_world, route_world
from tests.unit.traffic.kubernetes_world import GATEWAY, NAMESPACE, RouteWorld, world

from rebake.kubernetes import names
from rebake.kubernetes.resources import ENDPOINT_SLICES
from rebake.testing.conformance.route import ENVIRONMENT, SERVICE, RouteConformance
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute, TrafficRouter


class TestRouteByAGateway(RouteConformance):
    shop: RouteWorld

    @pytest.fixture
    def router(self, tmp_path: Path) -> Iterator[TrafficRouter]:
        with world(tmp_path, GATEWAY) as made:
            self.shop = made
            with made.cluster.in_real_time(20.0):
                yield made.router

    @pytest.fixture
    def route(self, router: TrafficRouter) -> EnvironmentRoute:
        fleets = [self._fleet("s1", 10_000, "stable", ENVIRONMENT), self._fleet("c1", 0, "candidate", ENVIRONMENT)]
        return EnvironmentRoute(SERVICE, ENVIRONMENT, "shop.example", tuple(fleets))

    @pytest.fixture
    def neighbour(self, route: EnvironmentRoute) -> EnvironmentRoute:
        fleets = (self._fleet("s1", 10_000, "staged", "staging"),)
        return replace(route, environment="staging", fleets=fleets)

    def _fleet(self, fleet: str, weight: int, instance: str, environment: str) -> FleetRoute:
        self.shop.raise_fleet(fleet, called=[instance], environment=environment)
        address = f"{self.shop.pod(instance)['status']['podIP']}:8080"
        return FleetRoute(fleet, (Endpoint(instance, address),), weight)

    def shares(self, route: EnvironmentRoute) -> Mapping[str, float]:
        fleets = {names.route_name(SERVICE, route.environment, one.fleet): one.fleet for one in route.fleets}
        name = names.environment_name(SERVICE, route.environment)
        if self.shop.router.observe(SERVICE, route.environment) is None:
            return {}
        with self.shop.cluster.store.changed:
            found = self.shop.cluster.gateway.shares(NAMESPACE, name)
        return {fleets[name]: share for name, share in found.items() if name}


@pytest.mark.real
class TestRouteByEnvoy(TestRouteByAGateway):
    """The same controller with a real Envoy, asked by real users."""

    callers: Callers

    @pytest.fixture
    def router(self, tmp_path: Path) -> Iterator[TrafficRouter]:
        with envoy_world(tmp_path) as (self.shop, self.callers), self.shop.in_real_time(20.0):
            yield self.shop.router

    def shares(self, route: EnvironmentRoute) -> Mapping[str, float]:
        wish = self.shop.wished.settings(SERVICE, route.environment)
        met = self.callers.met(wish["gateway"]["hostnames"][0])
        found: dict[str, float] = {}
        for pod, count in met.items():
            fleet = self.shop.pod(pod)["metadata"]["labels"][names.FLEET] if pod else ""
            found[fleet] = found.get(fleet, 0.0) + count / met.total()
        return {} if set(found) == {""} else found


class TestRouteByInstances(TestRouteByAGateway):
    """Without a gateway. Stable has two pods more that were given to nobody, so that one of the candidate's is a
    quarter."""

    @pytest.fixture
    def router(self, tmp_path: Path) -> Iterator[TrafficRouter]:
        with route_world(tmp_path, {"canary_by": "instances"}) as self.shop, self.shop.in_real_time(20.0):
            yield self.shop.router

    @pytest.fixture
    def route(self, router: TrafficRouter) -> EnvironmentRoute:
        fleets = [self._fleet("s1", 10_000, "stable", ENVIRONMENT), self._fleet("c1", 0, "candidate", ENVIRONMENT)]
        for pod in self.shop.raise_fleet("s1", called=["spare-1", "spare-2"]):
            self.shop.admin.patch(
                f"/api/v1/namespaces/{self.shop.namespace}/pods/{pod}",
                json={"metadata": {"labels": {names.INSTANCE: None}}},
                headers={"Content-Type": "application/merge-patch+json"},
            ).raise_for_status()
        return EnvironmentRoute(SERVICE, ENVIRONMENT, "shop.example", tuple(fleets))

    @staticmethod
    def dealt(route: EnvironmentRoute, candidate_weight: int) -> EnvironmentRoute:
        wish = TestRouteByAGateway.dealt(route, candidate_weight)
        if not 0 < candidate_weight < 10_000:
            return wish
        return replace(wish, fleets=tuple(replace(one, called=1) for one in wish.fleets))

    def shares(self, route: EnvironmentRoute) -> Mapping[str, float]:
        name = names.environment_name(SERVICE, route.environment)
        if self.shop.router.observe(SERVICE, route.environment) is None:
            return {}
        chosen = {"labelSelector": f"kubernetes.io/service-name={name}"}
        slices = self.shop.admin.get(ENDPOINT_SLICES.path(self.shop.namespace), params=chosen).json()["items"]
        rows = [row for one in slices for row in one["endpoints"] or () if row["conditions"]["ready"]]
        fleets = [self.shop.pod(row["targetRef"]["name"])["metadata"]["labels"][names.FLEET] for row in rows]
        return {fleet: fleets.count(fleet) / len(fleets) for fleet in set(fleets)}
