"""The users' way through Envoy: one `RouteConfiguration` per environment. Pure; the only document a switch changes.

Rules:
- The name of each users' route is the weights it deals by: it stands in the record of every request (`records`).
- Requests with `x-rebake-preview: candidate` go to the preview cluster, before anything else, and are not counted.
- The others are dealt by weight, stable first: Envoy takes a number modulo 10 000 and walks the weights in order, so
  a larger candidate weight only takes numbers away from stable's end.
- Sticky: the number is the hash of the cookie. A caller without cookie is dealt by the hash of the request id, and
  gets that id as cookie, so that the first answer already comes from the cohort the cookie stands for.
- Mirror: copies of GET and HEAD, never of upgrades (a copied WebSocket would have nobody to talk to). The name of such
  a route also says who is given the copies.
- A request that never left Envoy is tried again on another instance of the same fleet. One whose connection broke
  after it left is tried again only when it is GET or HEAD, which may be sent twice (RFC 9110, 9.2.2).
- Shield: what may be sent twice and falls to the shielded fleet gets one second try, by the first fleet, when the
  answer is 5xx or breaks off. Envoy keeps what it would have to send again; of a body that is larger than it keeps
  (1 MiB) there is no second try. What fails on the first fleet is nobody else's. So the shielded fleet's share has
  routes of its own, taken by the same number that the weights take. There a safe try without an answer in time is
  hedged: the second one starts beside it, and the first good answer is given. Envoy reads that order, unlike the one
  to try again, before it deals by weights; so callers that stick, who must be dealt by weights, and requests that are
  copied have a share with a header that orders the second try alone (Envoy takes it off again).
"""

from __future__ import annotations

from typing import Any

from rebake.core.units import FULL
from rebake.traffic.envoy import names, records
from rebake.traffic.ports import EnvironmentRoute, Sticky

Document = dict[str, Any]

METADATA = "rebake"
ENVOYS_OWN = ("x-envoy-external-address", "x-envoy-internal")
"""What Envoy would tell instances of itself."""


def _of(*methods: str) -> tuple[Document, ...]:
    """Plain comparisons; one pattern for several methods costs every request several times as much."""
    return tuple({"name": ":method", "string_match": {"exact": method}} for method in methods)


_SAFE = _of("GET", "HEAD")
_SHIELDED = _of("OPTIONS", "PUT", "DELETE", "TRACE")
"""Methods besides GET and HEAD that may be sent twice. Source: RFC 9110, 9.2.2."""
_ONE_AFTER_THE_OTHER = _of("PUT", "DELETE")
"""May be done twice, and not twice at once: what has not failed is waited for."""
_AFTER_THE_LOOK_MS = 50
"""A second try begins after the look that writes a record of what has no answer, so that this one is written."""
_UPGRADE: Document = {"name": "upgrade", "present_match": True}
# Envoy's own would name the machine's first address in place of a loopback caller.
_FORWARDED_FOR: Document = {
    "header": {"key": "x-forwarded-for", "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
    "append_action": "APPEND_IF_EXISTS_OR_ADD",
}
_UNSENT = "connect-failure,refused-stream,reset-before-request"


def route_configuration(route: EnvironmentRoute) -> Document:
    """The whole route configuration; its metadata carries `EnvironmentRoute.version`, to be read back."""
    key = names.environment_key(route.service, route.environment)
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": key,
        "metadata": {"filter_metadata": {METADATA: {"version": route.version}}},
        # Envoy then refuses a route to a cluster it does not know, and keeps the former one: no 503 without cluster.
        "validate_clusters": True,
        "request_headers_to_remove": list(ENVOYS_OWN),
        "request_headers_to_add": [_FORWARDED_FOR],
        "virtual_hosts": [{"name": key, "domains": ["*"], "routes": [*_preview(route), *_users(route)]}],
    }


def weights_in(configuration: Document) -> dict[str, int]:
    """Basis points by cluster, read back from a route configuration: the last route is the users' general one.

    A configuration that is none of ours (somebody wrote the file) gives nobody a weight.
    """
    try:
        clusters = configuration["virtual_hosts"][0]["routes"][-1]["route"]["weighted_clusters"]["clusters"]
        return {str(c["name"]): int(c.get("weight", 0)) for c in clusters}
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def version_in(configuration: Document) -> str | None:
    """The `EnvironmentRoute.version` a route configuration was rendered from."""
    metadata = configuration.get("metadata", {}).get("filter_metadata", {})
    version = metadata.get(METADATA, {}).get("version")
    return str(version) if version else None


def _preview(route: EnvironmentRoute) -> list[Document]:
    if route.preview is None:
        return []
    header = {"name": names.PREVIEW_HEADER, "string_match": {"exact": names.PREVIEW_VALUE}}
    cluster = names.preview_name(names.cluster_name(route.service, route.environment, route.preview))
    action = {"cluster": cluster, "timeout": "0s"}
    return [
        *(_entry([header, method], {**action, "retry_policy": _retry(safe=True)}) for method in _SAFE),
        _entry([header], {**action, "retry_policy": _retry(safe=False)}),
    ]


def _users(route: EnvironmentRoute) -> list[Document]:
    """Most special first: safe requests to copy, safe ones, other shielded ones, all others; each twice when callers
    stick."""
    deal: Document = {"timeout": "0s"}
    if route.sticky is not None:
        deal["hash_policy"] = _hash_policy(route.sticky)
    shield = _shielding(route)
    twice = {**deal, "weighted_clusters": _weighted(route, shield)}
    safe = {**twice, "retry_policy": _retry(safe=True)}
    rest = {**deal, "weighted_clusters": _weighted(route, None), "retry_policy": _retry(safe=False)}
    kinds: list[tuple[list[Document], Document]] = [([method], safe) for method in _SAFE]
    if shield is not None:
        kinds += [([method], {**twice, "retry_policy": _retry(safe=False)}) for method in _SHIELDED]
    kinds.append(([], rest))
    dealt = {"name": records.dealt_by(route)}
    entries = [(dealt, headers, action) for headers, action in kinds]
    if shield is not None and route.sticky is None and route.mirror is None:
        return [*(dealt | entry for entry in _shielded(route, shield)), dealt | _entry([], rest)]
    if route.mirror is not None and route.mirror.share_basis_points > 0:
        copied, name = {**safe, **_mirrored(route)}, {"name": records.copied_by(route)}
        entries = [*((name, [method, {**_UPGRADE, "invert_match": True}], copied) for method in _SAFE), *entries]
    if route.sticky is None:
        return [name | _entry(headers, action) for name, headers, action in entries]
    has_cookie = _has_cookie(route.sticky)
    return [
        *(name | _entry([*headers, has_cookie], action) for name, headers, action in entries),
        *(name | _entry(headers, action) | _sets_cookie(route.sticky) for name, headers, action in entries),
    ]


def _shielding(route: EnvironmentRoute) -> str | None:
    """The fleet that the first one shields now: both have users."""
    with_users = {f.fleet for f in route.fleets if f.weight_basis_points > 0}
    return route.shield if {route.shield, route.fleets[0].fleet} <= with_users else None


def _shielded(route: EnvironmentRoute, shield: str) -> list[Document]:
    """For each method that may be sent twice: the shielded fleet's share, hedged; then the rest, which is the others'.

    Source: Envoy, `RouteMatch.runtime_fraction` (the same number of a request decides all of them) and `HedgePolicy`.
    """
    weights = {f.fleet: f.weight_basis_points for f in route.fleets}
    share = {"default_value": {"numerator": weights[shield], "denominator": "TEN_THOUSAND"}}
    limit_ms = route.answer_within_ms + _AFTER_THE_LOOK_MS
    second = {**_retry(safe=True), "retry_on": "5xx", "num_retries": 1}
    within = {"per_try_timeout": f"{limit_ms // 1000}.{limit_ms % 1000:03d}s"}
    cluster = names.shield_name(names.cluster_name(route.service, route.environment, shield))
    ours = {"timeout": "0s", "cluster": cluster, "retry_policy": second}
    hedged = {**ours, "retry_policy": {**second, **within}, "hedge_policy": {"hedge_on_per_try_timeout": True}}
    others = {"timeout": "0s", "weighted_clusters": _weighted(route, None, without=shield)}
    found = []
    for method in (*_SAFE, *_SHIELDED):
        mine = _entry([method], ours if method in _ONE_AFTER_THE_OTHER else hedged)
        mine["match"]["runtime_fraction"] = share
        found += [mine, _entry([method], {**others, "retry_policy": _retry(safe=method in _SAFE)})]
    return found


def _entry(headers: list[Document], action: Document) -> Document:
    match: Document = {"prefix": "/", "headers": headers} if headers else {"prefix": "/"}
    return {"match": match, "route": action}


def _weighted(route: EnvironmentRoute, shield: str | None, *, without: str | None = None) -> Document:
    clusters = [
        {
            **_target(names.cluster_name(route.service, route.environment, f.fleet), shielded=f.fleet == shield),
            "weight": f.weight_basis_points,
        }
        for f in route.fleets
        if f.weight_basis_points > 0 and f.fleet != without
    ]
    return {"clusters": clusters, **({"use_hash_policy": True} if route.sticky else {})}


def _target(cluster: str, *, shielded: bool) -> Document:
    """Source: Envoy, "Router", `x-envoy-retry-on` and `x-envoy-max-retries`; callers' own ones never get this far."""
    if not shielded:
        return {"name": cluster}
    wanted = (("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "1"))
    headers = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for key, value in wanted
    ]
    return {"name": names.shield_name(cluster), "request_headers_to_add": headers}


def _hash_policy(sticky: Sticky) -> list[Document]:
    return [
        {"cookie": {"name": sticky.cookie}, "terminal": True},
        {"header": {"header_name": "x-request-id"}},
    ]


def _has_cookie(sticky: Sticky) -> Document:
    return {"name": "cookie", "string_match": {"safe_regex": {"regex": f"(.*;)?\\s*{_literal(sticky.cookie)}=[^;]+.*"}}}


def _literal(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_-" else f"\\{c}" for c in text)


def _sets_cookie(sticky: Sticky) -> Document:
    value = f"{sticky.cookie}=%REQ(X-REQUEST-ID)%; Max-Age={sticky.ttl_seconds}; Path=/; HttpOnly; SameSite=Lax"
    header = {"header": {"key": "set-cookie", "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    return {"response_headers_to_add": [header]}


def _mirrored(route: EnvironmentRoute) -> Document:
    assert route.mirror is not None
    cluster = names.mirror_name(names.cluster_name(route.service, route.environment, route.mirror.fleet))
    share = {"numerator": min(route.mirror.share_basis_points, FULL), "denominator": "TEN_THOUSAND"}
    policy = {
        "cluster": cluster,
        "runtime_fraction": {"default_value": share},
        "disable_shadow_host_suffix_append": True,
    }
    return {"request_mirror_policies": [policy]}


def _retry(*, safe: bool) -> Document:
    return {
        "retry_on": f"{_UNSENT},reset" if safe else _UNSENT,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
    }
