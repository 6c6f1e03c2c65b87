"""What a caller from afar may not ask: whatever would read from, or run on, the machine of the server itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rebake.errors import Refused
from rebake.judge.metric_rules import CommandAsk, MetricRule
from rebake.rollout.plan import Plan


def is_from_afar(doc: Mapping[str, Any]) -> bool:
    return bool(doc.get("from_afar"))


def refuse_of_this_machine(doc: Mapping[str, Any], plan: Plan) -> None:
    """Raises: Refused `server-platform`, `server-command`."""
    if not is_from_afar(doc):
        return
    if plan.platform == "local":
        raise Refused(
            "server-platform",
            "expected a platform of its own, found local: its instances would be processes of the server's machine",
            where=f"environments.{plan.environment}.platform",
            remedy="write docker or kubernetes; or deploy there, where REBAKE_SERVER is not set",
        )
    refuse_commands(doc, plan.judge.metrics)


def refuse_commands(doc: Mapping[str, Any], rules: Iterable[MetricRule]) -> None:
    """Raises: Refused `server-command`."""
    command = next((rule.name for rule in rules if isinstance(rule.ask, CommandAsk)), None)
    if is_from_afar(doc) and command is not None:
        raise Refused(
            "server-command",
            f"the metric {command} comes from a command, which would run on the server's machine",
            where=f"judge.metrics.{command}",
            remedy="take it from Prometheus or the service's own endpoint",
        )
