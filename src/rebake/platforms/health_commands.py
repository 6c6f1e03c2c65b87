"""Health commands of instances that answer no HTTP: each run as a process in the instance's place, watched, ended late.

Everything here happens on the watcher's thread. A command that is still running when its time is over is killed with
all that it started in its session; so is one whose instance is not watched any more.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rebake.release.manifest import Health

Start = Callable[[str], int]
"""Runs the health command of an instance; its process number. Raises: OSError."""


class Commands(Protocol):
    """Runs health commands, at most one at a time for each instance."""

    def ask(self, instance: str, contract: Health, told: Callable[[str | None], None]) -> None:
        """Run the command once.

        Args:
            told: why the instance is not well, or None; once, later, unless it is forgotten first.
        """
        ...

    def forget(self, instance: str) -> None:
        """Nobody wants the answer any more."""
        ...

    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class Asked:
    """One command under way."""

    instance: str
    pid: int
    pidfd: int
    told: Callable[[str | None], None]
    late: str | None = None


class HealthCommands:
    """The commands under way, at most one for each instance.

    Args:
        start: runs one.
        listen: calls back when a descriptor becomes readable; `drop` ends that.
        after: calls back after so many seconds.
    """

    def __init__(
        self,
        start: Start,
        listen: Callable[[int, Callable[[int], None]], None],
        drop: Callable[[int], None],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._start, self._listen, self._drop, self._after = start, listen, drop, after
        self.running: dict[str, Asked] = {}

    @property
    def pids(self) -> frozenset[int]:
        """Their processes: they carry an instance's mark, and are no strangers."""
        return frozenset(asked.pid for asked in list(self.running.values()))

    def ask(self, instance: str, contract: Health, told: Callable[[str | None], None]) -> None:
        """Run the command once.

        Args:
            told: why the instance is not well, or None; once, later, unless it is forgotten first.
        """
        try:
            pid = self._start(instance)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            told(f"health command: {error.strerror or error}")
            return
        asked = self.running[instance] = Asked(instance, pid, pidfd, told)
        self._listen(pidfd, lambda _events: self._ended(asked))
        seconds = contract.timeout_ms / 1000
        self._after(seconds, lambda: self._expire(asked, f"health command: not done within {seconds:g}s"))

    def forget(self, instance: str) -> None:
        """Nobody wants the answer any more."""
        asked = self.running.get(instance)
        if asked is not None:
            asked.told = _unheard
            self._kill(asked)

    def close(self) -> None:
        for instance in list(self.running):
            self.forget(instance)

    def _expire(self, asked: Asked, late: str) -> None:
        if self.running.get(asked.instance) is asked:
            asked.late = late
            self._kill(asked)

    @staticmethod
    def _kill(asked: Asked) -> None:
        """It is our child and not waited for yet, so its number is its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(asked.pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):  # before it has a session of its own
            os.kill(asked.pid, signal.SIGKILL)

    def _ended(self, asked: Asked) -> None:
        self._drop(asked.pidfd)
        os.close(asked.pidfd)
        status: int | None = None
        with suppress(ChildProcessError):
            status = os.waitpid(asked.pid, 0)[1]
        if self.running.get(asked.instance) is asked:
            del self.running[asked.instance]
        code = None if status is None else os.waitstatus_to_exitcode(status)
        failure = None if code == 0 else f"health command: {ended_words(code)}"
        asked.told(asked.late or failure)


def ended_words(code: int | None) -> str:
    """How a command ended, in the words of an instance's own end.

    Args:
        code: its exit code; less than nothing for a signal; None when nobody knows.
    """
    if code is None:
        return "its exit code is unknown"
    return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _unheard(_failure: str | None) -> None:
    pass
