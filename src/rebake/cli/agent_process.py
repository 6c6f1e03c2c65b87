"""The agent as a process: started when it is needed, replaced when it is of an older version, ended when asked.

Starting and ending it is safe at any time: nothing that serves stops with it. Who is the agent is decided by the lock
of the home alone, so a socket or a pid that a crash left behind is never mistaken for one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from rebake import __version__
from rebake.cli.client import AgentAbsent, Client
from rebake.cli.output import notice
from rebake.core.agent_lock import lock_holder
from rebake.core.home import Home
from rebake.errors import Permanent, RebakeError, Transient, UsageError, from_json

START_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.01
_TAIL_BYTES = 4096

COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "rebake.server.agent")
"""`-P`: a folder of the user must not get to say what `rebake` or `asyncio` is."""


def check_home(home: Home) -> None:
    """Refuse a home that is not ours or cannot be written, before anything is written as the wrong user.

    Raises: UsageError `home-of-another-user`, `home-not-writable`; Permanent `home-not-writable` where its file system
        became read-only.
    """
    try:
        found = home.root.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _not_writable(home, error.strerror or str(error)) from error
    if found.st_uid != os.geteuid():
        raise UsageError(
            "home-of-another-user",
            f"expected a home of user {_user(os.geteuid())}, found one of user {_user(found.st_uid)}",
            where=str(home.root),
            remedy=f"run the command as {_user(found.st_uid)}, or set REBAKE_HOME to a folder of your own",
        )
    if home.root.is_dir() and os.statvfs(home.root).f_flag & os.ST_RDONLY:
        raise Permanent(
            "home-not-writable",
            "rebake cannot keep its state here: the file system is read-only",
            where=str(home.root),
            remedy="make it writable again (its kernel log says why it is not); what serves goes on meanwhile",
        )
    if not home.root.is_dir() or not os.access(home.root, os.W_OK | os.X_OK):
        raise _not_writable(home, "not a folder that can be written")


def make_home(home: Home) -> None:
    """Raises: UsageError `home-not-writable`."""
    check_home(home)
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(home, error.strerror or str(error)) from error


def _not_writable(home: Home, reason: str) -> UsageError:
    remedy = "set REBAKE_HOME to a folder that you can write to"
    problem = f"rebake cannot keep its state here: {reason}"
    return UsageError("home-not-writable", problem, where=str(home.root), remedy=remedy)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def start(home: Home, command: Sequence[str] = COMMAND) -> None:
    """Start the agent and return once it answers. When another terminal was first, wait for that one.

    Raises: what the agent itself could not do, or Permanent `agent-cannot-start` with the tail of its log.
    """
    import subprocess

    make_home(home)
    reading, writing = os.pipe()
    try:
        with home.agent_log.open("ab") as log:
            subprocess.run(
                [*command, "--home", str(home.root), "--detach", "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                cwd="/",
                check=False,
            )
        os.close(writing)
        writing = -1
        _judge(home, _told(reading))
    except OSError as error:
        raise _not_writable(home, error.strerror or str(error)) from error
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def _told(reading: int) -> dict[str, Any]:
    """The one line that the starting agent writes, or an empty document when it died without a word."""
    deadline = time.monotonic() + START_SECONDS
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            return {"slow": True}
        chunk = os.read(reading, 65536)
        if not chunk:
            return {}
        data += chunk
    doc: dict[str, Any] = json.loads(data)
    return doc


def _judge(home: Home, told: dict[str, Any]) -> None:
    if told.get("ready"):
        return
    if told.get("busy"):
        _await_answer(home)
        return
    if "error" in told:
        raise from_json(told["error"])
    if told.get("slow"):
        raise _no_start(home, f"the agent was not ready within {START_SECONDS:g} seconds")
    raise _no_start(home, "the agent ended while it started")


def _await_answer(home: Home) -> None:
    """Wait until the agent that another terminal started answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            Client(home.agent_socket).call("GET", "/v1/agent", any_version=True)
        except AgentAbsent:
            time.sleep(_POLL_SECONDS)
        else:
            return
    raise _no_start(home, "another agent holds this home and does not answer")


def _no_start(home: Home, problem: str) -> RebakeError:
    remedy = f"read {home.agent_log}, or look with: rebake doctor"
    return Permanent("agent-cannot-start", problem, where=str(home.agent_log), remedy=remedy, evidence=tail(home))


def tail(home: Home, lines: int = 8) -> list[str]:
    """The last lines of agent.log."""
    try:
        with home.agent_log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def stop(home: Home, *, seconds: float = STOP_SECONDS) -> int | None:
    """End the agent and return once its lock is free. Returns its pid, or None when none ran.

    One that does not end when it is told is killed, which loses nothing: the next agent takes over.

    Raises: Transient `agent-does-not-stop` when even that does not help.
    """
    pid = lock_holder(home.agent_lock)
    if pid is None:
        return None
    try:
        Client(home.agent_socket).call("POST", "/v1/agent/stop", {}, timeout=2.0, any_version=True)
    except (AgentAbsent, RebakeError):
        # It hangs, or is only starting: SIGTERM says the same, once it is no longer held still.
        _signal(pid, signal.SIGTERM, signal.SIGCONT)
    deadline = time.monotonic() + seconds
    killed = False
    while lock_holder(home.agent_lock) == pid:
        if time.monotonic() > deadline and not killed:
            notice(
                f"the agent (pid {pid}) did not end in {seconds:g} seconds: it is killed. Nothing that serves stops."
            )
            _signal(pid, signal.SIGKILL)
            killed, deadline = True, time.monotonic() + seconds
        elif time.monotonic() > deadline:
            raise Transient(
                "agent-does-not-stop",
                f"the agent (pid {pid}) did not end when it was told to, nor when it was killed",
                where=str(home.agent_log),
                remedy=f"kill -9 {pid} (safe: nothing that serves stops, and the next agent takes over)",
                evidence=tail(home),
            )
        time.sleep(_POLL_SECONDS)
    return pid


def _signal(pid: int, *signals: signal.Signals) -> None:
    import contextlib

    for each in signals if pid else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, each)


def _parts(version: str) -> tuple[int, ...]:
    """
    >>> _parts("0.10.2") > _parts("0.9")
    True
    """
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def replace(home: Home, version: str, command: Sequence[str] = COMMAND) -> None:
    """Put an agent of this version in the place of an older one.

    Raises: UsageError `agent-newer` when the agent is the newer of the two: the state may be in its form already.
    """
    if _parts(version) > _parts(__version__):
        raise UsageError(
            "agent-newer",
            f"this is rebake {__version__}, but the agent of this home is rebake {version}",
            where=str(home.root),
            remedy=f"use rebake {version} here (pip install rebake=={version}), or another home: REBAKE_HOME=FOLDER",
        )
    notice(f"the agent was rebake {version}; it is started again as {__version__}. Nothing that serves stops.")
    stop(home)
    start(home, command)
