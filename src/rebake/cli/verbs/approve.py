"""`rebake approve ENV`: a person says yes."""

from __future__ import annotations

from pathlib import Path

import click

from rebake.cli.options import of_environment
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, environment_path, requested_by
from rebake.cli.words import environment_lines


@click.command()
@of_environment
def command(*, environment: str, service: str | None, file: Path, as_json: bool) -> int:
    """Let the rollout in ENV that waits for a person go on."""
    session = Session()
    session.require_state()
    name = session.service_of(environment, service, file)
    view = session.post(environment_path(name, environment, "approve"), {"requested_by": requested_by()})
    if as_json:
        emit_json(view)
    else:
        for text in environment_lines(view):
            line(text)
    return 0
