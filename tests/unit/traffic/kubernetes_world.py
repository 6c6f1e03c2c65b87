"""A cluster with a gateway and a few pods of ours, and the router under test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rebake.core.clock import SystemClock
from rebake.kubernetes import names
from rebake.kubernetes.clusters import Clusters
from rebake.kubernetes.owners import Whose, nobody
from rebake.kubernetes.resources import HTTP_ROUTES, PODS, SERVICES, Json, is_true
from rebake.testing.kubernetes import Cluster
from rebake.testing.kubernetes.access import ADMIN_TOKEN
from rebake.testing.kubernetes.controllers.gateway import CLASS
from rebake.testing.kubernetes.target import Target
from rebake.testing.simulated import ManualClock
from rebake.traffic.kubernetes.records import Read
from rebake.traffic.kubernetes.router import KubernetesRouter
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute, RouteObservation

SERVICE, ENVIRONMENT = "shop", "production"
NAMESPACE = "default"
NAME = "shop-production"
GATEWAY = {"gateway": {"name": "public", "hostnames": ["shop.example"]}}
T = TypeVar("T")


class Wished:
    """What the file says; of every environment the same, but for the names that it is called by."""

    def __init__(self, doc: Mapping[str, Any], namespace: str) -> None:
        self.doc = {"instances": 2, "namespace": namespace, **doc}

    def settings(self, _service: str, environment: str) -> Mapping[str, Any]:
        if environment == ENVIRONMENT or "gateway" not in self.doc:
            return self.doc
        return {**self.doc, "gateway": {**self.doc["gateway"], "hostnames": [f"{environment}.example"]}}

    def environments(self, _service: str) -> tuple[str, ...]:
        return (ENVIRONMENT,)


class RouteWorld:
    """Attributes:
    admin: speaks to the API server as somebody else than rebake.
    container: what a pod of this name runs, beside its name.
    """

    def __init__(
        self,
        at: Target,
        kubeconfig: Path,
        doc: Mapping[str, Any],
        clock: ManualClock | SystemClock | None,
        *,
        api: bool,
        class_name: str = CLASS,
    ) -> None:
        self.at, self.admin, self.namespace = at, at.client, at.namespace
        self.wished = Wished(doc, at.namespace)
        self.kubeconfig = kubeconfig
        self.clock = clock or ManualClock()
        self.clusters, self.router = self.new_router()
        self.pods: dict[str, list[str]] = {}
        self.container: Callable[[str], Json] = lambda name: {"image": f"web-{name}"}
        listener = {"name": "web", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}
        body = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": class_name, "listeners": [listener]},
        }
        if "gateway" in doc and api:
            path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{self.namespace}/gateways"
            self.admin.post(path, json=body).raise_for_status()

    @property
    def cluster(self) -> Cluster:
        """Where the cluster is ours."""
        assert self.at.emulated is not None
        return self.at.emulated

    def in_real_time(self, speed: float) -> AbstractContextManager[None]:
        return nullcontext() if self.at.emulated is None else self.at.emulated.in_real_time(speed)

    def new_router(self, whose: Whose = nobody) -> tuple[Clusters, KubernetesRouter]:
        """As after a restart: with nothing remembered."""
        clusters = Clusters({"KUBECONFIG": str(self.kubeconfig)})
        return clusters, KubernetesRouter(clusters, self.wished, self.clock, self.submit, whose=whose)

    @staticmethod
    def submit(read: Callable[[], Read]) -> Future[Read]:
        """Readings are made at once."""
        future: Future[Read] = Future()
        try:
            future.set_result(read())
        except Exception as error:
            future.set_exception(error)
        return future

    def restart(self) -> None:
        self.clusters.close()
        self.clusters, self.router = self.new_router()

    def close(self) -> None:
        self.clusters.close()

    # Pods

    def raise_fleet(
        self,
        fleet: str,
        count: int = 2,
        labels: Mapping[str, str] | None = None,
        *,
        called: Sequence[str] = (),
        environment: str = ENVIRONMENT,
    ) -> list[str]:
        """Pods of a fleet that run, each with its place. Returns the instances.

        Args:
            called: their pods' names, where they are to have other ones.
        """
        had = self.pods.setdefault(fleet, [])
        made = list(called) or [f"{fleet}-{n}" for n in range(len(had) + 1, len(had) + 1 + count)]
        for instance in made:
            own = {names.SERVING: "true", names.USERS: fleet}
            marks = {**names.fleet_labels(SERVICE, environment, fleet), **own}
            container = {"name": "main", "ports": [{"name": "http", "containerPort": 8080}], **self.container(instance)}
            body = {
                "metadata": {"name": instance, "labels": {**marks, names.INSTANCE: instance, **(labels or {})}},
                "spec": {"containers": [container]},
            }
            self.admin.post(PODS.path(self.namespace), json=body).raise_for_status()
        had += made if environment == ENVIRONMENT else []
        self.until(lambda: all(self._is_up(self.pod(one)) for one in made), 60.0)
        return made

    def _is_up(self, pod: Json) -> bool:
        """It has an address; a real one also answers by now, which takes it a moment."""
        return bool(pod["status"].get("podIP")) and (self.at.emulated is not None or is_true(pod, "Ready"))

    def pod(self, name: str) -> Json:
        found: Json = self.admin.get(PODS.path(self.namespace, name)).raise_for_status().json()
        return found

    def serving(self, name: str) -> str:
        return str(self.pod(name)["metadata"]["labels"][names.SERVING])

    # The route

    def fleet(self, fleet: str, weight: int, instances: list[str] | None = None) -> FleetRoute:
        chosen = self.pods[fleet] if instances is None else instances
        return FleetRoute(fleet, tuple(Endpoint(i, f"{self.pod(i)['status']['podIP']}:8080") for i in chosen), weight)

    def route(self, *fleets: FleetRoute, preview: str | None = None) -> EnvironmentRoute:
        return EnvironmentRoute(SERVICE, ENVIRONMENT, "shop.example", fleets, preview=preview)

    def observe(self) -> RouteObservation | None:
        return self.router.observe(SERVICE, ENVIRONMENT)

    def served(self, route: EnvironmentRoute) -> RouteObservation:
        """Apply as an engine does, until it is read back whole."""

        def whole() -> RouteObservation | None:
            found = self.observe()
            return found if found is not None and found.version == route.version else None

        self.router.apply(route)
        return self.until(whole)

    def healthy(self, fleet: str) -> bool:
        found = self.observe()
        return found is not None and found.healthy.get(fleet) == frozenset(self.pods[fleet])

    def shifted(self, route: EnvironmentRoute) -> RouteObservation:
        """As `served`, each fleet found healthy first."""
        idle = [FleetRoute(one.fleet, one.endpoints, 0) for one in route.fleets]
        now = self.observe()
        if now is None:
            self.served(self.route(*idle))
        self.until(lambda: all(self.healthy(one.fleet) for one in route.fleets))
        return self.served(route)

    def shares(self) -> dict[str, float]:
        """By fleet, who really gets which requests; `""`: nobody."""
        services = {names.route_name(SERVICE, ENVIRONMENT, fleet): fleet for fleet in self.pods}
        found = self.cluster.gateway.shares(NAMESPACE, NAME)
        return {services.get(name, name): round(share, 6) for name, share in found.items()}

    def live(self, gateway: bool = True) -> Json:
        kind = HTTP_ROUTES if gateway else SERVICES
        found: Json = self.admin.get(kind.path(NAMESPACE, NAME)).raise_for_status().json()
        return found

    def force(self, body: Json, manager: str = "argo") -> None:
        """Somebody else applies a part of the HTTPRoute."""
        whole = {"apiVersion": HTTP_ROUTES.api_version, "kind": "HTTPRoute", "metadata": {"name": NAME}, **body}
        self.admin.patch(
            HTTP_ROUTES.path(NAMESPACE, NAME),
            params={"fieldManager": manager, "force": "true"},
            json=whole,
            headers={"Content-Type": "application/apply-patch+yaml"},
        ).raise_for_status()

    def writes(self) -> int:
        return sum(one.attempt.verb in ("create", "patch", "update", "delete") for one in self.cluster.asked)

    def until(self, condition: Callable[[], T | None], seconds: float = 20.0) -> T:
        """Let controllers and watches come to rest until it is so. The cluster's own time stands still."""
        deadline = time.monotonic() + seconds
        while True:
            if self.at.emulated is not None:
                self.at.emulated.settle()
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline, f"not so within {seconds:g}s: {found!r}"
            threading.Event().wait(0.002)


@contextmanager
def world(
    folder: Path, doc: Mapping[str, Any], clock: ManualClock | SystemClock | None = None, *, api: bool = True
) -> Iterator[RouteWorld]:
    """On an emulated cluster. Args: api: whether it has the Gateway API."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with Cluster(gateway=api) as cluster, httpx.Client(base_url=cluster.url, headers=headers) as admin:
        at = Target(admin, NAMESPACE, cluster)
        made = RouteWorld(at, cluster.write_kubeconfig(folder / "kubeconfig"), doc, clock, api=api)
        try:
            yield made
        finally:
            made.close()
