"""A site on platform `kubernetes`: the real command line and agent, a real registry and Prometheus, an emulated cluster
whose gateway counts the requests that its shares give each fleet, as Istio's would."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, make_wsgi_app

from rebake.core.home import Home
from rebake.kubernetes import names
from rebake.release.manifest import Health, RunContract
from rebake.testing.images import ImageReleases
from rebake.testing.kubernetes import Behaviour, Cluster
from tests.e2e.site import SERVER, Done, Site, until
from tests.prometheus import prometheus

NAMESPACE = "shop"
NAME = "shop-production"
LABELS = ("reporter", "destination_service_namespace", "destination_service_name", "response_code")
FILE = """\
service: shop
bake: {{builder: files}}
run:
  command: [python, -u, server.py]
  port: 8000
  health: {{path: /healthz, interval: 1s, start_timeout: 60s}}
  drain: 1s
environments:
  production:
    platform: kubernetes
    instances: 2
    drift_interval: 1s
    kubernetes:
      kubeconfig: {kubeconfig}
      namespace: {namespace}
      registry: {registry}/shop
{block}
{more}
"""
BY_SERVICE = "    strategy: blue-green\n    soak: 5m\n"
CANARY = "    strategy: {canary: {steps: [50%], hold: 2s}}\n    judge: {min_requests: 20}\n    soak: 5m\n"
REQUESTS_PER_SECOND = 200


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Gateway:
    """Counts what a gateway would: users' requests, by the shares that are really programmed.

    Attributes:
        failing: digests of releases that fail half of what they get.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.failing: set[str] = set()
        registry = CollectorRegistry()
        self._cluster = cluster
        self._requests = Counter("istio_requests", "requests", LABELS, registry=registry)
        self._owed: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._server = make_server("127.0.0.1", 0, make_wsgi_app(registry), handler_class=_Quiet)
        self.address = f"127.0.0.1:{self._server.server_port}"
        works = (lambda: self._server.serve_forever(0.02), self._deal)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def _deal(self) -> None:
        while not self._over.wait(0.05):
            if self._cluster_route() is None:
                continue
            for backend, share in self._cluster.gateway.shares(NAMESPACE, NAME).items():
                failing = 0.5 if backend and self._fails(backend) else 0.0
                self._answer(backend, 503, share * failing)
                self._answer(backend, 200, share * (1.0 - failing))

    def _answer(self, backend: str, code: int, share: float) -> None:
        """Whole requests; what is left over is owed."""
        owed = self._owed.get((backend, code), 0.0) + share * REQUESTS_PER_SECOND * 0.05
        self._owed[backend, code] = owed - int(owed)
        if int(owed):
            self._requests.labels("source", NAMESPACE, backend, str(code)).inc(int(owed))

    def _cluster_route(self) -> dict[str, Any] | None:
        return next(iter(self.items("httproutes", names.OURS, NAME)), None)

    def items(self, plural: str, _selector: str = "", name: str = "") -> list[dict[str, Any]]:
        """What the cluster holds of a kind in our namespace."""
        with self._cluster.store.changed:
            from rebake.testing.kubernetes import resources as kinds

            chosen = next(one for one in (*kinds.BUILT_IN, *kinds.GATEWAY_API) if one.plural == plural)
            found = self._cluster.store.all(chosen, NAMESPACE)
        return [one for one in found if not name or one["metadata"]["name"] == name]

    def _fails(self, backend: str) -> bool:
        service = next(iter(self.items("services", name=backend)), None)
        fleet = None if service is None else service["spec"]["selector"].get(names.FLEET)
        images = [
            one["image"]
            for pod in self.items("pods")
            if pod["metadata"].get("labels", {}).get(names.FLEET) == fleet
            for one in pod["spec"]["containers"]
        ]
        return any(digest in image for digest in self.failing for image in images)


class Harbour(Site):
    """Attributes: gateway: None where the file names none."""

    def __init__(self, root: Path, cluster: Cluster, registry: str, block: str, gateway: Gateway | None) -> None:
        self.cluster, self.registry, self.block, self.gateway = cluster, registry, block, gateway
        self.kubeconfig = cluster.write_kubeconfig(root / "kubeconfig", namespace=NAMESPACE)
        super().__init__(root)
        self.releases = ImageReleases(Home(self.home).store)

    def describe(self, more: str, **changes: str) -> None:
        parts = {"kubeconfig": self.kubeconfig, "namespace": NAMESPACE, "registry": self.registry}
        text = FILE.format(**parts, block=self.block, more=more)
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        self.write("rebake.yaml", text)

    def seal(self, text: str, behaviour: Behaviour | None = None) -> str:
        run = RunContract(
            ("python", "-u", "server.py"), 8000, Health(interval_ms=1000, start_timeout_ms=60_000), drain_ms=1000
        )
        made = self.releases.add(run, {"app/server.py": SERVER.replace('TEXT = "one"', f'TEXT = "{text}"')})
        answers = {"/healthz": (200, "fine"), "/": (200, text)}
        self.cluster.behave(made.digest, behaviour or Behaviour(answers=answers))
        return made.digest

    def ship(self, text: str = "one", *words: str) -> Done:
        return self.deploy("--release", self.seal(text), *words)

    def weights(self) -> list[int]:
        """Of the users' rule, as it is written."""
        route = self.admin("httproutes", NAME)
        return [int(one["weight"]) for one in route["spec"]["rules"][0]["backendRefs"]] if route else []

    def admin(self, plural: str, name: str) -> dict[str, Any] | None:
        return next(iter(_items(self.cluster, plural, name)), None)

    def left(self) -> list[str]:
        """Everything of ours that the cluster still has."""
        plurals = ("deployments", "pods", "services", "httproutes", "secrets", "poddisruptionbudgets", "endpointslices")
        return [
            f"{plural}/{one['metadata']['name']}"
            for plural in plurals
            for one in _items(self.cluster, plural)
            if one["metadata"].get("labels", {}).get(names.MANAGED) == names.MANAGER
        ]


def _items(cluster: Cluster, plural: str, name: str = "") -> list[dict[str, Any]]:
    from rebake.testing.kubernetes import resources as kinds

    chosen = next(one for one in (*kinds.BUILT_IN, *kinds.GATEWAY_API) if one.plural == plural)
    with cluster.store.changed:
        found = cluster.store.all(chosen, NAMESPACE)
    return [one for one in found if not name or one["metadata"]["name"] == name]


@contextlib.contextmanager
def harbour(root: Path, registry: str, *, gateway: bool) -> Iterator[Harbour]:
    """A namespace nobody deployed to yet. At the end nothing of ours may be left in it, nor on this machine."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        admin = stack.enter_context(_client(cluster))
        admin.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}}).raise_for_status()
        block, counting = "", None
        if gateway:
            listener = {"name": "web", "port": 80, "protocol": "HTTP"}
            body = {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": "public"},
                "spec": {"gatewayClassName": "emulated", "listeners": [listener]},
            }
            path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/gateways"
            admin.post(path, json=body).raise_for_status()
            counting = Gateway(cluster)
            stack.callback(counting.close)
            elsewhere = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(prometheus(elsewhere, [counting.address]))
            block = (
                "      gateway: {name: public, hostnames: [shop.example]}\n"
                f'      traffic: {{prometheus: "http://{server}", from: istio}}\n'
            )
        stack.enter_context(cluster.in_real_time(5.0))
        site = Harbour(root, cluster, registry, block, counting)
        try:
            yield site
        finally:
            left_running = site.clear()
        assert not left_running, f"left running: {left_running}"
        until(lambda: not site.left(), 20)


def _client(cluster: Cluster) -> Any:
    import httpx

    from rebake.testing.kubernetes.access import ADMIN_TOKEN

    return httpx.Client(base_url=cluster.url, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
