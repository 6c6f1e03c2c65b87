"""`GatewayStandIn`: serves the Gateways of one class in one namespace of any API server, until it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml

from rebake.errors import PlatformError
from rebake.kubernetes.client import KubeClient
from rebake.kubernetes.informer import Informer
from rebake.kubernetes.resources import Kind
from rebake.kubernetes.signin import sign_in
from rebake.testing.gateway.documents import Address
from rebake.testing.gateway.envoy import EnvoyPlane
from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.gateway import GatewayController, Place
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import Json
from rebake.testing.kubernetes.target import connect

CONTROLLER = "rebake.testing/gateway-stand-in"
_SERVICE_OF_SLICE = "kubernetes.io/service-name"
_KINDS = (kinds.GATEWAY_CLASSES, kinds.GATEWAYS, kinds.HTTP_ROUTES, kinds.SERVICES, kinds.ENDPOINT_SLICES)
_SOON_SECONDS, _LATER_SECONDS = 0.02, 5.0
Reach = Callable[[Address], Address]


class _World:
    """What the controller sees: watches of one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, changed: threading.Event) -> None:
        self._http = connect(yaml.safe_load(kubeconfig.read_text()))
        self._client = KubeClient(sign_in(str(kubeconfig), None, {}))
        self.late = False
        self._informers = {one: self._informer(one, namespace, changed) for one in _KINDS}

    def _informer(self, one: Resource, namespace: str, changed: threading.Event) -> Informer:
        kind = Kind(one.group, one.version, one.plural, one.kind, one.namespaced)
        made = Informer(self._client, kind, namespace if one.namespaced else "", "")
        made.listen(lambda _kind, _item: changed.set())
        made.start()
        return made

    def close(self) -> None:
        for one in self._informers.values():
            one.close()
        self._client.close()
        self._http.close()

    def fresh(self) -> None:
        """Raises: PlatformError when nobody answers."""
        for one in self._informers.values():
            one.fresh()

    def all(self, resource: Resource) -> list[Json]:
        return self._informers[resource].all()

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        found = self._informers[resource].get(name)
        return found if found is not None and found["metadata"].get("namespace", "") == namespace else None

    def time(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def put_status(self, resource: Resource, item: Json, status: Json, manager: str) -> None:
        """A status of an object that is another one by now is written when that one is seen."""
        if item.get("status") == status:
            return
        metadata = item["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], "status")
        try:
            answer = self._http.put(path, json={**item, "status": status}, params={"fieldManager": manager})
        except httpx.TransportError:
            self.late = True
            return
        if answer.status_code in (404, 409):
            return
        self.late = self.late or answer.status_code >= 500
        if not self.late:
            self._informers[resource].wrote(answer.raise_for_status().json())


class GatewayStandIn:
    """Used as a context. Its GatewayClass is made by whoever uses it, and names `CONTROLLER`.

    Args:
        folder: of Envoy's documents and log; empty.
        class_name: of the GatewayClass.
        reach: where Envoy finds an endpoint's address, if it is not there itself: emulated pods have no network.
    """

    def __init__(
        self, kubeconfig: Path, namespace: str, folder: Path, class_name: str, reach: Reach = lambda one: one
    ) -> None:
        self._changed, self._over = threading.Event(), threading.Event()
        self._class, self._reach = class_name, reach
        self._world = _World(kubeconfig, namespace, self._changed)
        self._world.fresh()
        self._plane = EnvoyPlane(folder, self._listeners, self._endpoints)
        self._controller = GatewayController(self._world, self._plane, class_name, CONTROLLER)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway-stand-in", daemon=True)
        self._thread.start()

    def __enter__(self) -> GatewayStandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Raises: what ended its work before."""
        self._over.set()
        self._changed.set()
        self._thread.join()
        self._plane.close()
        self._world.close()
        if self._failed is not None:
            raise RuntimeError("the gateway's stand-in failed") from self._failed

    @property
    def statistics(self) -> str:
        """`HOST:PORT` at which Prometheus finds Envoy's statistics, at `/stats/prometheus`."""
        return self._plane.admin

    def address(self, namespace: str, gateway: str, listener: str) -> str | None:
        """`HOST:PORT` where a listener answers; None before it does."""
        try:
            host, port = self._plane.address((namespace, gateway, listener))
        except KeyError:
            return None
        return f"{host}:{port}"

    def _run(self) -> None:
        while not self._over.is_set():
            self._changed.clear()
            self._world.late = False
            try:
                self._controller.step()
            except PlatformError:
                self._world.late = True
            except BaseException as error:
                self._failed = error
                return
            soon = self._plane.pending or self._world.late
            self._changed.wait(_SOON_SECONDS if soon else _LATER_SECONDS)

    def _listeners(self) -> Mapping[Place, Json]:
        return {
            (one["metadata"]["namespace"], one["metadata"]["name"], row["name"]): row
            for one in self._world.all(kinds.GATEWAYS)
            if one["spec"]["gatewayClassName"] == self._class
            for row in one["spec"]["listeners"]
        }

    def _endpoints(self, namespace: str, backend: Json) -> Sequence[Address]:
        """Those that are ready, at the backend's port. Source: Kubernetes, "EndpointSlices", conditions and ports."""
        service = self._world.get(kinds.SERVICES, backend.get("namespace", namespace), backend["name"])
        rows = [] if service is None else service["spec"].get("ports", [])
        names = [one.get("name") or "" for one in rows if one["port"] == backend.get("port")]
        found = set()
        for one in self._world.all(kinds.ENDPOINT_SLICES):
            if (one["metadata"].get("labels") or {}).get(_SERVICE_OF_SLICE) != backend["name"] or not names:
                continue
            ports = [int(port["port"]) for port in one.get("ports") or () if (port.get("name") or "") == names[0]]
            ready = [row for row in one.get("endpoints") or () if (row.get("conditions") or {}).get("ready", True)]
            found |= {self._reach((address, port)) for port in ports for row in ready for address in row["addresses"]}
        return sorted(found)
