"""`rebake bake`: source in, sealed release out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rebake.cli import workshop
from rebake.cli.options import file_option, json_option
from rebake.cli.output import emit_json, line, notice
from rebake.cli.session import Session
from rebake.cli.words import plural, seconds


@click.command()
@file_option
@json_option
def command(*, file: Path, as_json: bool) -> int:
    """Bake the source that rebake.yaml names into a release, and print its digest."""
    home = Session().home
    result = workshop.bake(home, workshop.read_file(home, file), notice)
    doc = document(result)
    if as_json:
        emit_json(doc)
        return 0
    from rebake.core.units import format_size

    reused = f", reused {' and '.join(doc['reused'])}" if doc["reused"] else ""
    took = seconds(doc["seconds"])
    notice(
        f"baked {doc['service']}: {format_size(doc['size'])} in {plural(len(doc['layers']), 'layer')}, {took}{reused}"
    )
    line(doc["release"])
    return 0


def document(result: Any) -> dict[str, Any]:
    """A `BakeResult` as `--json` shows it."""
    release = result.release
    return {
        "release": release.digest,
        "service": release.service,
        "base": release.base,
        "layers": [{"digest": layer.digest, "size": layer.size, "role": layer.role} for layer in release.layers],
        "size": release.size,
        "reused": list(result.reused),
        "seconds": round(result.seconds, 3),
    }
