"""`rebake dashboard`: the page that shows it all."""

from __future__ import annotations

import click

from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1; by default any free one."
)
@json_option
def command(*, port: int, as_json: bool) -> int:
    """Open the dashboard on this machine and print its address.

    The address holds a token: whoever has it may look. The page changes nothing.
    """
    doc = Session().post("/v1/dashboard", {"port": port})
    if as_json:
        emit_json(doc)
    else:
        line(doc["url"])
    return 0
