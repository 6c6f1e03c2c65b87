"""`rebake init`: from a folder to a file that deploys it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line
from rebake.errors import UsageError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="[FOLDER]")
@click.option("--force", is_flag=True, help="Write over the rebake.yaml that is there.")
@json_option
def command(*, folder: Path, force: bool, as_json: bool) -> int:
    """Look at FOLDER (by default this one) and write a commented rebake.yaml that deploys it as it is."""
    from rebake.core.atomic import write_atomic
    from rebake.spec.init import draft

    path = folder / "rebake.yaml"
    if path.exists() and not force:
        raise UsageError(
            "file-exists",
            "expected no rebake.yaml here yet, found one",
            where=str(path.absolute()),
            remedy="rebake init --force writes over it; rebake deploy ENV uses the one that is there",
        )
    written = draft(folder.absolute(), engine=(folder / "Dockerfile").exists() and _engine_answers())
    try:
        write_atomic(path, written.text.encode())
    except OSError as error:
        raise UsageError(
            "folder-not-writable",
            f"rebake.yaml cannot be written: {error.strerror}",
            where=str(folder.absolute()),
            remedy="make the folder writable, or run rebake init as its owner",
        ) from error
    if as_json:
        emit_json({"file": str(path.absolute()), "notes": list(written.notes)})
        return 0
    line(f"wrote {path}")
    for note in written.notes:
        line(f"  note: {note}")
    line("  next: rebake deploy production")
    return 0


def _engine_answers() -> bool:
    """Whether a container engine of this machine would run what a Dockerfile makes."""
    from rebake.errors import Permanent
    from rebake.platforms.docker.client import answers
    from rebake.platforms.docker.settings import DockerSettings, socket_of

    try:
        return answers(socket_of(DockerSettings(), os.environ, Path.exists))
    except Permanent:  # DOCKER_HOST names another machine
        return False
