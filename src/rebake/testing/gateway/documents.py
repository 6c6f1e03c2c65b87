"""What Envoy is told of HTTPRoutes. Pure.

- Each rule has a cluster for each backend, whose endpoints are those of its Service that are ready; weights deal the
  requests. Clusters are called as Envoy Gateway calls them, `httproute/NAMESPACE/NAME/rule/N/backend/N`, so that their
  statistics can be read as that one's are.
- Matches are path prefixes, paths and exact headers; of the routes at one name the more exact match goes first, then
  the older route. Whatever else a route asks for is refused, so that no test believes it is done.

Source: Envoy v3 API (cluster, endpoint, route, listener); Gateway API v1, `HTTPRouteRule` (precedence; none: 500).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebake.testing.kubernetes.controllers.gateway import Place, Wanted, by_precedence, hosts_of
from rebake.testing.kubernetes.status import Json

Address = tuple[str, int]
Endpoints = Callable[[str, Json], Sequence[Address]]
"""Who is ready behind a backend of a route in this namespace."""
_TYPE = "type.googleapis.com/"
_MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Documents:
    """Attributes:
    clusters, listeners: whole resources by name. endpoints: by cluster. routes: by listener.
    """

    clusters: Mapping[str, Json] = field(default_factory=dict)
    endpoints: Mapping[str, Json] = field(default_factory=dict)
    listeners: Mapping[str, Json] = field(default_factory=dict)
    routes: Mapping[str, Json] = field(default_factory=dict)


def unsupported(route: Json) -> str:
    """What of a route this stand-in cannot do; empty where it can do all."""
    for rule in route["spec"]["rules"]:
        for match in rule.get("matches", ()):
            kinds = {match.get("path", {}).get("type", "PathPrefix"), *(_kind(one) for one in match.get("headers", ()))}
            if strange := sorted(kinds - {"PathPrefix", "Exact"}) + sorted(match.keys() - {"path", "headers"}):
                return f"matches by {strange[0]}"
        asked = [*rule, *(key for one in rule.get("backendRefs", ()) for key in one if key == "filters")]
        if strange := sorted(set(asked) - {"matches", "backendRefs", "name"}):
            return str(strange[0])
    return ""


def _kind(match: Json) -> str:
    return str(match.get("type", "Exact"))


def rendered(
    wanted: Sequence[Wanted],
    listeners: Mapping[Place, Json],
    addresses: Mapping[Place, Address],
    endpoints: Endpoints,
    folder: Path,
) -> Documents:
    """Everything, for these routes.

    Args:
        listeners: of the Gateways. addresses: where Envoy opens each.
        folder: from which Envoy reads.
    """
    clusters: dict[str, Json] = {}
    rows: dict[str, Json] = {}
    for one in wanted:
        metadata = one.route["metadata"]
        for name, backend in _backends(one.route):
            clusters[name] = _cluster(name, folder)
            rows[name] = _assignment(name, endpoints(metadata["namespace"], backend))
    opened, routes = {}, {}
    for place, address in addresses.items():
        name = "/".join(place)
        opened[name] = _listener(name, address, folder)
        here = [one for one in wanted if place in one.places]
        routes[name] = _configuration(name, listeners[place], here)
    return Documents(clusters, rows, opened, routes)


def file_of(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / (name.replace("/", "+") + ".json")


def _backends(route: Json) -> Iterable[tuple[str, Json]]:
    metadata = route["metadata"]
    for number, rule in enumerate(route["spec"]["rules"]):
        for index, backend in enumerate(rule.get("backendRefs", ())):
            yield f"httproute/{metadata['namespace']}/{metadata['name']}/rule/{number}/backend/{index}", backend


def _from_file(path: Path) -> Json:
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def _cluster(name: str, folder: Path) -> Json:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    return {
        "@type": _TYPE + "envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "2s",
        "eds_cluster_config": {"eds_config": _from_file(file_of(folder, "eds", name))},
        "circuit_breakers": {"thresholds": [limits]},
        "track_cluster_stats": {"per_endpoint_stats": True},
    }


def _assignment(name: str, addresses: Sequence[Address]) -> Json:
    rows = [{"endpoint": {"address": _socket(one)}} for one in addresses]
    kind = _TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"@type": kind, "cluster_name": name, "endpoints": [{"lb_endpoints": rows}] if rows else []}


def _socket(address: Address) -> Json:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _listener(name: str, address: Address, folder: Path) -> Json:
    manager = {
        "@type": _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": _from_file(file_of(folder, "rds", name))},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    kind = _TYPE + "envoy.config.listener.v3.Listener"
    return {"@type": kind, "name": name, "address": _socket(address), "filter_chains": [chain]}


def _configuration(name: str, listener: Json, routes: Sequence[Wanted]) -> Json:
    hosts: dict[str, list[tuple[tuple[int, ...], Json]]] = {}
    for one in by_precedence(routes):
        rows = [row for number in range(len(one.route["spec"]["rules"])) for row in _rows(one.route, number)]
        for host in hosts_of(one.route, listener):
            hosts.setdefault(host, []).extend(rows)
    virtual = []
    for host, found in sorted(hosts.items()):
        ranked = sorted(found, key=lambda one: one[0], reverse=True)  # equals stay as they are: the older first
        domains = [host] if host == "*" else [host, f"{host}:*"]
        virtual.append({"name": host, "domains": domains, "routes": [row for _, row in ranked]})
    kind = _TYPE + "envoy.config.route.v3.RouteConfiguration"
    return {"@type": kind, "name": name, "virtual_hosts": virtual, "ignore_port_in_host_matching": True}


def _rows(route: Json, number: int) -> Iterable[tuple[tuple[int, ...], Json]]:
    """One for each match, with its rank. A `*` matches every path."""
    rule = route["spec"]["rules"][number]
    action = _action(route, number)
    for match in rule.get("matches", ()):
        path, headers = match["path"], match.get("headers", ())
        exact = path["type"] == "Exact"
        found: Json = {"path": path["value"]} if exact else _prefix(path["value"])
        found["headers"] = [{"name": one["name"], "string_match": {"exact": one["value"]}} for one in headers]
        yield (int(exact), len(path["value"]), len(headers)), {"match": found, **action}


def _prefix(value: str) -> Json:
    return {"prefix": "/"} if value == "/" else {"path_separated_prefix": value.rstrip("/")}


def _action(route: Json, number: int) -> dict[str, Any]:
    prefix = f"/rule/{number}/"
    weights = [{"name": name, "weight": backend["weight"]} for name, backend in _backends(route) if prefix in name]
    if not any(one["weight"] for one in weights):
        return {"direct_response": {"status": 500}}
    return {"route": {"weighted_clusters": {"clusters": weights}, "timeout": "0s"}}
