"""Run one of the user's programs to its end, or to a deadline. No shell sees it, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code, negative for a signal; None when it was ended here.
        output: what it wrote. errors: what it wrote to standard error, where that was kept apart.
    """

    code: int | None
    output: bytes
    errors: bytes = b""


def run_program(
    command: Sequence[str],
    env: Mapping[str, str],
    seconds: float,
    *,
    cwd: str | None = None,
    cancelled: threading.Event | None = None,
    apart: bool = False,
) -> Ended:
    """Run a program.

    Args:
        cwd: where it runs, if that folder is there.
        cancelled: set when the result is not wanted any more; the program is then ended.
        apart: keep standard error apart.
    Raises: OSError when it cannot be started.
    """
    process = subprocess.Popen(
        _program(command),
        cwd=cwd if cwd is not None and Path(cwd).is_dir() else None,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if apart else subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    while True:
        try:
            output, errors = process.communicate(timeout=0.2)
            return Ended(process.returncode, output, errors or b"")
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline or (cancelled is not None and cancelled.is_set()):
                os.killpg(process.pid, signal.SIGKILL)
                output, errors = process.communicate()
                return Ended(None, output, errors or b"")


def _program(command: Sequence[str]) -> list[str]:
    """`python` means the interpreter that runs the agent where the path knows no other."""
    first, *rest = command
    return [sys.executable if first == "python" else first, *rest]
