"""A site on the real cluster that `KUBECONFIG` names: command line, agent, registry, Prometheus, gateway: all real."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rebake.core.home import Home
from rebake.kubernetes import names
from rebake.release.manifest import Health, Resources, RunContract
from rebake.testing.gateway import GatewayStandIn
from rebake.testing.gateway.standin import CONTROLLER
from rebake.testing.images import ImageReleases
from rebake.testing.kubernetes.target import Target, target
from rebake.tour.load import Load
from tests.e2e.harbour import FILE
from tests.e2e.site import SERVER, Done, Site, until
from tests.gateways import CLASSES
from tests.prometheus import prometheus

GATEWAY_API = "gateway.networking.k8s.io/v1"
NAME = "shop-production"


class Roads(Site):
    """Attributes: at: the namespace. gateway: which answers the users."""

    def __init__(self, root: Path, at: Target, block: str, gateway: GatewayStandIn | None = None) -> None:
        self.at, self.block, self.gateway = at, block, gateway
        self.resources = Resources(cpu_millis=100)
        super().__init__(root)
        self.releases = ImageReleases(Home(self.home).store)

    def describe(self, more: str, **changes: str) -> None:
        registry = os.environ["REBAKE_TEST_REGISTRY"].removesuffix("/shop")
        parts = {"kubeconfig": os.environ["KUBECONFIG"], "namespace": self.at.namespace, "registry": registry}
        text = FILE.format(**parts, block=self.block, more=more)
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        self.write("rebake.yaml", text)

    def ship(self, text: str, *words: str, fail_every: int = 0) -> Done:
        """Args: fail_every: which of its answers at `/` are failures; 0: none."""
        health = Health(interval_ms=1000, start_timeout_ms=60_000)
        run = RunContract(("python", "-u", "server.py"), 8000, health, drain_ms=1000, resources=self.resources)
        source = SERVER.replace('TEXT = "one"', f'TEXT = "{text}"').replace(
            "FAIL_EVERY = 0", f"FAIL_EVERY = {fail_every}"
        )
        made = self.releases.add(run, {"app/server.py": source})
        return self.deploy("--release", made.digest, *words)

    def users(self, rate: float = 100.0) -> Load:
        assert self.gateway is not None
        at = until(lambda: self.gateway and self.gateway.address(self.at.namespace, "public", "web"))
        return Load(f"http://{at}", rate)

    def weights(self) -> list[int]:
        """Of the users' rule, as it is written."""
        found = self.at.client.get(self.at.of(GATEWAY_API, "httproutes", NAME))
        return (
            [int(one["weight"]) for one in found.json()["spec"]["rules"][0]["backendRefs"]] if found.is_success else []
        )

    def sizes(self) -> dict[str, int]:
        """How many pods each fleet is to have, by the name of its Deployment."""
        rows = self.items(self.at.of("apps/v1", "deployments"))
        return {str(one["metadata"]["name"]): int(one["spec"]["replicas"]) for one in rows}

    def edit_file(self, before: str, after: str) -> None:
        text = (self.folder / "rebake.yaml").read_text()
        assert before in text
        self.write("rebake.yaml", text.replace(before, after))

    def items(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.at.client.get(path).json()["items"]
        return found

    def left(self) -> list[str]:
        """Everything of ours that the namespace still has."""
        paths = [self.at.core(one) for one in ("pods", "services", "secrets")]
        paths += [self.at.of("apps/v1", "deployments"), self.at.of(GATEWAY_API, "httproutes")]
        return [
            f"{path}/{one['metadata']['name']}"
            for path in paths
            for one in self.items(path)
            if (one["metadata"].get("labels") or {}).get(names.MANAGED) == names.MANAGER
        ]


@contextmanager
def roads(root: Path, *, gateway: bool) -> Iterator[Roads]:
    """At the end nothing of ours may be left in the namespace, nor on this machine. Without `KUBECONFIG`: skipped."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a real cluster: KUBECONFIG and REBAKE_TEST_REGISTRY, see docs/kubernetes.md")
    with ExitStack() as stack:
        at = stack.enter_context(target(os.environ))
        block, made = "", None
        if gateway:
            elsewhere = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # what is below root is the site's
            made = stack.enter_context(_gateway(elsewhere, at))
            (elsewhere / "prometheus").mkdir()
            server = stack.enter_context(
                prometheus(elsewhere / "prometheus", [made.statistics], metrics_path="/stats/prometheus")
            )
            block = (
                "      gateway: {name: public}\n"
                f'      traffic: {{prometheus: "http://{server}", from: envoy-gateway}}\n'
            )
        site = Roads(root, at, block, made)
        try:
            yield site
        finally:
            left_running = site.clear()
        assert not left_running, f"left running: {left_running}"
        until(lambda: not site.left(), 60)


@contextmanager
def _gateway(root: Path, at: Target) -> Iterator[GatewayStandIn]:
    name = at.namespace
    class_ = {"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": name}}
    at.client.post(CLASSES, json={**class_, "spec": {"controllerName": CONTROLLER}}).raise_for_status()
    try:
        listener = {"name": "web", "port": 80, "protocol": "HTTP"}
        body = {
            "apiVersion": GATEWAY_API,
            "kind": "Gateway",
            "metadata": {"name": "public"},
            "spec": {"gatewayClassName": name, "listeners": [listener]},
        }
        at.client.post(at.of(GATEWAY_API, "gateways"), json=body).raise_for_status()
        (root / "gateway").mkdir()
        with GatewayStandIn(Path(os.environ["KUBECONFIG"]), at.namespace, root / "gateway", name) as made:
            yield made
    finally:
        at.client.delete(f"{CLASSES}/{name}")
