"""The private socket the agent answers on: ready and mode 0600 from the moment it has its name."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from rebake.errors import UsageError


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
