"""Landlock as data: which places an instance may write to. The stub (`launch.py`) hands it to the kernel.

Only writing is restricted: reading and executing stay as the user's own permissions say.

Source: Linux userspace API, landlock.rst; include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

_WRITE_FILE = 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE = (1 << 6) | (1 << 7) | (1 << 8) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 12)
_REFER = 1 << 13  # since ABI 2
_TRUNCATE = 1 << 14  # since ABI 3
_SCOPE_SIGNAL = 1 << 1  # since ABI 6

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")

_CREATE_RULESET = 444
_QUERY_VERSION = 1


@dataclass(frozen=True, slots=True)
class LandlockRules:
    """One ruleset.

    Attributes:
        size: bytes of the ruleset structure that this kernel's ABI knows.
        handled: rights that are denied unless a rule grants them.
        scoped: 1 << 1 where signals reach only the instance's own processes.
        grants: (path, rights); a path that does not exist is passed over.
    """

    size: int
    handled: int
    scoped: int
    grants: tuple[tuple[str, int], ...]


@cache
def abi() -> int:
    """The kernel's Landlock version; 0 when it offers none (not built in, or switched off at boot)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _QUERY_VERSION)))


def write_rules(version: int, folders: tuple[str, ...], files: tuple[str, ...]) -> LandlockRules | None:
    """Allow writing below `folders` and to `files`, nowhere else.

    Args:
        version: ABI of the kernel, as `abi()` gives it.
        folders: everything below may be created, written, renamed and removed.
        files: single files and devices: written and truncated only.
    Returns: None when the kernel offers nothing.
    """
    if version < 1:
        return None
    in_file = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    in_folder = in_file | _REMOVE_DIR | _REMOVE_FILE | _MAKE | (_REFER if version >= 2 else 0)
    return LandlockRules(
        size=24 if version >= 6 else 16 if version >= 4 else 8,
        handled=in_folder,
        scoped=_SCOPE_SIGNAL if version >= 6 else 0,
        grants=(
            *((folder, in_folder) for folder in folders),
            *((file, in_file) for file in files),
            *((device, in_file) for device in DEVICES),
            ("/dev/pts", in_file),
            ("/proc/self", in_file),
        ),
    )
