"""One agent for each home: the lock that says so, and the private socket it answers on.

The lock is the kernel's (flock): it ends with the process, however that ends, so nothing can be stale.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from pathlib import Path

from rebake.errors import UsageError

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
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
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


def check_private(folder: Path) -> None:
    """Refuse a socket's folder that somebody else could write to: who may connect is decided by it.

    Raises: UsageError `socket-folder-not-private`.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UsageError(
            "socket-folder-not-private",
            f"expected a folder that only you can write to, found mode {stat.S_IMODE(found.st_mode):04o} "
            f"of user {found.st_uid}",
            where=str(folder),
            remedy=f"chmod go-w {folder}, or set REBAKE_HOME to a folder of your own",
        )


def listen_private(path: Path) -> socket.socket:
    """A listening Unix socket of mode 0600. It appears at its name ready and private, in place of a stale one.

    The caller holds the lock, so what is there now belongs to an agent that is gone.
    Raises: UsageError `socket-folder-not-private`; OSError.
    Source: unix(7): the mode of the socket file decides who may connect.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path.parent)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(fresh))
    fresh.chmod(0o600)
    server.listen(128)
    fresh.rename(path)
    return server
