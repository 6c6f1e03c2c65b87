"""Release groups on the command line: several services deployed, followed, stopped and undone as one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from rebake.cli import story, workshop
from rebake.cli.output import emit_json, line, notice
from rebake.cli.session import Session, requested_by
from rebake.cli.words import View, outcome_word, short, step_of
from rebake.errors import UsageError

LOOK_SECONDS = 0.5


def group_option(function: Any) -> Any:
    text = "The release group of this name, instead of ENV."
    return click.option("--group", metavar="NAME", help=text)(function)


def one_of(environment: str | None, group: object | None, verb: str) -> None:
    """Raises: UsageError unless exactly one of ENV and --group is given."""
    if (environment is None) == (group is None):
        found = "neither" if group is None else "both"
        problem = f"expected ENV or --group, found {found}"
        raise UsageError("wrong-usage", problem, where=f"rebake {verb}", remedy=f"rebake {verb} --help")


def deploy(session: Session, file: Path, *, detach: bool, again: bool, as_json: bool) -> int:
    """Bake every member and deploy them together. Returns the exit code of what the group came to."""
    say = notice if as_json else line
    group = workshop.read_group(file)
    members = []
    for member in group.members:
        described = workshop.read_file(session.home, file.parent / member.file)
        request = workshop.rollout_request(described, member.environment, from_afar=session.remote is not None)
        with workshop.registries() as there:
            if session.remote is not None:
                workshop.prepare(session.home, described, there)
            result = workshop.bake(session.home, described, there, lambda text: say(f"  {text}"))
            for text in result.notes:
                say(text)
            say(f"baked {described.file.service}: release {short(result.release.digest)}")
            if session.remote is not None:
                request |= workshop.handed_over(session.home, described, result.release.digest, there, notice)
        members.append({**request, "release": result.release.digest})
    asked = {"group": group.group, "order": group.order, "members": members}
    view = session.post("/v1/groups", {**asked, "again": again, "requested_by": requested_by()}, timeout=600.0)
    for name in view["serving"]:
        say(f"{name} serves this revision already")
    if not detach:
        try:
            view = follow(session, view, say)
        except KeyboardInterrupt:
            detach = True
    if detach and view["outcome"] is None:
        notice(f"detached; the group goes on: rebake status --group {group.group}; rebake stop --group {group.group}")
        view = {**view, "exit_code": 0}
    return told(view, as_json)


def follow(session: Session, view: View, say: Any) -> View:
    """Look at a group until it has an outcome; a line for each member that changed."""
    seen: dict[str, Any] = {}
    while True:
        for member in view["members"]:
            chapter = story.chapter(member)
            if seen.get(member["rollout"]) != chapter:
                seen[member["rollout"]] = chapter
                say(f"{member['service']}/{member['environment']} {story.progress_line(member)}")
        if view["outcome"] is not None:
            return view
        time.sleep(LOOK_SECONDS)
        fresh = session.get(f"/v1/groups/{quote(view['id'])}")
        view = {**fresh, "serving": view["serving"]}


def stop(session: Session, name: str, *, as_json: bool) -> int:
    session.require_state()
    view = session.post(f"/v1/groups/{quote(name)}/stop", {"requested_by": requested_by()}, timeout=600.0)
    return told({**view, "exit_code": 0}, as_json)


def undo(session: Session, name: str, *, as_json: bool) -> int:
    """Take every member back, and wait until those that must be raised again serve."""
    session.require_state()
    view = session.post(f"/v1/groups/{quote(name)}/undo", {"requested_by": requested_by()}, timeout=600.0)
    say = notice if as_json else line
    members = []
    for member in view["members"]:
        again = member["kind"] == "undo"
        last = list(session.follow(member["rollout"], "promoted"))[-1] if again else member
        if again:
            say(f"{last['service']}/{last['environment']} is back on revision {short(last['revision'])}")
        members.append(last)
    codes = [int(m["exit_code"] or 0) for m in members if m["kind"] == "undo"]
    return told({**view, "members": members, "exit_code": max(codes, default=0)}, as_json)


def status(session: Session, name: str, *, as_json: bool) -> int:
    session.require_state()
    view = session.get(f"/v1/groups/{quote(name)}")
    return told({**view, "exit_code": 0}, as_json)


def told(view: View, as_json: bool) -> int:
    """Say how a group stands. Returns its exit code."""
    if as_json:
        emit_json(view)
    else:
        for text in lines(view):
            line(text)
    return int(view["exit_code"] or 0)


def lines(view: View) -> list[str]:
    found = [f"group {view['group']} ({view['order']}): {outcome_word(view['outcome'])}: {view['reason']}"]
    for member in view["members"]:
        state = outcome_word(member["outcome"]) if member["outcome"] else step_of(member)
        place = f"{member['service']}/{member['environment']}"
        found.append(f"  {place}  {short(member['revision'])}  {state}: {member['reason']}")
    if view["outcome"] == "promoted":
        found.append(f"  to go back: rebake undo --group {view['group']}")
    return found
