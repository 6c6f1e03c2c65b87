"""`rebake stop ENV`: whatever is under way ends, and stable serves. Works from every state."""

from __future__ import annotations

from pathlib import Path

import click

from rebake.cli import group as together
from rebake.cli.options import of_environment_or_group
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, environment_path, requested_by
from rebake.cli.words import environment_lines


@click.command()
@of_environment_or_group
def command(*, environment: str | None, service: str | None, file: Path, as_json: bool, group: str | None) -> int:
    """Stop what is under way in ENV; users stay on, or go back to, stable. Safe when nothing is."""
    together.one_of(environment, group, "stop")
    session = Session()
    if environment is None:
        return together.stop(session, str(group), as_json=as_json)
    if session.is_fresh():
        return _nothing(environment, service, as_json)
    name = session.service_of(environment, service, file)
    view = session.post(environment_path(name, environment, "stop"), {"requested_by": requested_by()})
    if as_json:
        emit_json(view)
    else:
        for text in environment_lines(view):
            line(text)
    return 0


def _nothing(environment: str, service: str | None, as_json: bool) -> int:
    if as_json:
        empty: dict[str, object] = {"stable": None, "candidate": None, "route": {}, "rollout": None}
        emit_json({"service": service, "environment": environment, **empty})
    else:
        line("nothing runs, so there is nothing to stop")
    return 0
