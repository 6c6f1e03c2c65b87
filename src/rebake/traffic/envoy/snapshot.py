"""What Envoy is told: bootstrap, clusters, endpoints, listeners, rendered from the wished routes. Pure.

Which document changes when:
- route configuration (`routes.py`): at every switch, one per environment;
- endpoints: when an instance comes or goes, one per fleet;
- clusters and listeners: when a fleet or an environment comes or goes, one of each per edge.
A document is plain JSON values; equal wishes render to equal documents, so an unchanged one is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rebake.core.digest import digest_of, short
from rebake.core.units import FULL
from rebake.errors import BrokenInvariant
from rebake.release.manifest import Health
from rebake.traffic.envoy import names, records, routes
from rebake.traffic.ports import Endpoint, EnvironmentRoute, FleetRoute

Document = dict[str, Any]

_PROBE_UNHEALTHY_MS = 100
_MANY = 1_000_000
_LONGEST_COPY_MS = 30_000
_ORDERS = (
    "retry-on",
    "retry-grpc-on",
    "max-retries",
    "retriable-status-codes",
    "retriable-header-names",
    "hedge-on-per-try-timeout",
    "upstream-rq-timeout-ms",
    "upstream-rq-per-try-timeout-ms",
    "upstream-rq-timeout-alt-response",
    "upstream-stream-duration-ms",
    "upstream-alt-stat-name",
    "expected-rq-timeout-ms",
)
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class EdgePaths:
    """Where Envoy finds its documents, below one folder."""

    root: Path

    @property
    def bootstrap(self) -> Path:
        return self.root / "bootstrap.json"

    @property
    def clusters(self) -> Path:
        return self.root / "cds.json"

    @property
    def listeners(self) -> Path:
        return self.root / "lds.json"

    def route(self, key: str) -> Path:
        return self.root / "rds" / f"{key}.json"

    def endpoints(self, cluster: str) -> Path:
        return self.root / "eds" / names.file_name(cluster)

    def records(self, key: str) -> Path:
        """Where Envoy writes down what became of each request of users."""
        return self.root / "records" / f"{key}.log"

    def wish(self, key: str) -> Path:
        """The `EnvironmentRoute` as applied, so that a restarted agent or Envoy serves the same."""
        return self.root / "routes" / f"{key}.json"


def encode(document: Document) -> bytes:
    """As the file holds it: sorted, so that equal documents are equal bytes; not indented, which is a slow road in
    Python, and a switch waits for it (`python -m json.tool` shows a file to people)."""
    return json.dumps(document, sort_keys=True).encode() + b"\n"


def response(resources: Iterable[Document]) -> Document:
    """Wrap resources as filesystem xDS wants them. Source: xDS protocol, `DiscoveryResponse`."""
    found = list(resources)
    return {"version_info": short(digest_of(json.dumps(found, sort_keys=True))), "resources": found}


def check_route(route: EnvironmentRoute) -> None:
    """Raises: BrokenInvariant when the wish contradicts itself (ours: the engine made it)."""
    where = f"{route.service}/{route.environment}"
    fleets = [f.fleet for f in route.fleets]
    total = sum(f.weight_basis_points for f in route.fleets)
    if total not in (0, FULL) or any(f.weight_basis_points < 0 for f in route.fleets):
        raise BrokenInvariant(f"weights sum to 0 or {FULL}, found {total}", where=where)
    if len(set(fleets)) != len(fleets):
        raise BrokenInvariant(f"a fleet stands once in a route, found {fleets}", where=where)
    wanted = [route.preview, route.shield, route.mirror.fleet if route.mirror else None]
    if missing := [name for name in wanted if name is not None and name not in fleets]:
        raise BrokenInvariant(f"preview, shield and mirror name fleets of the route, found {missing}", where=where)
    if route.shield is not None and route.shield == fleets[0]:
        raise BrokenInvariant(f"the first fleet shields another one, found {route.shield} first", where=where)


def serves(route: EnvironmentRoute) -> bool:
    """Before the first promotion no fleet has weight, and nothing listens."""
    return any(f.weight_basis_points for f in route.fleets)


def cluster_of(route: EnvironmentRoute, fleet: FleetRoute) -> str:
    return names.cluster_name(route.service, route.environment, fleet.fleet)


def bootstrap(paths: EdgePaths, admin: Path) -> Document:
    """How Envoy starts: everything else comes from watched files."""
    kind = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    inside = {
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": f"type.googleapis.com/{kind}"},
    }
    return {
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "bootstrap_extensions": [inside],
        "dynamic_resources": {"cds_config": _watch(paths.clusters), "lds_config": _watch(paths.listeners)},
        "stats_flush_on_admin": True,
    }


def clusters(wishes: Iterable[EnvironmentRoute], paths: EdgePaths) -> list[Document]:
    """Every cluster of every environment, in a stable order."""
    found: list[Document] = []
    for route in wishes:
        for fleet in route.fleets:
            name = cluster_of(route, fleet)
            found.append(_users_cluster(name, fleet, paths))
            if route.shield == fleet.fleet:
                found.append(_shield_cluster(name, cluster_of(route, route.fleets[0])))
            if route.preview == fleet.fleet:
                found.append(_side_cluster(names.preview_name(name), fleet))
            if route.mirror is not None and route.mirror.fleet == fleet.fleet:
                found.append(_mirror_cluster(route, names.mirror_name(name)))
                found.append(_side_cluster(names.copy_name(name), fleet, longest_ms=_longest_copy_ms(route)))
    return sorted(found, key=lambda c: str(c["name"]))


def endpoints(cluster: str, fleet: FleetRoute) -> Document:
    """The instances of one fleet, without the type that only a resource on its own carries."""
    instances = [_endpoint(e, fleet.fleet) for e in fleet.endpoints]
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": instances}]}


def endpoints_resource(cluster: str, fleet: FleetRoute) -> Document:
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"@type": kind, **endpoints(cluster, fleet)}


def listeners(wishes: Iterable[EnvironmentRoute], paths: EdgePaths) -> list[Document]:
    """One listener per environment that serves, and one for copies where there are any, in a stable order."""
    found: list[Document] = []
    for route in wishes:
        if serves(route):
            found.append(_listener(route, paths))
            if route.mirror is not None:
                found.append(_copies_listener(route, route.mirror.fleet, paths))
    return sorted(found, key=lambda x: str(x["name"]))


def _watch(path: Path) -> Document:
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def _endpoint(endpoint: Endpoint, fleet: str) -> Document:
    # Frameworks that look at the Host (Django's ALLOWED_HOSTS) must see the address that the platform's own probe
    # names: by default Envoy would name the cluster.
    asked = {"hostname": endpoint.address}
    return {
        "endpoint": {"address": _socket_address(endpoint.address), "health_check_config": asked},
        "metadata": records.served_by(fleet),
    }


def _socket_address(address: str) -> Document:
    host, port = names.split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}s"


def _users_cluster(name: str, fleet: FleetRoute, paths: EdgePaths) -> Document:
    return {
        **_cluster(name),
        "type": "EDS",
        "eds_cluster_config": {"service_name": name, "eds_config": _watch(paths.endpoints(name))},
        "health_checks": [_health_check(fleet.health)],
        # An instance that was unregistered gets no further request, however healthy it still looks.
        "ignore_health_on_host_removal": True,
        # A hanging instance must not hold up the others' listeners at a start; until the first probe every instance
        # is tried (panic threshold), and a refused connection is tried again elsewhere.
        "wait_for_warm_on_init": False,
    }


def _shield_cluster(name: str, other: str) -> Document:
    """The first try goes to the fleet itself, the second one to the other fleet: by number, not by health, so that a
    dead fleet is tried all the same and what it fails is seen. Source: Envoy, "Composite cluster"."""
    kind = "envoy.clusters.composite"
    tries = {
        "@type": "type.googleapis.com/envoy.extensions.clusters.composite.v3.ClusterConfig",
        "clusters": [{"name": name}, {"name": other}],
    }
    return {
        **_cluster(names.shield_name(name)),
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": kind, "typed_config": tries},
    }


def _longest_copy_ms(route: EnvironmentRoute) -> int:
    """Nobody waits for a copy: it is cut off, but not before it counted as unanswered."""
    return max(_LONGEST_COPY_MS, 2 * route.answer_within_ms)


def _mirror_cluster(route: EnvironmentRoute, name: str) -> Document:
    """Copies' way to their listener: Envoy itself writes no record of a copy where it sends it off. Source: Envoy,
    "Internal listener"."""
    listener = names.copies_listener(route.service, route.environment)
    address = {"envoy_internal_address": {"server_listener_name": listener}}
    there = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    return {**_cluster(name), "type": "STATIC", "load_assignment": there}


def _side_cluster(name: str, fleet: FleetRoute, *, longest_ms: int | None = None) -> Document:
    """Testers' and copies' cluster: the same instances without own probes (they would double the users' ones)."""
    limit = {"max_stream_duration": _seconds(longest_ms)} if longest_ms else {}
    return {**_cluster(name, **limit), "type": "STATIC", "load_assignment": endpoints(name, fleet)}


def _cluster(name: str, **http: Any) -> Document:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _MANY)
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
        # Envoy's own limits (1024 requests, 3 retries) would throttle; limits are the instances' business.
        "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **limits}]},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                # Below the keep-alive of gunicorn (2 s), uvicorn and Node (5 s): Envoy closes first, so that no
                # request is written into a connection the instance just closed.
                "common_http_protocol_options": {"idle_timeout": "1s", **http},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _health_check(health: Health) -> Document:
    interval = _seconds(health.interval_ms)
    quick = _seconds(min(health.interval_ms, _PROBE_UNHEALTHY_MS))
    return {
        "timeout": _seconds(health.timeout_ms),
        "interval": interval,
        "no_traffic_healthy_interval": interval,
        # An instance that does not answer yet is asked often: it is of use as soon as it answers.
        "unhealthy_interval": quick,
        "no_traffic_interval": quick,
        "healthy_threshold": health.healthy_after,
        "unhealthy_threshold": health.unhealthy_after,
        "always_log_health_check_failures": False,
        # A fresh connection each time also proves that the instance still accepts, and holds no worker of it.
        "reuse_connection": False,
        "http_health_check": {
            "path": health.path,
            "expected_statuses": [{"start": 200, "end": 400}],
            # Without this one wrong status would count as all `unhealthy_after` failures at once.
            "retriable_statuses": [{"start": 100, "end": 200}, {"start": 400, "end": 600}],
        },
    }


def _listener(route: EnvironmentRoute, paths: EdgePaths) -> Document:
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": names.listener_name(route.service, route.environment, route.listen),
        "address": _socket_address(route.listen),
        "per_connection_buffer_limit_bytes": 1 << 20,
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {"filters": [{"name": "http", "typed_config": _connection_manager(route, paths)}]},
        ],
    }


def _copies_listener(route: EnvironmentRoute, fleet: str, paths: EdgePaths) -> Document:
    """Inside of Envoy: passes copies on to the candidate as they are, once each, and writes a record of each."""
    name = names.copies_listener(route.service, route.environment)
    cluster = names.copy_name(names.cluster_name(route.service, route.environment, fleet))
    way = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    manager = {
        **_http(route, paths),
        "stat_prefix": name,
        "route_config": {
            "name": name,
            "request_headers_to_remove": list(routes.ENVOYS_OWN),
            "request_headers_to_add": [
                {
                    "header": {"key": "x-forwarded-for", "value": "%DYNAMIC_METADATA(rebake:forwarded)%"},
                    "append_action": "OVERWRITE_IF_EXISTS",
                }
            ],
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [way]}],
        },
        "http_filters": [_forwarded_before(), _router()],
        "generate_request_id": False,
    }
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "internal_listener": {},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _forwarded_before() -> Document:
    """Envoy adds its own address to those that a copy was forwarded for; instances are to see what the original says.
    Source: Envoy, "Header-To-Metadata Filter"."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    without_last = {"pattern": {"regex": "^(.*),[^,]*$"}, "substitution": "\\1"}
    found = {"metadata_namespace": "rebake", "key": "forwarded", "regex_value_rewrite": without_last}
    rule = {"header": "x-forwarded-for", "on_header_present": found}
    return {"name": "forwarded", "typed_config": {"@type": kind, "request_rules": [rule]}}


def _without_orders() -> Document:
    """Callers give Envoy no orders: with these headers one request would be sent many times, a POST twice, and what
    an instance would have answered would be cut off as its failure. Source: Envoy, "Router", HTTP headers consumed."""
    kind = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    taken = [{"remove": f"x-envoy-{name}"} for name in _ORDERS]
    return {"name": "orders", "typed_config": {"@type": f"type.googleapis.com/{kind}", "mutations": taken}}


def _is_loopback(listen: str) -> bool:
    return ip_address(names.split_address(listen)[0]).is_loopback


def _connection_manager(route: EnvironmentRoute, paths: EdgePaths) -> Document:
    key = names.environment_key(route.service, route.environment)
    return {
        **_http(route, paths),
        "stat_prefix": key,
        "rds": {"route_config_name": key, "config_source": _watch(paths.route(key))},
        "early_header_mutation_extensions": [_without_orders()],
        "http_filters": [*records.callers(route.sticky), _router()],
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "use_remote_address": True,
        # Only this machine can call a loopback address: a proxy there that ends TLS tells the truth about the scheme.
        "xff_num_trusted_hops": int(_is_loopback(route.listen)),
    }


def _router() -> Document:
    kind = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return {"name": "router", "typed_config": {"@type": kind, "suppress_envoy_headers": True}}


def _http(route: EnvironmentRoute, paths: EdgePaths) -> Document:
    """HTTP as it came, as far as HTTP allows: no path, header or answer is tidied up."""
    filters = "type.googleapis.com/envoy.extensions.filters"
    key = names.environment_key(route.service, route.environment)
    return {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "access_log": [records.access_log(str(paths.records(key)), route)],
        "access_log_options": records.access_log_options(route),
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": route.listen},
        "skip_xff_append": True,
        "internal_address_config": {"cidr_ranges": []},
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        # Quiet streams (events, WebSockets, long work) live; only slow request heads are cut off.
        "stream_idle_timeout": "3600s",
        "request_headers_timeout": "60s",
    }
