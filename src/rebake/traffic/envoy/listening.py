"""Who has an address already: looked up before Envoy is told to listen there.

Envoy binds with SO_REUSEPORT, so that a second Envoy of the same user would silently take half of the connections.
Hence the address is first bound without it. Between two homes the look and Envoy's own bind are one step, guarded by
an abstract Unix socket named after the port.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from rebake.errors import Permanent, PlatformError, Transient
from rebake.traffic.envoy.names import split_address

_LISTEN = "0A"


@contextmanager
def reserved(listen: str, wait_seconds: float = 2.0) -> Iterator[None]:
    """Hold the right to open this port on this machine while the block runs.

    Raises: Transient `address-contended` when another home holds it for longer than `wait_seconds`.
    """
    _, port = split_address(listen)
    deadline = time.monotonic() + wait_seconds
    with socket.socket(socket.AF_UNIX) as guard:
        while True:
            try:
                guard.bind(f"\0rebake-listen-{port}")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise Transient(
                        "address-contended",
                        f"another home of rebake is opening port {port} at this moment",
                        where=listen,
                        remedy="wait for the other deploy, or choose another port",
                    ) from error
                time.sleep(0.01)
        yield


def check_free(listen: str) -> None:
    """Bind the address as nobody who shares would.

    Raises:
        Permanent: `address-in-use`, `address-not-permitted` or `address-unavailable`.
        Transient: `address-lingering` while the kernel still keeps the address for a process that ended.
    """
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections of an earlier listener that linger in TIME_WAIT do not matter; whoever listens now does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _translated(error, listen, port) from error


def _translated(error: OSError, listen: str, port: int) -> PlatformError:
    if error.errno == errno.EADDRINUSE:
        if not _listening_inodes(port):
            return Transient(
                "address-lingering",
                f"nobody listens on {listen}, but connections of a process that ended still linger there",
                where=listen,
                remedy="wait: the kernel lets the address go within a minute",
                retry_after_seconds=5.0,
            )
        holder = holder_of(port)
        return Permanent(
            "address-in-use",
            f"expected {listen} to be free, found {holder or 'another process'} listening there",
            where=listen,
            remedy="stop that process, or choose another `listen` in rebake.yaml",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Permanent(
            "address-not-permitted",
            f"this user may not listen on {listen}",
            where=listen,
            remedy=f"choose a port of 1024 or above, or allow it: sysctl net.ipv4.ip_unprivileged_port_start={port}",
        )
    return Permanent(
        "address-unavailable",
        f"expected an address of this machine, found {listen}: {os.strerror(error.errno or 0)}",
        where=listen,
        remedy="choose 127.0.0.1, 0.0.0.0 or an address that `ip address` shows",
    )


def holder_of(port: int) -> str | None:
    """The process that listens on a port, such as `nginx (pid 812)`; None when it may not be seen.

    Source: proc(5), /proc/net/tcp and /proc/PID/fd.
    """
    inodes = _listening_inodes(port)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and inodes & _sockets_of(folder):
            return f"{_name_of(folder)} (pid {folder.name})"
    return None


def _listening_inodes(port: int) -> frozenset[str]:
    found = set()
    for table in ("tcp", "tcp6"):
        for line in _lines(Path("/proc/net") / table)[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return frozenset(found)


def _sockets_of(folder: Path) -> frozenset[str]:
    """What a process has open; entries may vanish while they are read."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(entry.readlink()))
    return frozenset(found)


def _name_of(folder: Path) -> str:
    return next(iter(_lines(folder / "comm")), "a process").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def overlaps(one: str, other: str) -> bool:
    """Whether two listen addresses cannot both be open.

    >>> overlaps("0.0.0.0:80", "127.0.0.1:80"), overlaps("127.0.0.1:80", "127.0.0.2:80")
    (True, False)
    """
    (host, port), (other_host, other_port) = split_address(one), split_address(other)
    if port != other_port:
        return False
    return host == other_host or ip_address(host).is_unspecified or ip_address(other_host).is_unspecified
