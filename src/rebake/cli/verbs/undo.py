"""`rebake undo ENV`: the previous revision is back, settings included, before the finger has left the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rebake.cli import group as together
from rebake.cli.follow import follow
from rebake.cli.options import of_environment_or_group
from rebake.cli.output import emit_json, line, paint
from rebake.cli.session import Session, environment_path, requested_by
from rebake.cli.story import ending
from rebake.cli.words import View, seconds, short


@click.command()
@of_environment_or_group
@click.option("--dry-run", is_flag=True, help="Say what would come back, and change nothing.")
def command(
    *, environment: str | None, service: str | None, file: Path, as_json: bool, group: str | None, dry_run: bool
) -> int:
    """Put the previous revision of ENV back, at once, with its settings.

    No judge is asked. What was undone goes to quarantine, so that it does not come back by itself.
    """
    together.one_of(environment, group, "undo")
    session = Session()
    if environment is None:
        return together.undo(session, str(group), as_json=as_json)
    session.require_state()
    name = session.service_of(environment, service, file)
    asked = {"requested_by": requested_by(), "dry_run": dry_run}
    view = session.post(environment_path(name, environment, "undo"), asked, timeout=600.0)
    if not as_json:
        for text in _told(view, dry_run):
            line(text)
    code = 0
    if not view["warm"] and not dry_run:
        code = _raised_again(session, view, as_json)
    if as_json:
        emit_json(view)
    return code


def _raised_again(session: Session, view: dict[str, Any], as_json: bool) -> int:
    """The restored fleet is gone and is raised again: wait until it serves. Returns the exit code."""
    end = follow(session.follow(view["rollout"], "promoted"), as_json)
    view["seconds"] += end["seconds"]
    if not as_json and end["outcome"] == "promoted":
        place, took = f"{view['service']}/{view['environment']}", seconds(view["seconds"])
        line(f"{paint('undone', 'green', 'bold')}: {place} is back on revision {short(view['restored'])} after {took}")
    elif not as_json:
        for text in ending(end):
            line(text)
    return int(end["exit_code"])


def _told(view: View, dry_run: bool) -> list[str]:
    place = f"{view['service']}/{view['environment']}"
    restored, undone = short(view["restored"]), short(view["undone"])
    if dry_run:
        how = "at once, its fleet is warm" if view["warm"] else f"as soon as its fleet is raised again{_took(view)}"
        lines = [f"would put revision {restored} back in place of {undone} in {place}, {how}"]
    elif view["warm"]:
        took = paint(seconds(view["seconds"]), "bold")
        lines = [f"{paint('undone', 'green', 'bold')}: {place} is back on revision {restored} after {took}"]
        lines.append(f"  {undone} is in quarantine; to let it go: rebake quarantine release {undone}")
    else:
        lines = [f"revision {restored} is being raised again for {place} (rollout {view['rollout']}){_took(view)}"]
    passed = ", ".join(short(digest) for digest in view.get("passed_over") or ())
    lines += [f"  passed over {passed}: in quarantine; rebake quarantine says why"] if passed else []
    changes = view.get("changes") or []
    return lines + (["  what changes with it:"] if changes else []) + [f"    {change}" for change in changes]


def _took(view: View) -> str:
    """How long the fleet that comes back needs, by what it needed before."""
    expected = view.get("expected_seconds")
    return f"; it was whole after {seconds(expected)} when it was last raised" if expected is not None else ""
