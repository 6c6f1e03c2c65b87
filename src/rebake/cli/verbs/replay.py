"""`rebake replay`: the judge again, over what it was fed in a rollout of the past or over a file of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from rebake.cli import margins
from rebake.cli.options import file_option, json_option, service_option
from rebake.cli.output import emit_json, line, notice
from rebake.cli.session import Session
from rebake.cli.targets import rollout_of


@dataclass(frozen=True, slots=True)
class _Source:
    """What is judged again: `profile` of its ramp, None with fixed steps; `view` None for a file."""

    name: str
    beginning: Any
    entries: Sequence[Any]
    profile: str | None
    environment: str | None = None
    view: Mapping[str, Any] | None = None
    full: bool = False


@click.command()
@click.argument("target", metavar="[ROLLOUT|ENV|FILE]", required=False, default=None)
@service_option
@file_option
@json_option
@margins.settings_options
@click.option(
    "--profile", type=click.Choice(["fast", "default", "careful"]), help="Another ramp; its times are estimates."
)
@click.option(
    "--judge",
    "judge_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.yaml",
    help="The settings of this file's judge: block.",
)
@click.option(
    "--export", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write what the judge was fed to FILE (.csv or .parquet).",
)  # fmt: skip
def command(
    *,
    target: str | None,
    service: str | None,
    file: Path,
    as_json: bool,
    profile: Any,
    judge_file: Path | None,
    export: Path | None,
    **typed: Any,
) -> int:
    """Judge a rollout of the past again, with other settings, and say what would have happened and when.

    By default of the last rollout that was judged, of ENV or of all there are. FILE is a file of samples, .csv or
    .parquet (docs/judge.md). Without other settings the outcome is the recorded one.
    """
    source = _of_file(target) if target is not None and _is_file(target) else _of_rollout(target, service, file)
    if export is not None:
        _export(source, export)
        if as_json:
            emit_json({"exported": str(export), "rollout": source.name})
        return 0
    settings = source.beginning.settings
    if judge_file is not None:
        settings = margins.in_file(judge_file, source.environment)
    again = replace(source.beginning, settings=margins.changed(settings, typed))
    doc = _judged_again(source, again, profile)
    if as_json:
        emit_json(doc)
    else:
        for text in lines_of(doc):
            line(text)
    return 0


def _is_file(target: str) -> bool:
    from rebake.cli.samples_file import is_samples

    return is_samples(target)


def _of_file(target: str) -> _Source:
    from rebake.cli import samples_file

    beginning, entries = samples_file.read(Path(target))
    return _Source(target, beginning, entries, "default")


def _of_rollout(target: str | None, service: str | None, file: Path) -> _Source:
    from rebake.judge.tape import Beginning, entries_of, unpack

    session = Session()
    session.require_state()
    rollout = rollout_of(session, target, service, file)
    doc = session.get(f"/v1/rollouts/{quote(rollout, safe='')}/tape")
    beginning = Beginning.from_json(json.loads(unpack(doc["began"]))[1])
    view = doc["view"]
    return _Source(
        rollout,
        beginning,
        list(entries_of(doc["parts"])),
        doc["strategy"]["profile"],
        str(view["environment"]),
        view,
        bool(doc.get("full")),
    )


def _export(source: _Source, target: Path) -> None:
    from rebake.cli import samples_file
    from rebake.judge.table import rows_of

    rows = rows_of(source.entries)
    samples_file.write(target, rows, {"rollout": source.name, "began": source.beginning.to_json()})
    notice(f"wrote {len(rows):,} ticks to {target}")


def _judged_again(source: _Source, again: Any, profile: Any) -> dict[str, Any]:
    """The document of `--json`."""
    from rebake.judge.rerun import happened, rerun, settings_differ

    before, recorded = source.beginning, source.view is not None
    needed = 1.0 / before.settings.false_rollbacks
    ramp: Any = profile if profile is not None or recorded else "default"
    same_ramp = recorded and profile == source.profile
    would = rerun(again, source.entries, profile=None if same_ramp else ramp)
    differ = list(settings_differ(before, again))
    if recorded and profile is not None and not same_ramp:
        differ.append(f"profile: {source.profile or 'fixed steps'} -> {profile}")
    return {
        "source": source.name,
        "outcome_then": None if source.view is None else source.view["outcome"],
        "then": happened(source.entries, needed=needed).to_json() if recorded else None,
        "now": would.to_json(),
        "changed": differ,
        "ticks": sum(1 for entry in source.entries if entry[0] == "tick"),
        "full": source.full,
    }


def lines_of(doc: Mapping[str, Any]) -> list[str]:
    """What happened and what would have happened, side by side."""
    from rebake.cli.words import table

    columns = [("", "what happened", doc["then"])] if doc["then"] else []
    columns.append(("", "with these settings", doc["now"]))
    rows = [["", *(title for _, title, _ in columns)]]
    rows += [[name, *(told(outcome) for _, _, outcome in columns)] for name, told in _TOLD]
    lines = [f"{doc['source']}: {doc['ticks']:,} ticks judged again", *(f"  {text}" for text in doc["changed"])]
    if not doc["changed"] and doc["then"]:
        lines.append("  with the settings of then")
    lines += ["", *table(rows, indent="  "), "", f"  {doc['now']['reason']}"]
    if doc["now"]["estimated"]:
        lines.append("  the shares stay those of the record; when this ramp is over is an estimate")
    if doc["now"]["outcome"] == "undecided":
        lines.append("  not taken back by the end of the record; what came later nobody knows")
    if doc["full"]:
        lines.append("  the tape was full: what the judge was fed later is not in it")
    return lines


def _second(outcome: Mapping[str, Any]) -> str:
    from rebake.judge.picture import clock

    return clock(outcome["second"])


def _promoted(outcome: Mapping[str, Any]) -> str:
    from rebake.judge.picture import clock

    if outcome["promoted_at"] is None:
        return "-"
    return ("about " if outcome["estimated"] else "") + clock(outcome["promoted_at"])


def _evidence(outcome: Mapping[str, Any]) -> str:
    from rebake.judge import texts

    return f"{texts.evidence(outcome['evidence'])} of {texts.number(outcome['needed'])}"


def _part(outcome: Mapping[str, Any], cohort: str) -> str:
    return f"{outcome[cohort]['errors']:,} of {outcome[cohort]['total']:,}"


_TOLD = (
    ("outcome", lambda o: str(o["outcome"])),
    ("at second", _second),
    ("promoted at", _promoted),
    ("evidence", _evidence),
    ("bad on candidate", lambda o: _part(o, "candidate")),
    ("bad on stable", lambda o: _part(o, "stable")),
    ("braked", lambda o: f"{o['held_seconds']:.1f} s"),
)
