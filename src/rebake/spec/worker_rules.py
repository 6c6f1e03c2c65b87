"""What only a fleet with a route can have, and what only one without: each refused by name for the other kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebake.judge.metric_rules import REQUESTS
from rebake.spec.report import Finding, nearest
from rebake.spec.tree import Path

ROUTED_KEYS = {
    "listen": "nobody calls a worker",
    "sticky": "there are no callers to stay with a cohort",
    "shield": "there are no requests to ask again",
    "hold_back": "stable works at full size until the soak ends",
}
"""Keys of an environment that need a route, and why a worker has no use for them."""


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def kinds(data: Any) -> Iterator[Finding]:
    """Everything that follows from `run.kind`."""
    kind = _mapping(data, "run").get("kind", "http")
    if kind == "worker":
        yield from _of_a_worker(data)
    elif kind == "http":
        yield from _of_http(data)


def _of_http(data: Any) -> Iterator[Finding]:
    if "command" in _mapping(_mapping(data, "run"), "health"):
        problem = "expected health.command only with kind: worker, found it where the edge asks by HTTP"
        yield Finding("needs-a-worker", ("run", "health", "command"), problem, "write run.health.path", True)
    for name, environment in _mapping(data, "environments").items():
        if not isinstance(environment, dict) or any(nearest(str(key), ["listen"]) for key in environment):
            continue
        problem = "expected the key listen, which has no default, found no such key"
        yield Finding("missing-key", ("environments", name, "listen"), problem, "what nobody calls: run.kind: worker")


def _of_a_worker(data: Any) -> Iterator[Finding]:
    health = _mapping(_mapping(data, "run"), "health")
    if {"path", "command"} <= set(health):
        problem = "expected a path or a command, found both"
        yield Finding("health-two-ways", ("run", "health", "command"), problem, "remove one of the two", True)
    checks = data.get("checks") if isinstance(data, dict) else None
    for index, check in enumerate(checks if isinstance(checks, list) else ()):
        if isinstance(check, dict) and "http" in check:
            problem = "expected a command, found a request: no instance of a worker runs before its checks passed"
            yield Finding("needs-a-route", ("checks", index, "http"), problem, "write command: […]", True)
    for name, environment in _mapping(data, "environments").items():
        if isinstance(environment, dict):
            yield from _of_an_environment(environment, ("environments", name))


def _of_an_environment(environment: dict[str, Any], path: Path) -> Iterator[Finding]:
    for key, why in ROUTED_KEYS.items():
        if key in environment and environment[key] is not False:
            problem = f"expected no {key} with kind: worker ({why}), found one"
            yield Finding("needs-a-route", (*path, key), problem, "remove the line", True)
    strategy = environment.get("strategy")
    if strategy == "shadow" or (isinstance(strategy, dict) and "shadow" in strategy):
        problem = "expected a strategy that needs no requests to copy, found shadow with kind: worker"
        yield Finding("needs-a-route", (*path, "strategy"), problem, "write canary, linear, blue-green or all-at-once")
    for kind in ("canary", "linear"):
        if "mirror" in _mapping(strategy, kind):
            problem = "expected no copies of requests with kind: worker, which gets none, found mirror"
            yield Finding("needs-a-route", (*path, "strategy", kind, "mirror"), problem, "remove the line", True)
    if environment.get("platform", "local") != "local":
        problem = "expected platform local with kind: worker, the only one that runs workers, found another"
        yield Finding("worker-not-here", (*path, "platform"), problem, "write platform: local")
    for name, metric in _mapping(_mapping(environment, "judge"), "metrics").items():
        for source in ("prometheus", "endpoint"):
            if _mapping(metric, source).get("total") == REQUESTS:
                problem = f"expected a counter of the worker's own as the total, found {REQUESTS}, which no route deals"
                where = (*path, "judge", "metrics", name, source, "total")
                yield Finding("needs-a-route", where, problem, "count what the worker does", True)
    if "latency" in _mapping(environment, "judge"):
        problem = "expected no latency with kind: worker (there are no answers to time), found it"
        yield Finding("needs-a-route", (*path, "judge", "latency"), problem, "remove the line", True)
