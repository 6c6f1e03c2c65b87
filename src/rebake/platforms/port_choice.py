"""Which port an instance gets: below the kernel's own range, free now, and no live instance's."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from rebake.errors import Transient

_LOW, _HIGH = 20_000, 32_000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def span(range_file: Path = _RANGE_FILE) -> tuple[int, int]:
    """First and last port to choose from: a client's outgoing connection never takes one of them.

    Source: ip(7), ip_local_port_range.
    """
    try:
        kernel_low = int(range_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        kernel_low = 32_768
    high = min(_HIGH, kernel_low - 1)
    return (_LOW, high) if high - _LOW >= 1000 else (1024, max(2048, high))


def candidates(low: int, high: int, start: int) -> Iterator[int]:
    """Every port of the span once, beginning at `start` and going round."""
    size = high - low + 1
    return (low + (start + step) % size for step in range(size))


def is_free(port: int) -> bool:
    """Whether 127.0.0.1 and any address can be bound there now."""
    for host in ("127.0.0.1", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def first(tag: str, instance: str) -> int:
    """Where to begin to look: spread, so that two homes seldom meet, and a port that failed is not tried next."""
    return int(hashlib.sha256(f"{tag} {instance}".encode()).hexdigest()[:8], 16)


def choose(taken: Collection[int], start: int, free: Callable[[int], bool] = is_free) -> int:
    """A free port that is not in `taken`. Raises: Transient when there is none."""
    low, high = span()
    for port in candidates(low, high, start):
        if port not in taken and free(port):
            return port
    raise Transient(
        "no-free-port",
        f"expected a free port between {low} and {high}, found none",
        remedy="end what listens there (`ss -ltnp`), or retire fleets that are not needed (`rebake status`)",
        retry_after_seconds=5.0,
    )
