"""Envoy's admin interface over its Unix socket: what Envoy says of itself, parsed; its failures translated."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rebake.errors import Transient
from rebake.traffic.envoy import names

_COUNTED = ("upstream_rq_completed", "upstream_rq_5xx", "upstream_rq_active", "upstream_rq_pending_active")


@dataclass(frozen=True, slots=True)
class ClusterNumbers:
    """Statistics of one cluster: `completed` and `failed` since Envoy counts, `active` requests now."""

    completed: int = 0
    failed: int = 0
    active: int = 0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("envoy", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Session:
    """Several questions over one connection, hence to one and the same Envoy process."""

    def __init__(self, connection: _UnixConnection) -> None:
        self._connection = connection

    def route_configuration(self, key: str) -> Mapping[str, Any] | None:
        """The route configuration Envoy has loaded under this name, None when it has none."""
        configs = self._dump("dynamic_route_configs", f"^{re.escape(key)}$")
        return next((c["route_config"] for c in configs if c.get("route_config", {}).get("name") == key), None)

    def hosts(self, clusters: Iterable[str]) -> dict[str, dict[str, bool]]:
        """By cluster that Envoy serves (not only warms), whether each address passes Envoy's health check."""
        wanted = sorted(clusters)
        if not wanted:
            return {}
        found = self._json("/clusters", format="json", filter=f"^({'|'.join(map(re.escape, wanted))})$")
        return {
            str(c["name"]): dict(_host(h) for h in c.get("host_statuses", ()))
            for c in found.get("cluster_statuses", ())
        }

    def numbers(self, clusters: Iterable[str]) -> dict[str, ClusterNumbers]:
        """Statistics by cluster; one that never met a request is all zeros."""
        wanted = {names.stat_name(c): c for c in clusters}
        if not wanted:
            return {}
        pattern = rf"^cluster\.({'|'.join(map(re.escape, wanted))})\.({'|'.join(_COUNTED)})$"
        found = self._json("/stats", format="json", filter=pattern).get("stats", ())
        values = {str(s["name"]): int(s["value"]) for s in found if "name" in s}
        return {cluster: _numbers(values, stat) for stat, cluster in wanted.items()}

    def listening(self) -> frozenset[str]:
        """Names of the listeners that are open."""
        found = self._json("/listeners", format="json").get("listener_statuses", ())
        return frozenset(str(entry["name"]) for entry in found)

    def listener_error(self, name: str) -> str | None:
        """Why Envoy refused the latest version of this listener, None when it did not."""
        for entry in self._dump("dynamic_listeners", f"^{re.escape(name)}$"):
            if entry.get("name") == name and "error_state" in entry:
                return str(entry["error_state"].get("details", "rejected"))
        return None

    def is_live(self) -> bool:
        """Started, with every document loaded."""
        status, body = self._get("/ready")
        return status == 200 and body.strip() == b"LIVE"

    def collect(self) -> None:
        """Have Envoy take over what the one it replaces counted since the last time (`stats_flush_on_admin`)."""
        self._get("/stats?filter=%5E%24")

    def drain(self) -> None:
        """Close the listeners, let the connections finish."""
        self._request("POST", "/drain_listeners?graceful&skip_exit")

    def _dump(self, resource: str, name: str) -> list[Mapping[str, Any]]:
        found = self._json("/config_dump", resource=resource, name_regex=name).get("configs", ())
        return list(found)

    def _json(self, path: str, **query: str) -> Mapping[str, Any]:
        status, body = self._get(f"{path}?{urlencode(query)}")
        if status == 404:
            return {}
        if status != 200:
            raise ValueError(f"GET {path} answered {status}: {body[:200].decode(errors='replace')}")
        document = json.loads(body or b"{}")
        return document if isinstance(document, dict) else {}

    def _get(self, target: str) -> tuple[int, bytes]:
        return self._request("GET", target)

    def _request(self, method: str, target: str) -> tuple[int, bytes]:
        self._connection.request(method, target)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


class AdminClient:
    """Opens sessions with the Envoy behind one socket."""

    def __init__(self, path: Path, timeout_seconds: float = 2.0) -> None:
        self._path = path
        self._timeout = timeout_seconds

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Raises: Transient `edge-unreachable` when Envoy does not answer, or not as Envoy does."""
        connection = _UnixConnection(self._path, self._timeout)
        try:
            yield Session(connection)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise Transient(
                "edge-unreachable",
                f"expected an answer of Envoy's admin interface, found {type(error).__name__}: {error}",
                where=str(self._path),
                remedy="it is restarted within a second; if it stays away, read envoy.log in the edge folder",
                retry_after_seconds=0.2,
            ) from error
        finally:
            connection.close()

    def is_live(self) -> bool:
        """Whether Envoy is up, False also when nobody answers."""
        try:
            with self.session() as session:
                return session.is_live()
        except Transient:
            return False


def _host(status: Mapping[str, Any]) -> tuple[str, bool]:
    place = status["address"]["socket_address"]
    health = status.get("health_status", {})
    sound = health.get("eds_health_status", "HEALTHY") == "HEALTHY" and not any(
        value is True for key, value in health.items() if key.startswith(("failed_", "pending_"))
    )
    return join_address(str(place["address"]), int(place["port_value"])), sound


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _numbers(values: Mapping[str, int], stat: str) -> ClusterNumbers:
    completed, failed, active, pending = (values.get(f"cluster.{stat}.{name}", 0) for name in _COUNTED)
    return ClusterNumbers(completed, failed, active + pending)
