"""`rebake agent`: the process that does the work. Users notice neither its start nor its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from rebake.cli import agent_process
from rebake.cli.client import AgentAbsent, Client
from rebake.cli.options import json_option
from rebake.cli.output import emit_json, line
from rebake.cli.session import Session
from rebake.core.agent_lock import lock_holder
from rebake.errors import UsageError
from rebake.server.wanted import Wanted

_PATIENCE_SECONDS = 5.0
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True, resolve_path=False)
_SHOWN = ("running", "pid", "socket", "version", "since")


@click.group(no_args_is_help=False)
def command() -> None:
    """Start, stop and look at the agent. Other verbs start it when they need it; nothing that serves depends on it."""


def _facts(session: Session) -> dict[str, Any]:
    """Source: DESIGN section 5, `agent status --json`."""
    absent: dict[str, Any] = dict.fromkeys(_SHOWN)
    absent.update(running=False, socket=str(session.home.agent_socket))
    holder = lock_holder(session.home.agent_lock)
    if holder is None:
        return absent
    try:
        doc = Client(session.home.agent_socket).call("GET", "/v1/agent", timeout=_PATIENCE_SECONDS, any_version=True)
    except AgentAbsent:
        return {**absent, "pid": holder or None}  # it starts, or ends, at this moment
    return {name: doc[name] for name in _SHOWN}


def _tell(facts: dict[str, Any], as_json: bool) -> int:
    if as_json:
        emit_json(facts)
    elif facts["running"]:
        line(
            f"running: rebake {facts['version']}, pid {facts['pid']}, since {facts['since']}, socket {facts['socket']}"
        )
    elif facts["pid"]:
        line(f"starting, or ending, as pid {facts['pid']}")
    else:
        line("not running; it is started when it is needed. What serves does not depend on it")
    return 0


@command.command()
@json_option
def status(*, as_json: bool) -> int:
    """Say whether the agent runs."""
    return _tell(_facts(Session(here=True)), as_json)


@command.command()
@click.option("--foreground", is_flag=True, help="Be the agent, for a supervisor such as systemd or Kubernetes.")
@click.option("--serve", metavar="HOST:PORT", help="Be a team's server: its API for whoever has a token.")
@click.option("--tokens", type=_FILE, metavar="FILE", help="Who is let in: a line NAME TOKEN for each.")
@click.option("--certificate", type=_FILE, metavar="FILE", help="PEM certificate of the server, with its chain.")
@click.option("--key", type=_FILE, metavar="FILE", help="Its private key.")
@click.option("--probes", metavar="HOST:PORT", help="Serve /livez, /readyz and /metrics there.")
@json_option
def start(*, foreground: bool, as_json: bool, **wanted: Any) -> int:
    """Start the agent, if it does not run, and wait until it answers."""
    session = Session(here=True)
    asked = Wanted(**wanted)
    if foreground:
        _become(session, asked)
    if asked != Wanted():
        raise UsageError(
            "server-in-foreground",
            "expected --foreground beside what a server needs, found none",
            where="--serve, --probes",
            remedy="add --foreground: a server is kept by a supervisor",
        )
    session.get("/v1/agent")  # starts it, or puts this version in the place of an older one
    return _tell(_facts(session), as_json)


def _become(session: Session, wanted: Wanted) -> None:
    wanted.check()
    if (pid := lock_holder(session.home.agent_lock)) is not None:
        raise UsageError(
            "agent-already-running",
            f"the agent of this home runs already, as pid {pid}",
            where=str(session.home.agent_lock),
            remedy="rebake agent stop",
        )
    agent_process.make_home(session.home)
    command = [*agent_process.COMMAND, "--home", str(session.home.root), *wanted.words()]
    sys.stdout.flush()
    os.execv(command[0], command)


@command.command()
@json_option
def stop(*, as_json: bool) -> int:
    """End the agent. Nothing that serves stops; what is under way goes on when it is started again."""
    session = Session(here=True)
    pid = agent_process.stop(session.home)
    if as_json:
        emit_json(_facts(session))
    else:
        line("the agent did not run" if pid is None else f"the agent (pid {pid}) has ended; what serves goes on")
    return 0
