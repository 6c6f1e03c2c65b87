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
@click.option("--push", is_flag=True, help="Put the release into the repository that bake.repository names.")
@json_option
def command(*, file: Path, push: bool, as_json: bool) -> int:
    """Bake the source that rebake.yaml names into a release, and print its digest."""
    home = Session().home
    described = workshop.read_file(home, file)
    with workshop.registries() as there:
        if push:
            workshop.prepare(home, described, there)
        result = workshop.bake(home, described, there, notice)
        for text in result.notes:
            notice(text)
        doc = document(result)
        if push:
            doc["pushed"] = workshop.push(home, described, doc["release"], there, notice)
    if as_json:
        emit_json(doc)
        return 0
    from rebake.core.units import format_size

    reused = f", reused {' and '.join(doc['reused'])}" if doc["reused"] else ""
    took = seconds(doc["seconds"])
    notice(
        f"baked {doc['service']}: {format_size(doc['size'])} in {plural(len(doc['layers']), 'layer')}, {took}{reused}"
    )
    if push:
        notice(_told(doc["pushed"]))
    line(doc["release"])
    return 0


def _told(pushed: dict[str, Any]) -> str:
    """A push in one line."""
    from rebake.core.units import format_size

    mounted = f", {pushed['mounted']} taken over from the base's repository" if pushed["mounted"] else ""
    sent = f"{plural(pushed['sent'], 'blob')} sent ({format_size(pushed['bytes'])})"
    return f"pushed {pushed['reference']}: {sent}, {pushed['held']} there already{mounted}"


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
        "notes": list(result.notes),
    }
