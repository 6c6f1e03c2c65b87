"""Inotify instances: Envoy takes one per watched file, and aborts when the user has none left. So we count first."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rebake.errors import Permanent
from rebake.traffic.envoy.snapshot import serves
from rebake.traffic.ports import EnvironmentRoute

_OWN = 4  # clusters, listeners, and what Envoy opens for itself
_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


def needed(routes: Iterable[EnvironmentRoute]) -> int:
    """Instances that Envoy takes for these routes: one per fleet and one per open listener."""
    return _OWN + sum(len(route.fleets) + serves(route) for route in routes)


def check_watches(routes: Iterable[EnvironmentRoute], edge_pid: int | None) -> None:
    """Raises: Permanent `edge-watch-limit` when Envoy would run out."""
    wanted, limit = needed(routes), _limit()
    if wanted * 8 < limit:
        return  # far from it: spare the walk through /proc
    left = limit - _used_by_others(edge_pid)
    if wanted > left:
        raise Permanent(
            "edge-watch-limit",
            f"Envoy needs {wanted} inotify instances for these fleets, found {left} of {limit} left for this user",
            where=str(_LIMIT),
            remedy="raise the limit: sysctl fs.inotify.max_user_instances=1024",
        )


def _limit() -> int:
    try:
        return int(_LIMIT.read_text())
    except OSError:
        return 1 << 31


def _used_by_others(edge_pid: int | None) -> int:
    return sum(_used_by(entry) for entry in Path("/proc").iterdir() if _is_other(entry, edge_pid))


def _is_other(entry: Path, edge_pid: int | None) -> bool:
    try:
        return entry.name.isdigit() and entry.name != str(edge_pid) and entry.stat().st_uid == os.getuid()
    except OSError:
        return False


def _used_by(process: Path) -> int:
    count = 0
    try:
        for handle in (process / "fd").iterdir():
            count += _is_inotify(handle)
    except OSError:
        return count
    return count


def _is_inotify(handle: Path) -> bool:
    try:
        return str(handle.readlink()) == "anon_inode:inotify"
    except OSError:
        return False
