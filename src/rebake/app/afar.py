"""What a caller from afar may not ask: whatever would read from, or run on, the machine of the server itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rebake.errors import Refused
from rebake.judge.metric_rules import CommandAsk, MetricRule, PrometheusAsk
from rebake.rollout.plan import Plan

_FILES = ("kubeconfig", "traffic.token_file", "audit_log")
"""Settings of platforms that name a file of the machine of the agent."""


def is_from_afar(doc: Mapping[str, Any]) -> bool:
    return bool(doc.get("from_afar"))


def refuse_of_this_machine(doc: Mapping[str, Any], plan: Plan) -> None:
    """Raises: Refused `server-platform`, `server-command`, `server-file`."""
    if not is_from_afar(doc):
        return
    if plan.platform == "local":
        raise Refused(
            "server-platform",
            "expected a platform of its own, found local: its instances would be processes of the server's machine",
            where=f"environments.{plan.environment}.platform",
            remedy="write docker or kubernetes; or deploy there, where REBAKE_SERVER is not set",
        )
    place = f"environments.{plan.environment}.{plan.platform}"
    for key in _FILES:
        value: Any = plan.platform_settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            raise _file(f"{place}.{key}", str(value))
    refuse_commands(doc, plan.judge.metrics)


def _file(where: str, path: str) -> Refused:
    return Refused(
        "server-file",
        f"{path} would be read on the server's machine, and sent where the caller says",
        where=where,
        remedy="remove the line: the server has its own sign-in; or deploy there, where REBAKE_SERVER is not set",
    )


def refuse_commands(doc: Mapping[str, Any], rules: Iterable[MetricRule]) -> None:
    """Raises: Refused `server-command`, `server-file`."""
    for rule in rules if is_from_afar(doc) else ():
        if isinstance(rule.ask, CommandAsk):
            raise Refused(
                "server-command",
                f"the metric {rule.name} comes from a command, which would run on the server's machine",
                where=f"judge.metrics.{rule.name}",
                remedy="take it from Prometheus or the service's own endpoint",
            )
        if isinstance(rule.ask, PrometheusAsk) and rule.ask.token_file is not None:
            raise _file(f"judge.metrics.{rule.name}.token_file", rule.ask.token_file)
