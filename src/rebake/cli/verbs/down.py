"""`rebake down ENV`: the environment ends; its releases and its record stay."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rebake.cli.options import of_environment
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, environment_path, requested_by


@click.command()
@of_environment
@click.option("-y", "--yes", is_flag=True, help="Do not ask; only a terminal is asked.")
def command(*, environment: str, service: str | None, file: Path, as_json: bool, yes: bool) -> int:
    """Retire every fleet of ENV and close its address. Releases and ledger stay; `deploy ENV` raises it again."""
    session = Session()
    session.require_state()
    name = session.service_of(environment, service, file)
    if not yes and not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        click.confirm(f"{name}/{environment} will serve nobody. Go on?", abort=True)
    asked = {"requested_by": requested_by()}
    view = session.post(environment_path(name, environment, "down"), asked, timeout=600.0)
    if as_json:
        emit_json(view)
    else:
        line(f"down: {name}/{environment} has no fleet and nothing that leads to one; its releases and its record stay")
    return 0
