"""What this machine offers to the `local` platform, for `rebake doctor`."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rebake.core.units import format_size
from rebake.platforms import port_choice
from rebake.platforms.findings import Finding
from rebake.platforms.local import landlock, runtimes
from rebake.platforms.local.cgroups import Hierarchies
from rebake.platforms.local.layout import Layout

_LOW_DISK = 1 << 30
_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
_NODES = ("18", "20", "22", "24")


def _landlock(version: int) -> Finding:
    if version:
        return Finding("landlock", True, f"ABI {version}: instances cannot write outside their own places")
    return Finding(
        "landlock",
        False,
        "not offered by this kernel: an instance can write wherever its user can",
        "boot a kernel (5.13 or newer) with landlock among the values of `lsm=`",
    )


def _limits(hierarchies: Hierarchies) -> Finding:
    if {"memory", "cpu"} <= set(hierarchies.parents or {}):
        return Finding("limits", True, f"memory and cpu by control groups {hierarchies.mode}")
    have = ", ".join(hierarchies.parents or {}) or "none"
    return Finding(
        "limits",
        False,
        f"control groups that can be used: {have}; memory is limited by RLIMIT_DATA, processor time is not limited",
        "run the agent where control groups are delegated: `systemd-run --user -p Delegate=yes rebake agent start`",
    )


def _ports() -> Finding:
    low, high = port_choice.span()
    free = sum(port_choice.is_free(port) for port in range(low, low + 200))
    return Finding(
        "ports",
        free > 20,
        f"instances listen between {low} and {high}; of the first 200, {free} are free",
        None if free > 20 else "see what listens there with `ss -ltnp`",
    )


def _runtimes() -> list[Finding]:
    with ThreadPoolExecutor() as pool:  # each candidate is a program that has to be started to say what it is
        pythons = [f"{v} ({p})" for v, p in zip(_PYTHONS, pool.map(runtimes.find_python, _PYTHONS), strict=True) if p]
    nodes = [f"{v} ({p})" for v in _NODES if (p := runtimes.find_node(v))]
    return [
        Finding(
            "python", bool(pythons), ", ".join(pythons) or "none found", None if pythons else "`uv python install`"
        ),
        Finding("node", True, ", ".join(nodes) or "none found; needed for node services only"),
    ]


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _home(layout: Layout) -> list[Finding]:
    root = layout.home.root
    place = _existing(root)
    writable = os.access(place, os.W_OK | os.X_OK)
    private = not root.exists() or not root.stat().st_mode & 0o022
    remedy = None if writable else "run as the user who owns this folder, or choose another one with REBAKE_HOME"
    if writable and not private:
        remedy = f"chmod go-w {root}"
    free = shutil.disk_usage(place).free
    detail = f"{root}: " + ("not writable" if not writable else "yours" if private else "writable by other users")
    return [
        Finding("home", writable and private, detail, remedy),
        Finding(
            "disk",
            free >= _LOW_DISK,
            f"{format_size(free)} free below {place}",
            None if free >= _LOW_DISK else "`rebake gc` removes releases that nothing needs",
        ),
    ]


def findings(layout: Layout, hierarchies: Hierarchies) -> list[Finding]:
    """Everything this platform depends on, with what is missing."""
    return [_landlock(landlock.abi()), _limits(hierarchies), _ports(), *_runtimes(), *_home(layout)]
