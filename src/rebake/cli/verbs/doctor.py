"""`rebake doctor`: what would get in the way on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from rebake import __version__
from rebake.cli import agent_process, workshop
from rebake.cli.client import AgentAbsent, Client
from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line, paint
from rebake.core.agent_lock import lock_holder
from rebake.core.home import Home
from rebake.core.units import format_size
from rebake.errors import RebakeError

Finding = dict[str, Any]
_LITTLE_BYTES = 1 << 30
_PROBLEM = 5
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def finding(name: str, state: str, detail: str, remedy: str | None = None) -> Finding:
    """`state`: `ok`, `warning` (it works, but less well) or `problem` (something will fail)."""
    return {"name": name, "state": state, "detail": detail, "remedy": remedy}


@click.command()
@json_option
def command(*, as_json: bool) -> int:
    """Look at this machine: versions, home, disk, agent, and what the platform and the edge need.

    Exit code 5 when something would fail.
    """
    import os

    home = Home.from_env(os.environ)
    found = distinct([_version(), *_home(home), _agent(home), *_rooms(home)])
    problems = [one for one in found if one["state"] == "problem"]
    if as_json:
        emit_json({"findings": found, "problems": len(problems)})
    else:
        for one in found:
            _print(one)
    return _PROBLEM if problems else 0


def distinct(found: Iterable[Finding]) -> list[Finding]:
    """One finding for each name: the last one, who looked closest, in the place of the first."""
    return list({one["name"]: one for one in found}.values())


def _print(one: Finding) -> None:
    mark, shade = _MARKS[one["state"]]
    line(f"{paint(mark, shade, 'bold')} {one['name']}: {one['detail']}")
    if one["remedy"] and one["state"] != "ok":
        line(f"    next: {one['remedy']}")


def _version() -> Finding:
    python = ".".join(str(part) for part in sys.version_info[:3])
    return finding("rebake", "ok", f"{__version__} on Python {python}, {sys.executable}")


def _home(home: Home) -> list[Finding]:
    try:
        agent_process.check_home(home)
    except RebakeError as error:
        return [finding("home", "problem", f"{home.root}: {error.problem}", error.remedy)]
    return [finding("home", "ok", str(home.root)), _disk(home.root)]


def _disk(root: Path) -> Finding:
    """Room on the disk of the home, or of the first folder above it that exists."""
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    state = "ok" if free > _LITTLE_BYTES else "warning"
    return finding("disk", state, f"{format_size(free)} free", "rebake gc, or set REBAKE_HOME to a larger disk")


def _agent(home: Home) -> Finding:
    pid = lock_holder(home.agent_lock) if home.root.is_dir() else None
    if pid is None:
        return finding("agent", "ok", "not running; it is started when it is needed")
    try:
        doc = Client(home.agent_socket).call("GET", "/v1/agent", timeout=3.0, any_version=True)
    except (AgentAbsent, RebakeError):
        return finding("agent", "problem", f"pid {pid} holds the lock and does not answer", "rebake agent stop")
    other = doc["version"] != __version__
    remedy = "the next command that needs it replaces it, if it is older"
    detail = f"rebake {doc['version']}, pid {pid}, since {doc['since']}"
    return finding("agent", "warning" if other else "ok", detail, remedy)


def _rooms(home: Home) -> list[Finding]:
    """What platform, edge, builders and state need. A room that cannot even look is a problem itself."""
    try:
        return workshop.findings(home)
    except RebakeError as error:
        return [finding(error.code, "problem", error.problem, error.remedy)]
