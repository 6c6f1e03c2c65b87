"""On a real pseudo-terminal: the live view, and Ctrl-C that lets go."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cli.fake import FakeApplication, environment_view, rollout_view

from rebake.core.home import Home

pytestmark = pytest.mark.real
ATTENTIVE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("rebake.cli", run_name="__main__", alter_sys=True)
"""


@contextmanager
def on_a_terminal(home: Home, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a pseudo-terminal of its own; the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "REBAKE_HOME": str(home.root), "TERM": "xterm-256color", "COLUMNS": "100"}
    for name in ("CI", "NO_COLOR"):
        env.pop(name, None)
    # A shell that runs the tests in the background has them ignore Ctrl-C, and a process hands that on.
    command = [sys.executable, "-c", ATTENTIVE, *args]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as run:
        os.close(theirs)
        try:
            yield run, ours
        finally:
            run.kill()
            os.close(ours)


def read_until(handle: int, text: str, seconds: float = 20.0) -> str:
    """What the terminal shows, up to and with `text`; fails when it never comes."""
    deadline = time.monotonic() + seconds
    shown = b""
    while text.encode() not in shown:
        assert time.monotonic() < deadline, shown.decode(errors="replace")
        try:
            shown += os.read(handle, 65536)
        except OSError:  # EIO: the other end is closed
            break
    assert text.encode() in shown, shown.decode(errors="replace")
    return shown.decode(errors="replace")


def test_the_live_view_and_the_ending(home: Home, application: FakeApplication) -> None:
    application.environments = [environment_view(rollout=rollout_view())]
    with on_a_terminal(home, "status", "production", "--watch") as (run, terminal):
        shown = read_until(terminal, "to go back: rebake undo production")
        assert run.wait(20) == 0
    assert "promoted" in shown
    assert "\x1b[" in shown


def test_ctrl_c_lets_go_of_what_goes_on(home: Home, application: FakeApplication) -> None:
    application.environments = [environment_view(rollout=rollout_view())]
    application.journey = [rollout_view()]
    with on_a_terminal(home, "status", "production", "--watch") as (run, terminal):
        first = read_until(terminal, "950 requests")
        assert "shifting, step 1 of 4" in first
        run.send_signal(signal.SIGINT)
        last = read_until(terminal, "rebake stop production")
        assert run.wait(20) == 0
    assert "the rollout goes on" in last
    assert application.calls == []


def test_down_asks_a_person_first(home: Home, application: FakeApplication) -> None:
    with on_a_terminal(home, "down", "production") as (run, terminal):
        read_until(terminal, "Go on?")
        os.write(terminal, b"n\n")
        assert run.wait(20) == 6
    assert application.calls == []
