"""A route's world on the cluster that tests run against, emulated or real, and a gateway in it that really answers."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from rebake.app.registries import Publisher
from rebake.kubernetes.resources import Json
from rebake.release.manifest import RunContract
from rebake.testing.gateway import GatewayStandIn
from rebake.testing.gateway.documents import Address
from rebake.testing.gateway.standin import CONTROLLER
from rebake.testing.images import ImageReleases
from rebake.testing.kubernetes.target import Target, target
from tests.clusters import ANYBODY
from tests.servers import COMMAND, SERVER
from tests.unit.traffic.kubernetes_world import GATEWAY, RouteWorld

CLASSES = "/apis/gateway.networking.k8s.io/v1/gatewayclasses"
REQUESTS = 300


@contextmanager
def route_world(folder: Path, doc: Mapping[str, Any], class_name: str = "") -> Iterator[RouteWorld]:
    """In a namespace of its own. On a real cluster pods answer with their names."""
    with target(os.environ) as at:
        emulated = at.emulated
        path = Path(os.environ["KUBECONFIG"]) if emulated is None else emulated.write_kubeconfig(folder / "kubeconfig")
        made = RouteWorld(at, path, doc, None, api="gateway" in doc, class_name=class_name or at.namespace)
        if emulated is None:
            made.container = _Images(folder, os.environ["REBAKE_TEST_REGISTRY"]).container
        try:
            yield made
        finally:
            made.close()


class _Images:
    """What real pods run: one image for each name."""

    def __init__(self, folder: Path, repository: str) -> None:
        self._releases, self._repository = ImageReleases(folder / "images"), repository
        self._publisher = Publisher(self._releases.store, ANYBODY)

    def container(self, name: str) -> Json:
        made = self._releases.add(RunContract(COMMAND, 8080), {"app/server.py": SERVER.format(marker=name, status=200)})
        image = self._publisher.publish(made.digest, self._repository, lambda *_: None).reference
        return {
            "image": image,
            "command": ["python", "server.py", "8080"],
            "env": [{"name": "HOST", "value": "0.0.0.0"}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1},
        }


class Callers:
    """Users of a gateway."""

    def __init__(self, world: RouteWorld, gateway: GatewayStandIn) -> None:
        self._world, self._gateway = world, gateway

    def met(self, host: str, headers: Mapping[str, str] | None = None) -> Counter[str]:
        """Who answered how many of `REQUESTS`: names of pods, or `""` for nobody's."""
        at = self._gateway.address(self._world.namespace, "public", "web")
        assert at is not None
        found: Counter[str] = Counter()
        with httpx.Client(base_url=f"http://{at}", headers={"Host": host, **(headers or {})}) as users:
            for _ in range(REQUESTS):
                answer = users.get("/")
                found[answer.text if answer.status_code == 200 else ""] += 1
        return found


@contextmanager
def envoy_world(folder: Path) -> Iterator[tuple[RouteWorld, Callers]]:
    """With a gateway whose data plane is a real Envoy, on the real cluster or on the emulated one."""
    with ExitStack() as stack:
        world = stack.enter_context(route_world(folder, GATEWAY))
        name = world.namespace
        body = {"metadata": {"name": name}, "spec": {"controllerName": CONTROLLER}}
        kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass"}
        world.admin.post(CLASSES, json={**kind, **body}).raise_for_status()
        stack.callback(world.admin.delete, f"{CLASSES}/{name}")
        answers = stack.enter_context(_Answers(world.at))
        (folder / "gateway").mkdir()
        made = GatewayStandIn(world.kubeconfig, world.namespace, folder / "gateway", name, answers.reach)
        stack.enter_context(made)
        yield world, Callers(world, made)


class _Answers:
    """Emulated pods have no network: a server of this machine answers for each, with its pod's name."""

    def __init__(self, at: Target) -> None:
        self._at = at
        self._servers: dict[Address, ThreadingHTTPServer] = {}

    def __enter__(self) -> _Answers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._servers.values():
            one.shutdown()
            one.server_close()

    def reach(self, address: Address) -> Address:
        if self._at.emulated is None:
            return address
        if address not in self._servers:
            self._servers[address] = _answering(self._pod_at(address[0]))
        host, port = self._servers[address].server_address[:2]
        return str(host), int(port)

    def _pod_at(self, address: str) -> str:
        items = self._at.client.get(self._at.core("pods")).json()["items"]
        return next(str(one["metadata"]["name"]) for one in items if one["status"].get("podIP") == address)


def _answering(text: str) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body at once: a caller acknowledges the first of two parts 40 ms late

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    return made
