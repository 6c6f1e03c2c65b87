"""Processes that carry our mark and that nobody asked for: found, shown as instances, ended on request."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from rebake.platforms.local import cgroups, processes
from rebake.platforms.local.folders import Folders
from rebake.platforms.local.processes import Marked
from rebake.platforms.local.records import Identity
from rebake.platforms.model import Drift, Instance

PREFIX = "stranger-"


@dataclass(frozen=True, slots=True)
class Known:
    """What belongs to the instances we know.

    Attributes:
        leaders: their processes; each leads a session of its own.
        members: everything in their control groups.
        grouped: control groups are in use, so a process outside of them is nobody's child.
        live: ids of instances whose process lives.
    """

    leaders: frozenset[int]
    members: frozenset[int]
    grouped: bool
    live: frozenset[str]


def known_processes(folders: Folders) -> Known:
    leaders: set[int] = set()
    groups: set[str] = set()
    live: set[str] = set()
    for folder, intent in folders.all():
        identity = folders.identity(folder)
        groups.update(intent.groups)
        if identity is not None:
            leaders.add(identity.pid)
            if processes.alive(identity):
                live.add(folder.id)
    members = cgroups.members_of(groups)
    return Known(frozenset(leaders), frozenset(members), bool(groups), frozenset(live))


def belongs(process: Marked, known: Known) -> bool:
    """Whether a marked process is one of an instance's own: its leader, its session, its group, its descendant."""
    pid = process.identity.pid
    if pid in known.leaders or process.session in known.leaders or pid in known.members:
        return True
    if processes.is_descendant(pid, known.leaders):
        return True
    # Without control groups, a daemon that left its session cannot be told from a stranger; it gets the benefit.
    return not known.grouped and process.env.get("REBAKE_INSTANCE") in known.live


LOOK_SECONDS = 2.0


class Strangers:
    """The strangers found by the last look.

    Args:
        asking: processes of health commands under way, which are ours and stand in no folder.
    """

    def __init__(
        self, folders: Folders, now: Callable[[], float], asking: Callable[[], frozenset[int]] = frozenset
    ) -> None:
        self._folders, self._now, self._asking = folders, now, asking
        self._found: dict[str, Marked] = {}
        self._deadlines: dict[str, float] = {}
        self._lock = threading.Lock()
        self._looked_at = -LOOK_SECONDS

    def look(self, *, recent: bool = False) -> None:
        """Look at every process of the machine that we may look at.

        Args:
            recent: a look of the last `LOOK_SECONDS` is good enough: every environment asks for one look at the same
                machine.
        """
        if recent and 0 <= time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        asking = self._asking()
        seen = list(processes.marked(self._folders.layout.data_root))
        asking |= self._asking()
        known = known_processes(self._folders)  # after the processes: one launched meanwhile is then known
        strangers = {PREFIX + str(m.identity.pid): m for m in seen if not belongs(m, known) and m.session not in asking}
        with self._lock:
            self._found = strangers
            self._deadlines = {i: d for i, d in self._deadlines.items() if i in strangers}

    def instances(self, service: str, environment: str) -> list[Instance]:
        with self._lock:
            found, stopping = dict(self._found), set(self._deadlines)
        return [
            _as_instance(name, m, name in stopping)
            for name, m in found.items()
            if (m.env.get("REBAKE_SERVICE"), m.env.get("REBAKE_ENVIRONMENT")) == (service, environment)
            and processes.alive(m.identity)
        ]

    def retire(self, instance: str, grace_ms: int) -> None:
        """Ask it to finish; end it when it did not within the grace. Does nothing to one that is gone."""
        with self._lock:
            known = instance in self._found
        if not known:
            self.look()
        with self._lock:
            found = self._found.get(instance)
            first = instance not in self._deadlines
            deadline = self._deadlines.setdefault(instance, self._now() + grace_ms / 1000) if found else 0.0
        if found is not None:
            self._end(found.identity, signal.SIGKILL if self._now() >= deadline else signal.SIGTERM, first)

    def _end(self, identity: Identity, number: signal.Signals, first: bool) -> None:
        if first or number == signal.SIGKILL:
            processes.kill(identity, number)


def _as_instance(name: str, process: Marked, stopping: bool) -> Instance:
    pid = process.identity.pid
    command = shlex.join(processes.command_line(pid))
    claim = process.env.get("REBAKE_INSTANCE", "")
    return Instance(
        id=name,
        fleet="",
        revision=process.env.get("REBAKE_REVISION", ""),
        state="stopping" if stopping else "running",
        pid=pid,
        detail=f"nobody asked for this process; it calls itself {claim}",
        drift=(Drift("stranger", f"process {pid}", "", command[:200]),),
    )
