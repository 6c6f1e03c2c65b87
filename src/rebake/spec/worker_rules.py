"""What only a service, a worker or a job can have: each refused by name for the other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rebake.judge.metric_rules import REQUESTS
from rebake.spec.report import Finding, nearest
from rebake.spec.tree import Path

ROUTED_KEYS = {
    "listen": "nobody calls it",
    "sticky": "there are no callers to stay with a cohort",
    "shield": "there are no requests to ask again",
}
"""Keys of an environment that need a route, and why a worker or a job has no use for them."""
IDLE_KEYS = {
    "worker": {"hold_back": "stable works at full size until the soak ends"},
    "job": {"instances": "each run is one instance"},
}
"""Keys that one of them has no use for, by its kind, and why."""


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def kinds(data: Any) -> Iterator[Finding]:
    """Everything that follows from `run.kind`."""
    kind = _mapping(data, "run").get("kind", "http")
    if kind in ("worker", "job"):
        yield from _without_a_route(data, kind)
    elif kind == "http":
        yield from _of_http(data)
    if kind in ("worker", "http"):
        yield from _never_scheduled(data)


def _never_scheduled(data: Any) -> Iterator[Finding]:
    for name, environment in _mapping(data, "environments").items():
        if isinstance(environment, dict) and "schedule" in environment:
            problem = "expected a schedule only with kind: job, found one for what always runs"
            path = ("environments", name, "schedule")
            yield Finding("needs-a-job", path, problem, "write run.kind: job, or remove the line", True)


def _of_http(data: Any) -> Iterator[Finding]:
    if "command" in _mapping(_mapping(data, "run"), "health"):
        problem = "expected health.command only with kind: worker, found it where the edge asks by HTTP"
        yield Finding("needs-a-worker", ("run", "health", "command"), problem, "write run.health.path", True)
    for name, environment in _mapping(data, "environments").items():
        if not isinstance(environment, dict) or any(nearest(str(key), ["listen"]) for key in environment):
            continue
        if environment.get("platform") == "kubernetes":  # see kubernetes_rules
            continue
        problem = "expected the key listen, which has no default, found no such key"
        remedy = "what nobody calls: run.kind: worker or job"
        yield Finding("missing-key", ("environments", name, "listen"), problem, remedy)


def _without_a_route(data: Any, kind: str) -> Iterator[Finding]:
    run = _mapping(data, "run")
    health = _mapping(run, "health")
    if kind == "job" and "health" in run:
        problem = "expected no health with kind: job (its exit code tells how it went), found it"
        yield Finding("needs-a-worker", ("run", "health"), problem, "remove the line", True)
    elif {"path", "command"} <= set(health):
        problem = "expected a path or a command, found both"
        yield Finding("health-two-ways", ("run", "health", "command"), problem, "remove one of the two", True)
    checks = data.get("checks") if isinstance(data, dict) else None
    for index, check in enumerate(checks if isinstance(checks, list) else ()):
        if isinstance(check, dict) and "http" in check:
            problem = f"expected a command, found a request: no instance of a {kind} runs before its checks passed"
            yield Finding("needs-a-route", ("checks", index, "http"), problem, "write command: […]", True)
    for name, environment in _mapping(data, "environments").items():
        if isinstance(environment, dict):
            yield from _of_an_environment(environment, ("environments", name), kind)
            if kind == "job":
                yield from _of_a_schedule(environment, ("environments", name))


def _of_a_schedule(environment: dict[str, Any], path: Path) -> Iterator[Finding]:
    if not any(nearest(str(key), ["schedule"]) for key in environment):
        problem = "expected the key schedule, which has no default, found no such key"
        yield Finding("missing-key", (*path, "schedule"), problem, "write schedule: {every: 15m} or {cron: …}")
    schedule = environment.get("schedule")
    if not isinstance(schedule, dict):
        return
    given = [key for key in ("every", "cron") if key in schedule]
    if len(given) != 1:
        problem = f"expected one of every and cron, found {'both' if given else 'neither'}"
        yield Finding("wrong-schedule", (*path, "schedule"), problem, "write schedule: {every: 15m} or {cron: …}")
    elif given == ["every"] and "zone" in schedule:
        problem = "expected zone only with cron, found it with every"
        yield Finding("key-does-nothing", (*path, "schedule", "zone"), problem, "remove the line", True)


def _of_an_environment(environment: dict[str, Any], path: Path, kind: str) -> Iterator[Finding]:
    for key, why in (ROUTED_KEYS | IDLE_KEYS[kind]).items():
        if key in environment and environment[key] is not False:
            problem = f"expected no {key} with kind: {kind} ({why}), found one"
            yield Finding("needs-a-route", (*path, key), problem, "remove the line", True)
    strategy = environment.get("strategy")
    if strategy == "shadow" or (isinstance(strategy, dict) and "shadow" in strategy):
        problem = "expected a strategy that needs no requests to copy, found shadow without a route"
        yield Finding("needs-a-route", (*path, "strategy"), problem, "write canary, linear, blue-green or all-at-once")
    for name in ("canary", "linear"):
        if "mirror" in _mapping(strategy, name):
            problem = f"expected no copies of requests with kind: {kind}, which gets none, found mirror"
            yield Finding("needs-a-route", (*path, "strategy", name, "mirror"), problem, "remove the line", True)
    for name, metric in _mapping(_mapping(environment, "judge"), "metrics").items():
        for source in ("prometheus", "endpoint"):
            if _mapping(metric, source).get("total") == REQUESTS:
                problem = f"expected a counter of the {kind}'s own as the total, found {REQUESTS}, which no route deals"
                where = (*path, "judge", "metrics", name, source, "total")
                yield Finding("needs-a-route", where, problem, f"count what the {kind} does", True)
    if "latency" in _mapping(environment, "judge"):
        problem = f"expected no latency with kind: {kind} (there are no answers to time), found it"
        yield Finding("needs-a-route", (*path, "judge", "latency"), problem, "remove the line", True)
