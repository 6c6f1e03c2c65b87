"""`EnvoyPlane`: routes of the stand-in's controller on a real Envoy, and how far Envoy has taken them up.

The order of every change: endpoints and clusters; once Envoy serves these, listeners and routes; once it says that it
goes by them, clusters that nobody is sent to any more go.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from rebake.core.atomic import write_atomic
from rebake.testing.children import end_with_parent
from rebake.testing.gateway import documents
from rebake.testing.gateway.documents import Address, Documents, Endpoints
from rebake.testing.kubernetes.controllers.gateway import Place, Wanted
from rebake.testing.kubernetes.status import Json
from rebake.traffic.envoy.process import find_binary
from rebake.traffic.envoy.snapshot import encode, response

_START_SECONDS = 20.0


class EnvoyPlane:
    """One Envoy process, from construction to `close`.

    Args:
        folder: its documents and log.
        listeners: of the Gateways that are served, as they are now.
        endpoints: who is ready behind a backend.

    Attributes:
        admin: `HOST:PORT` of its statistics (`/stats/prometheus`).
        pending: whether something was written that Envoy does not go by yet.
    """

    def __init__(self, folder: Path, listeners: Callable[[], Mapping[Place, Json]], endpoints: Endpoints) -> None:
        self._folder, self._listeners, self._endpoints = folder, listeners, endpoints
        self._addresses: dict[Place, Address] = {}
        self._done: dict[str, Json] = {}
        self._served = Documents()
        self.pending = False
        for one in ("eds", "rds"):
            (folder / one).mkdir(parents=True, exist_ok=True)
        self._write("cds.json", ())
        self._write("lds.json", ())
        address = _free_address()
        self.admin = f"{address[0]}:{address[1]}"
        (folder / "bootstrap.json").write_text(json.dumps(_bootstrap(folder, address)))
        with (folder / "envoy.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_binary()), "-c", f"{folder}/bootstrap.json", "--disable-hot-restart", "-l", "warning"],
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it only calls the kernel
            )
        self._http = httpx.Client(base_url=f"http://{self.admin}", timeout=10)
        self._await_live()

    def close(self) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(20)

    def address(self, place: Place) -> Address:
        """Where a listener answers. Raises: KeyError before it does."""
        return self._addresses[place]

    def refuses(self, route: Json) -> str:
        return documents.unsupported(route)

    def program(self, wanted: Sequence[Wanted]) -> Mapping[str, Json]:
        listeners = self._listeners()
        for place in listeners:
            self._addresses.setdefault(place, _free_address())
        addresses = {place: self._addresses[place] for place in listeners}
        now = documents.rendered(wanted, listeners, addresses, self._endpoints, self._folder)
        if self._take_up(now):
            self._done = {one.route["metadata"]["uid"]: one.route for one in wanted}
        alive = {one.route["metadata"]["uid"] for one in wanted}
        return {uid: route for uid, route in self._done.items() if uid in alive}

    def _take_up(self, now: Documents) -> bool:
        """Write what is not yet. Returns: whether Envoy goes by all of it."""
        if now == self._served:
            self.pending = False
            return True
        self.pending = True
        for name, rows in now.endpoints.items():
            self._write(documents.file_of(self._folder, "eds", name), [rows])
        kept = {**self._served.clusters, **now.clusters}
        self._write("cds.json", kept.values())
        if not now.clusters.keys() <= self._active("dynamic_active_clusters", "cluster"):
            self._served = replace(self._served, clusters=kept)
            return False
        versions = {}
        for name, configuration in now.routes.items():
            path = documents.file_of(self._folder, "rds", name)
            versions[name] = self._write(path, [configuration])
        self._write("lds.json", now.listeners.values())
        open_ = {one["name"] for one in self._dump("dynamic_listeners") if "active_state" in one}
        found = {one["route_config"]["name"]: one["version_info"] for one in self._dump("dynamic_route_configs")}
        if open_ != now.listeners.keys() or any(found.get(name) != one for name, one in versions.items()):
            self._served = replace(self._served, clusters=kept)
            return False
        self._write("cds.json", now.clusters.values())
        self._served = now
        self.pending = False
        return True

    def _active(self, resource: str, kind: str) -> set[str]:
        return {str(one[kind]["name"]) for one in self._dump(resource)}

    def _dump(self, resource: str) -> list[dict[str, Any]]:
        answer = self._http.get("/config_dump", params={"resource": resource}).raise_for_status()
        found: list[dict[str, Any]] = answer.json().get("configs", [])
        return found

    def _write(self, place: str | Path, resources: Sequence[Json] | Any) -> str:
        """Returns: the version that Envoy will tell."""
        document = response(sorted(resources, key=lambda one: str(one.get("name", ""))))
        path, data = self._folder / place, encode(document)
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return str(document["version_info"])
        write_atomic(path, data)
        return str(document["version_info"])

    def _await_live(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self._http.get("/ready").status_code == 200:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError("Envoy did not start:\n" + (self._folder / "envoy.log").read_text()[-2000:])
            threading.Event().wait(0.02)


def _free_address() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: Address = probe.getsockname()
        return found


def _bootstrap(folder: Path, admin: Address) -> Json:
    def watched(name: str) -> Json:
        return {"path_config_source": {"path": str(folder / name)}, "resource_api_version": "V3"}

    return {
        "node": {"id": "stand-in", "cluster": "stand-in"},
        "admin": {"address": {"socket_address": {"address": admin[0], "port_value": admin[1]}}},
        "dynamic_resources": {"cds_config": watched("cds.json"), "lds_config": watched("lds.json")},
    }
