"""`rebake gc`: what no kept revision needs goes away."""

from __future__ import annotations

import click

from rebake.cli import workshop
from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session
from rebake.cli.words import plural, short
from rebake.core.units import format_size


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@json_option
def command(*, dry_run: bool, as_json: bool) -> int:
    """Remove releases, unpacked copies and secret versions that no kept revision needs.

    Safe while a bake or a rollout runs, and after a kill.
    """
    session = Session()
    none: dict[str, list[str]] = {"releases": [], "secrets": [], "instances": []}
    kept = none if session.is_fresh() else session.get("/v1/kept")
    doc = workshop.collect(session.home, kept, dry_run=dry_run)
    if as_json:
        emit_json(doc)
        return 0
    for digest in doc["removed"]:
        line(f"  {short(digest)}")
    verb = "would free" if dry_run else "freed"
    line(
        f"{verb} {format_size(doc['bytes'])}: {plural(len(doc['removed']), 'release')}, {plural(doc['blobs'], 'blob')}"
    )
    return 0
