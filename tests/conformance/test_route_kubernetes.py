"""A cluster's route passes what every route must do for an engine, by a gateway's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.traffic.kubernetes_world import GATEWAY, NAMESPACE, RouteWorld, world

from rebake.kubernetes import names
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
