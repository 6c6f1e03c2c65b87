"""`rebake logs ENV`: what the instances wrote."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rebake.cli.options import of_environment
from rebake.cli.output import emit_json, line, notice, paint, reader_left
from rebake.cli.session import Session, environment_path

_FOLLOW_LINES = 1000
_EVERY_SECONDS = 0.5


@click.command()
@of_environment
@click.option("--instance", metavar="ID", help="Only this instance, by the beginning of its name.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, 10_000), default=50, show_default=True, help="Last lines of each."
)
@click.option("-F", "--follow", is_flag=True, help="Go on with what they write until Ctrl-C.")
def command(
    *,
    environment: str,
    service: str | None,
    file: Path,
    as_json: bool,
    instance: str | None,
    lines: int,
    follow: bool,
) -> int:
    """Show the last lines of every instance of ENV, stable and candidate alike."""
    if follow and as_json:
        raise click.UsageError("--json is one document; it cannot follow")
    session = Session()
    session.require_state()
    path = environment_path(session.service_of(environment, service, file), environment, "logs")
    doc = session.get(path, instance=instance, lines=lines)
    if as_json:
        emit_json(doc)
        return 0
    if not any(log["lines"] for log in doc["logs"]):
        notice(f"no instance of {environment} has written anything")
    _show({log["instance"]: log["lines"] for log in doc["logs"]})
    if follow:
        _follow(session, path, instance)
    return 0


def _show(logs: dict[str, list[str]]) -> None:
    for name, texts in logs.items():
        for text in texts:
            line(f"{paint(name, 'dim')} | {text}")


def fresh_lines(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """What was written since, found by laying the end of `before` over `now`.

    >>> fresh_lines(["a", "b"], ["b", "c"]), fresh_lines(["a"], ["a"]), fresh_lines(["q"], ["r"])
    (['c'], [], ['r'])
    """
    for overlap in range(min(len(before), len(now)), 0, -1):
        if list(before[-overlap:]) == list(now[:overlap]):
            return list(now[overlap:])
    return list(now)


def _follow(session: Session, path: str, instance: str | None) -> None:
    def look() -> dict[str, Any]:
        doc = session.get(path, instance=instance, lines=_FOLLOW_LINES)
        return {log["instance"]: log["lines"] for log in doc["logs"]}

    try:
        known = look()
        while not reader_left():
            time.sleep(_EVERY_SECONDS)
            now = look()
            _show({name: fresh_lines(known.get(name, []), texts) for name, texts in now.items()})
            known = now
    except KeyboardInterrupt:
        return
