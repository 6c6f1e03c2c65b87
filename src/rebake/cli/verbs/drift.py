"""`rebake drift ENV`: what differs from what was released."""

from __future__ import annotations

from pathlib import Path

import click

from rebake.cli.options import of_environment
from rebake.cli.output import emit_json, line, paint
from rebake.cli.session import Session, environment_path
from rebake.cli.words import View, plural, table


@click.command()
@of_environment
def command(*, environment: str, service: str | None, file: Path, as_json: bool) -> int:
    """Compare every instance of ENV with its release, now. What differs is replaced, never repaired."""
    session = Session()
    session.require_state()
    name = session.service_of(environment, service, file)
    view = session.get(environment_path(name, environment, "drift"))
    if as_json:
        emit_json(view)
    else:
        for text in _told(view):
            line(text)
    return 0


def _told(view: View) -> list[str]:
    looked = f"{plural(view['checked'], 'instance')} of {view['service']}/{view['environment']} looked at"
    if not view["drift"]:
        return [f"{paint('no drift', 'green', 'bold')}: {looked}"]
    rows = [["INSTANCE", "KIND", "WHERE", "EXPECTED", "FOUND"]]
    keys = ("instance", "kind", "where", "expected", "found")
    rows += [[str(d.get(key) or "-") for key in keys] for d in view["drift"]]
    head = paint(plural(len(view["drift"]), "difference"), "red", "bold")
    return [f"{head}: {looked}", *table(rows, indent="  "), "  drifted instances are replaced by fresh ones"]
