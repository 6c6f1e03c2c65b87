"""`rebake quarantine`: revisions that were taken back, and a person's word to let one go."""

from __future__ import annotations

import click

from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session, requested_by
from rebake.cli.words import View, moment, short, table


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> int:
    """List revisions that are not deployed again unless a person releases them."""
    if ctx.invoked_subcommand is not None:
        return 0
    session = Session()
    doc = {"quarantine": []} if session.is_fresh() else session.get("/v1/quarantine")
    return _tell(doc, as_json)


@command.command()
@click.argument("revision")
@click.option("-s", "--service", metavar="NAME", help="Only of this service.")
@click.option("-e", "--environment", metavar="ENV", help="Only in this environment.")
@json_option
def release(*, revision: str, service: str | None, environment: str | None, as_json: bool) -> int:
    """Let REVISION go, so that it may be deployed again. The ledger says who did it."""
    session = Session()
    session.require_state()
    chosen = {"service": service, "environment": environment, "revision": revision}
    doc = session.post("/v1/quarantine/release", {**chosen, "requested_by": requested_by()})
    if not as_json:
        line(f"released: {short(revision)} may be deployed again")
    return _tell(doc, as_json)


def _tell(doc: View, as_json: bool) -> int:
    if as_json:
        emit_json(doc)
    elif not doc["quarantine"]:
        line("nothing is in quarantine")
    else:
        rows = [["REVISION", "RELEASE", "PLACE", "SINCE", "REASON"]]
        for held in doc["quarantine"]:
            place = f"{held['service']}/{held['environment']}"
            rows.append([short(held["revision"]), short(held["release"]), place, moment(held["at"]), held["reason"]])
        for text in table(rows):
            line(text)
    return 0
