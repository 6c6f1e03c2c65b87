"""`rebake history ENV`: past rollouts, newest first."""

from __future__ import annotations

from pathlib import Path

import click

from rebake.cli.options import of_environment
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, environment_path
from rebake.cli.words import history_rows, table


@click.command()
@of_environment
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
def command(*, environment: str, service: str | None, file: Path, as_json: bool, limit: int) -> int:
    """List the rollouts of ENV: what was asked, how it ended, and why."""
    session = Session()
    session.require_state()
    name = session.service_of(environment, service, file)
    doc = session.get(environment_path(name, environment, "history"), limit=limit)
    if as_json:
        emit_json(doc)
    elif not doc["history"]:
        line(f"no rollout of {name} in {environment} yet")
    else:
        for text in table(history_rows(doc["history"])):
            line(text)
    return 0
