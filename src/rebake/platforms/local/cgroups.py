"""Control groups of instances: where they can be made here, how limits are written, read back and removed.

Every instance gets its own group where one can be made, with or without limits, because a group also tells whose a
process is and ends all of an instance at once. Version 2 where it is delegated to us, else version 1, else none: then
memory is limited by RLIMIT_DATA and processor time is not limited (the doctor says so).

Source: Linux admin guide, cgroup-v2.rst, cgroup-v1/memory.rst; scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rebake.release.manifest import Resources

_PERIOD_US = 100_000
_MIN_QUOTA_US = 1000
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PARENT = "rebake"


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where groups can be made.

    Attributes:
        mode: `v2`, `v1` or `none`.
        parents: folder for each controller; on version 2 both are the same folder.
    """

    mode: Literal["v2", "v1", "none"] = "none"
    parents: Mapping[str, Path] | None = None

    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.parents or {}).values()))


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mounts that is a control group hierarchy."""

    path: Path
    kind: str
    options: frozenset[str]


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The control group hierarchies among the mounts."""
    rows = (line.split() for line in text.splitlines())
    return tuple(Mount(Path(r[1]), r[2], frozenset(r[3].split(","))) for r in rows if r[2] in ("cgroup", "cgroup2"))


def parse_membership(text: str) -> dict[str, str]:
    """/proc/PID/cgroup: path by controller; version 2 under the empty name.

    >>> parse_membership("4:memory:/a\\n3:cpu,cpuacct:/b\\n0::/c")
    {'memory': '/a', 'cpu': '/b', 'cpuacct': '/b', '': '/c'}
    """
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


def _can_make(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _find_v2(mounts: Iterable[Mount], own: str) -> Hierarchies | None:
    """The highest folder above us that is delegated to us with both controllers (systemd gives `user@.service`)."""
    for mount in mounts:
        if mount.kind != "cgroup2":
            continue
        steps = [part for part in own.split("/") if part and part != ".."]
        for depth in range(len(steps) + 1):
            folder = mount.path.joinpath(*steps[:depth])
            with suppress(OSError):
                offered = (folder / "cgroup.controllers").read_text().split()
                if {"memory", "cpu"} <= set(offered) and _can_make(folder):
                    return Hierarchies("v2", {"memory": folder, "cpu": folder})
    return None


def _find_v1(mounts: Iterable[Mount]) -> Hierarchies | None:
    found: dict[str, Path] = {
        name: mount.path
        for mount in mounts
        for name in ("memory", "cpu")
        if mount.kind == "cgroup" and name in mount.options and _can_make(mount.path)
    }
    return Hierarchies("v1", found) if found else None


def detect(
    tag: str, mounts_file: Path = Path("/proc/self/mounts"), own_file: Path = Path("/proc/self/cgroup")
) -> Hierarchies:
    """The first place where a group can really be made: it is tried, because permissions do not tell all.

    Never raises: a machine without one is a machine of mode `none`.
    """
    try:
        mounts, own = parse_mounts(mounts_file.read_text()), parse_membership(own_file.read_text())
    except (OSError, ValueError):
        return Hierarchies()
    for found in (_find_v2(mounts, own.get("", "/")), _find_v1(mounts)):
        if found is not None and _works(found, tag):
            return found
    return Hierarchies()


def _works(hierarchies: Hierarchies, tag: str) -> bool:
    groups, name = Groups(hierarchies, tag), f".try-{os.getpid()}-{threading.get_ident()}"
    try:
        groups.make(name, Resources(memory_bytes=64 << 20, cpu_millis=1000))
    except OSError:
        return False
    finally:
        groups.remove(groups.places(name))
    return True


def wanted_values(mode: str, resources: Resources) -> dict[str, dict[str, str]]:
    """The control files of one group and what they shall hold, by controller: data, written and read back.

    Args:
        mode: `v2` or `v1`.
    >>> wanted_values("v1", Resources(memory_bytes=1 << 20, cpu_millis=500))["memory"]
    {'memory.limit_in_bytes': '1048576'}
    """
    memory, cpu = resources.memory_bytes, resources.cpu_millis
    rounded = None if memory is None else max(_PAGE, memory // _PAGE * _PAGE)
    quota = None if cpu is None else max(_MIN_QUOTA_US, cpu * _PERIOD_US // 1000)
    values: dict[str, dict[str, str]] = {"memory": {}, "cpu": {}}
    if mode == "v2":
        if rounded is not None:
            values["memory"] = {"memory.max": str(rounded), "memory.swap.max": "0", "memory.oom.group": "1"}
        if quota is not None:
            values["cpu"] = {"cpu.max": f"{quota} {_PERIOD_US}"}
        return values
    if rounded is not None:
        values["memory"] = {"memory.limit_in_bytes": str(rounded)}
    if quota is not None:
        values["cpu"] = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    return values


_OPTIONAL = frozenset({"memory.swap.max", "memory.oom.group"})  # absent on kernels without swap accounting


class Groups:
    """The groups of one home.

    Args:
        hierarchies: where to make them.
        tag: names the home, so that two homes on a machine never meet.
    """

    def __init__(self, hierarchies: Hierarchies, tag: str) -> None:
        self.hierarchies = hierarchies
        self._tag = tag

    def folder(self, parent: Path, instance: str) -> Path:
        return parent / _PARENT / self._tag / instance

    def places(self, instance: str) -> tuple[Path, ...]:
        """The folders the group of one instance has here, made or not; empty when this machine offers none."""
        return tuple(self.folder(parent, instance) for parent in self.hierarchies.folders())

    def make(self, instance: str, resources: Resources) -> tuple[Path, ...]:
        """Make the group of one instance and write its limits. Idempotent.

        Returns: the folders to join; empty when this machine offers none.
        Raises: OSError.
        """
        made: dict[Path, None] = {}
        values = wanted_values(self.hierarchies.mode, resources)
        for controller, parent in (self.hierarchies.parents or {}).items():
            folder = self.folder(parent, instance)
            if self.hierarchies.mode == "v2":
                self._delegate(parent)
            self._mkdir(folder)
            for name, value in values[controller].items():
                if name not in _OPTIONAL or (folder / name).exists():
                    (folder / name).write_text(value)
            made[folder] = None
        return tuple(made)

    @staticmethod
    def _mkdir(folder: Path) -> None:
        """Another home that removes its last group may take an empty folder above ours away in between."""
        for attempt in range(5):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError:
                if attempt == 4:
                    raise
            else:
                return

    def _delegate(self, parent: Path) -> None:
        """Version 2 hands controllers down one level at a time."""
        for folder in (parent, parent / _PARENT, parent / _PARENT / self._tag):
            folder.mkdir(exist_ok=True)
            (folder / "cgroup.subtree_control").write_text("+memory +cpu")

    def differences(self, folders: Iterable[Path], resources: Resources, pid: int) -> Iterator[tuple[str, str, str]]:
        """Read limits and membership of `pid` back: (control file, expected, found) for each that differs."""
        values = wanted_values(self.hierarchies.mode, resources)
        expected = values["memory"] | values["cpu"]
        for folder in folders:
            for name, value in expected.items():
                try:
                    found = (folder / name).read_text().strip()
                except OSError:
                    continue
                if found != value:
                    yield name, value, found
            if pid not in members([folder]):
                yield f"{folder}/cgroup.procs", "its process in its group", "not there"

    def remove(self, folders: Iterable[Path]) -> bool:
        """Remove the groups. False when something in them still ends."""
        gone = True
        for folder in folders:
            with suppress(FileNotFoundError):
                try:
                    folder.rmdir()
                except OSError:
                    gone = False
                    continue
                for parent in (folder.parent, folder.parent.parent):
                    with suppress(OSError):
                        parent.rmdir()
        return gone

    def leftovers(self, known: set[str]) -> tuple[Path, ...]:
        """Groups of instances that no folder knows any more."""
        found = []
        for parent in self.hierarchies.folders():
            with suppress(OSError):
                found += [p for p in (parent / _PARENT / self._tag).iterdir() if p.is_dir() and p.name not in known]
        return tuple(found)


def members(folders: Iterable[Path]) -> set[int]:
    """Processes in any of the groups."""
    found: set[int] = set()
    for folder in folders:
        with suppress(OSError):
            found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
    return found


def members_of(folders: Iterable[str]) -> set[int]:
    return members(map(Path, folders))


def kill_members(folders: Iterable[Path], patience_seconds: float = 0.2) -> None:
    """SIGKILL everything in the groups, and what it forks meanwhile, and wait a moment for it to be gone."""
    folders = tuple(folders)
    deadline = time.monotonic() + patience_seconds
    while (left := members(folders)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def out_of_memory_kills(folders: Iterable[Path]) -> int:
    """How often the kernel ended something of these groups for passing the memory limit."""
    total = 0
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, ValueError):
                rows = dict(line.split() for line in (folder / name).read_text().splitlines())
                total += int(rows.get("oom_kill", 0))
    return total
