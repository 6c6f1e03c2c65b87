"""Who listens on a port: so that an answer of somebody else's server is not taken for an instance's health.

Source: proc_net_tcp(5), proc_pid_fd(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def parse_listeners(table: str, port: int) -> set[str]:
    """Inodes of the sockets of one table that listen on the port."""
    wanted, found = f":{port:04X}", set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN and fields[1].endswith(wanted):
            found.add(fields[9])
    return found


def _sockets(pid: int) -> Iterator[str]:
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):
                target = str(Path(entry.path).readlink())
                if target.startswith("socket:["):
                    yield target[8:-1]


def is_foreign(port: int, own: Iterable[int]) -> bool:
    """Whether the port is certainly served by none of these processes. False wherever that cannot be told."""
    listening: set[str] = set()
    for table in _TABLES:
        with suppress(OSError):
            listening |= parse_listeners(table.read_text(), port)
    try:
        held = {inode for pid in own for inode in _sockets(pid)}
    except (FileNotFoundError, PermissionError):  # one of them ended meanwhile, or does not let us look
        return False
    return bool(listening) and not listening & held
