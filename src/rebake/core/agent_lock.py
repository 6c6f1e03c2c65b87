"""Who is the agent of a home: the one that holds the kernel's lock (flock) on `agent.lock`.

The lock ends with the process, however that ends, so nothing can be stale; the pid in the file is for people.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_PATIENCE_SECONDS = 0.2


class Busy(Exception):
    """Another agent serves this home."""


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take_lock(path: Path) -> int:
    """Take the lock for as long as this process lives, and write our pid into it. Returns the open descriptor.

    Tried for a moment, because who merely asks for the holder (`lock_holder`) holds it for an instant too.
    Raises: Busy; OSError as the disk says it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _try_lock(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise Busy
        time.sleep(0.01)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def lock_holder(path: Path) -> int | None:
    """The pid of the agent that holds the lock, 0 if it has not written it yet, or None when nobody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # also on a disk that became read-only
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(handle)
    return None
