"""Files that are either the old or the new version, never half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_PIECE = 256 << 10


def write_all(handle: int, data: bytes | bytearray | memoryview) -> None:
    """Write everything to an open file, a little at a time.

    For one write of several megabytes the kernel looks for pages as large; in a guest that gives free memory back to
    its host those are the cold ones, and the write takes ten times as long as in pieces that fit into ordinary pages.
    Raises: OSError as the disk says it.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_PIECE]) :]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
    """Write beside the target, then rename over it.

    Args:
        durable: also flush file and folder to the disk, for what must survive a power cut.
    Raises: OSError as the disk says it; the old version is then still whole.
    Source: rename(2).
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        try:
            write_all(handle, data)
            os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
