"""Logs of instances: read from the end, cut when they grow, kept for a while after their instance is gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 10 << 20
KEPT = 50
_BLOCK = 1 << 16


def older(log: Path) -> Path:
    """Where the part of a log lies that was cut off last."""
    return log.with_name(log.name + ".1")


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, oldest first, read from its end. Bytes that are not UTF-8 are replaced."""
    if lines <= 0:
        return []
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end > 0 and data.count(b"\n") <= lines:
                start = max(0, end - _BLOCK)
                file.seek(start)
                data = file.read(end - start) + data
                end = start
    except (FileNotFoundError, NotADirectoryError):
        return []
    text = data.decode("utf-8", "replace").removesuffix("\n")
    return [line.rstrip("\r") for line in text.split("\n")[-lines:]] if text else []


def read(log: Path, lines: int) -> Sequence[str]:
    """The last lines of a log and, where it was cut lately, of the part before."""
    found = tail(log, lines)
    return found if len(found) >= lines else tail(older(log), lines - len(found)) + found


def rotate(log: Path, limit: int = MAX_BYTES) -> bool:
    """Copy a log that grew too long beside itself and empty it; its writer goes on at the new end (O_APPEND).

    Lines written between copy and cut are lost; there is no supervisor to hand a new file to.
    """
    try:
        if log.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    with log.open("r+b") as file, older(log).open("wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        while block := file.read(1 << 20):
            copy.write(block)
        file.truncate(0)
    return True


def keep(log: Path, folder: Path, instance: str, limit: int = KEPT) -> None:
    """Move the log of a retired instance away, and forget the oldest of those that were moved before."""
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{instance}.log"
    for source, aim in ((log, target), (older(log), older(target))):
        with suppress(FileNotFoundError):
            source.rename(aim)
    with suppress(FileNotFoundError):
        os.utime(target)
    found = sorted(folder.glob("*.log"), key=_age, reverse=True)
    for path in found[limit:]:
        path.unlink(missing_ok=True)
        older(path).unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
