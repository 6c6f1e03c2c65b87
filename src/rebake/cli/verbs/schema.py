"""`rebake schema`: what a rebake.yaml may say, for editors and checkers."""

from __future__ import annotations

import click

from rebake.cli.options import json_option
from rebake.cli.output import emit_json


@click.command()
@json_option
def command(*, as_json: bool) -> int:
    """Print the JSON Schema of rebake.yaml."""
    del as_json  # it is JSON always
    from rebake.spec.schema import json_schema

    emit_json(json_schema())
    return 0
