"""`rebake freeze [ENV]`: stop the line, and let it go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from rebake.cli.options import file_option, json_option, optional_environment_argument, service_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, requested_by
from rebake.cli.words import frozen_line
from rebake.errors import UsageError

DEFAULT_UNTIL = "1d"


@click.command()
@optional_environment_argument
@service_option
@file_option
@json_option
@click.option("--all", "everywhere", is_flag=True, help="Every environment of every service.")
@click.option(
    "--until",
    default=DEFAULT_UNTIL,
    show_default=True,
    metavar="WHEN",
    help='How long (2h, 3d), or until when by the clock here ("2026-12-24 18:00").',
)
@click.option("--reason", metavar="TEXT", help="Why; whoever waits reads it.")
@click.option("--lift", is_flag=True, help="End the freeze.")
def command(
    *,
    environment: str | None,
    service: str | None,
    file: Path,
    as_json: bool,
    everywhere: bool,
    until: str,
    reason: str | None,
    lift: bool,
) -> int:
    """Hold every rollout in ENV where it is: no user is moved on until it ends or is lifted.

    Without ENV and --all: what is frozen now. Stop and undo pass through a freeze, and so does what finds harm;
    `rebake approve ENV` lets one rollout pass.
    """
    session = Session()
    session.require_state()
    if environment is not None and everywhere:
        raise UsageError("wrong-usage", "expected ENV or --all, found both", remedy="rebake freeze --help")
    if environment is None and not everywhere:
        if lift or reason:
            raise UsageError("wrong-usage", "expected ENV, or --all for every one", remedy="rebake freeze --help")
        return _tell(session.get("/v1/freezes"), as_json)
    scope: dict[str, Any] = {"requested_by": requested_by()}
    if environment is not None:
        scope |= {"service": session.service_of(environment, service, file), "environment": environment}
    if lift:
        return _tell(session.post("/v1/freezes/lift", scope), as_json)
    return _tell(session.post("/v1/freezes", {**scope, "until": _end(until), "reason": reason or ""}), as_json)


def _end(text: str) -> float:
    """Seconds since the epoch. Raises: UsageError."""
    from datetime import datetime

    from rebake.core.units import parse_duration

    try:
        return time.time() + parse_duration(text) / 1000
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        expected = 'a duration such as 2h, or a date such as "2026-12-24 18:00"'
        raise UsageError(
            "wrong-until", f"expected {expected}, found {text!r}", where="--until", remedy="rebake freeze --help"
        ) from None


def _tell(doc: Any, as_json: bool) -> int:
    if as_json:
        emit_json(doc)
    elif not doc["freezes"]:
        line("nothing is frozen")
    for freeze in [] if as_json else doc["freezes"]:
        line(frozen_line(freeze))
    return 0
