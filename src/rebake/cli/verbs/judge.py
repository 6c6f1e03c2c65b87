"""`rebake judge`: what the judge reads, and what it makes of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from rebake.cli.options import DEFAULT_FILE, file_option, json_option, of_environment, service_option
from rebake.cli.output import emit_json, line, notice, paint, shows_blocks
from rebake.cli.session import Session, environment_path
from rebake.cli.targets import rollout_of
from rebake.cli.words import COHORTS, View, plural

PLATFORM_FAILED = 5


@click.group()
def command() -> None:
    """What the judge reads, and what it makes of it."""


@command.command()
@of_environment
def metrics(*, environment: str, service: str | None, file: Path, as_json: bool) -> int:
    """Ask the source of every metric of ENV once, and show what it says.

    The metrics are those of judge.metrics in the file here, or else those that ENV was deployed with. Nothing is judged
    and nothing changes.

    Exit codes: 0 every source has data, 5 one of them has none.
    """
    session = Session()
    session.require_state()
    name = session.service_of(environment, service, file)
    path = environment_path(name, environment, "metrics")
    view = session.post(path, {"metrics": _in_file(session, file, name, environment)})
    if as_json:
        emit_json(view)
    else:
        for text in _told(view):
            line(text)
    return PLATFORM_FAILED if any(metric["problem"] for metric in view["metrics"]) else 0


def _in_file(session: Session, file: Path, service: str, environment: str) -> list[Any] | None:
    """The file's metrics for this environment; None where there is no such file, or it describes something else."""
    if not file.exists() and file == DEFAULT_FILE:
        return None
    from rebake.cli import workshop

    described = workshop.read_file(session.home, file).file
    if described.service != service or environment not in described.environments:
        return None
    found: list[Any] = described.environments[environment]["plan"]["judge"]["metrics"]
    return found


def _told(view: View) -> list[str]:
    place = f"{view['service']}/{view['environment']}"
    if not view["metrics"]:
        return [f"{place} has no metrics of its own; see judge.metrics in docs/rebake-yaml.md"]
    lines: list[str] = []
    for metric in view["metrics"]:
        mark = paint("no data", "red", "bold") if metric["problem"] else paint("ok", "green", "bold")
        remark = ", observed only" if metric["observe"] else ""
        lines.append(f"{mark}  {metric['metric']}  ({metric['asked']['kind']}, {metric['form']}{remark})")
        lines += [f"    {_side(name, metric['cohorts'][name])}" for name in COHORTS if name in metric["cohorts"]]
        lines += [f"    {metric['problem']}"] if metric["problem"] else []
        lines += [f"    {metric['remedy']}"] if metric["remedy"] else []
    return lines


def _side(cohort: str, side: Mapping[str, Any]) -> str:
    """One cohort's answer in one line."""
    if side["trials"]["runs"]:
        return f"{cohort}: {'failed' if side['trials']['failures'] else 'passed'}"
    if side["counters"]:
        sums = [sum(pair[i] for pair in side["counters"].values()) for i in (0, 1)]
        said = f"counters stand at {sums[0]:,.6g} and {sums[1]:,.6g}"
        return f"{cohort}: {said}, of {plural(len(side['counters']), 'unit')}"
    numbers: Sequence[float] = list(side["numbers"].values())
    if not numbers:
        return f"{cohort}: no data"
    return f"{cohort}: {', '.join(f'{value:,.6g}' for value in numbers[:8])}{' …' if len(numbers) > 8 else ''}"


@command.command()
@click.argument("target", metavar="[ROLLOUT|ENV]", required=False, default=None)
@service_option
@file_option
@json_option
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A picture, to FILE.")
def explain(*, target: str | None, service: str | None, file: Path, as_json: bool, svg: Path | None) -> int:
    """Draw the course of a rollout: shares, requests, evidence, and what happened when.

    By default of the last one that was judged, of ENV or of all there are. Seconds count from the judge's first tick.
    """
    session = Session()
    session.require_state()
    rollout = rollout_of(session, target, service, file)
    doc = session.get(f"/v1/rollouts/{quote(rollout, safe='')}/explain")
    if svg is not None:
        _draw(doc, svg)
    if as_json:
        emit_json(doc)
    elif svg is None:
        _show(doc)
    return 0


def _draw(doc: object, target: Path) -> None:
    from rebake.core.atomic import write_atomic
    from rebake.judge.picture import picture

    write_atomic(target, picture(doc).encode())  # type: ignore[arg-type]
    notice(f"drew {target}")


def _show(doc: object) -> None:
    from rebake.cli.chart import chart

    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    for text in chart(doc, width=min(width, 160), plain=not shows_blocks()):  # type: ignore[arg-type]
        line(text)
