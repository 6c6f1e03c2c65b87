"""Records of instances: small files, each written whole by one writer and read by whoever adopts the instance."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rebake.core.atomic import write_atomic
from rebake.core.clock import Boot, set_between
from rebake.core.codec import dump, load

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stopping:
    """`stopping.json`: told to finish `at`, to be ended at `deadline`; seconds since the epoch.

    Attributes:
        boot: of the machine, by the clock that told these times.
    """

    at: float
    deadline: float
    boot: Boot | None = None

    def told(self, boot: Boot | None) -> Stopping:
        """The same by the clock that tells of `boot` now: somebody may have set it since."""
        by = set_between(self.boot, boot)
        return replace(self, at=self.at + by, deadline=self.deadline + by, boot=boot) if by else self


@dataclass(frozen=True, slots=True)
class Ended:
    """`exit.json`: how it ended, as a person reads it."""

    text: str
    at: float


def read_record(kind: type[T], path: Path) -> T | None:
    """The record, or None when there is none. A torn or foreign file counts as none: records are written whole."""
    try:
        return load(kind, json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_record(path: Path, value: Any) -> None:
    """Write one record atomically, readable by the owner only."""
    write_atomic(path, json.dumps(dump(value)).encode(), mode=0o600)


def write_once(path: Path, value: Any) -> bool:
    """Write a record that only the first writer may write. False when there was one already."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(json.dumps(dump(value)).encode())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
