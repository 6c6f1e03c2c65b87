"""What an environment on a cluster needs, and what its route cannot do: each refused by name, with what to write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebake.spec import pod_share_rules
from rebake.spec.report import Finding, LineOf
from rebake.spec.tree import Path

_WEIGHTED = ("canary", "linear")
_UNSEEN = "nobody sees what becomes of a gateway's copies, so they prove nothing"
_NEVER = {
    "listen": "users call the gateway's host name or the Service",
    "sticky": "the route of a cluster keeps no callers together",
    "shield": "a gateway asks no other fleet again",
}
"""Keys of an environment that its route on a cluster cannot hold, and why."""


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def findings(data: Any) -> Iterator[Finding]:
    """Every finding of every environment on `kubernetes`."""
    run, bake = _mapping(data, "run"), _mapping(data, "bake")
    kind = run.get("kind", "http")
    for name, environment in _mapping(data, "environments").items():
        if not isinstance(environment, dict) or environment.get("platform") != "kubernetes":
            continue
        path: Path = ("environments", name)
        block = _mapping(environment, "kubernetes")
        if kind == "job":
            problem = "expected no job on kubernetes in this version, found one"
            remedy = "run it on local or docker, or as a worker"
            yield Finding("job-not-here", (*path, "platform"), problem, remedy)
        if "registry" not in block and "repository" not in bake:
            problem = "expected a repository that the cluster's nodes can pull from, found none"
            remedy = "write bake.repository: registry.example.com/team/shop, or registry under kubernetes"
            yield Finding("registry-missing", (*path, "kubernetes"), problem, remedy)
        if kind == "http":
            yield from _route(environment, block, path)
        yield from _block(block, run, (*path, "kubernetes"))


def shared_names(data: Any, line_of: LineOf) -> Iterator[Finding]:
    """Each environment has host names of its own at a gateway: of two routes the older one gets all requests, and both
    are accepted. Source: Gateway API, `HTTPRouteRule.matches`."""
    seen: list[tuple[str, tuple[Any, ...], set[Any]]] = []
    for name, environment in _mapping(data, "environments").items():
        block = _mapping(environment, "kubernetes")
        gateway = _mapping(block, "gateway")
        if not gateway:
            continue
        cluster = [block.get(key) for key in ("kubeconfig", "context")]
        listener = [gateway.get("namespace", block.get("namespace")), gateway.get("name"), gateway.get("section")]
        place, names = (*cluster, *listener), set(map(str, gateway.get("hostnames") or ["every name"]))
        for other, other_place, other_names in seen:
            if place == other_place and names & other_names:
                line = line_of(("environments", other, "kubernetes", "gateway"))
                problem = f"expected host names of its own, found {sorted(names & other_names)[0]}, which {other} "
                problem += f"(line {line}) has at the same gateway"
                path: Path = ("environments", name, "kubernetes", "gateway")
                yield Finding("listen-taken", path, problem, "write other hostnames")
                break
        seen.append((name, place, names))


def _route(environment: dict[str, Any], block: dict[str, Any], path: Path) -> Iterator[Finding]:
    for key, why in _NEVER.items():
        if environment.get(key) not in (None, False):
            problem = f"expected no {key} on kubernetes ({why}), found one"
            yield Finding("not-on-kubernetes", (*path, key), problem, "remove the line", True)
    strategy = environment.get("strategy", "blue-green")
    kind = next(iter(strategy), None) if isinstance(strategy, dict) else strategy
    if kind == "shadow" or "mirror" in _mapping(strategy, str(kind)):
        problem = f"expected no copies of requests on kubernetes ({_UNSEEN}), found {kind} with them"
        yield Finding("not-on-kubernetes", (*path, "strategy"), problem, "write strategy: canary, or blue-green")
    elif block.get("canary_by") == "instances":
        yield from pod_share_rules.findings(environment, block, str(kind), path)
    elif kind in _WEIGHTED and "gateway" not in block:
        problem = f"expected a gateway, which can deal single requests, with {kind}, found none: a Service cannot"
        remedy = "write kubernetes: {gateway: {name: …}}, or {canary_by: instances}, or strategy: blue-green"
        yield Finding("needs-a-gateway", (*path, "strategy"), problem, remedy)


def _block(block: dict[str, Any], run: dict[str, Any], path: Path) -> Iterator[Finding]:
    if "autoscale" in block and "cpu" not in _mapping(run, "resources"):
        problem = "expected run.resources.cpu, of which autoscale.cpu is a share, found none"
        yield Finding("autoscale-needs-cpu", (*path, "autoscale"), problem, "write run: {resources: {cpu: 0.5}}")
    traffic = _mapping(block, "traffic")
    own = traffic.get("from") == "own"
    for key in ("requests", "errors", "latency"):
        if key in traffic and not own:
            problem = f"expected {key} only with from: own, found it with another"
            yield Finding("key-does-nothing", (*path, "traffic", key), problem, "remove the line", True)
    for key in ("requests", "errors"):  # who sees no failures would call everything healthy
        if own and key not in traffic:
            problem = f"expected the query {key} with from: own, found none"
            yield Finding("missing-key", (*path, "traffic", key), problem, f"write {key}: a counter, as it stands")
