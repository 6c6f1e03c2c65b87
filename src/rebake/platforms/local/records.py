"""The files of an instance's folder, as values: read and written here only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rebake.core.atomic import write_atomic
from rebake.core.codec import dump, load
from rebake.platforms.local.requests import LaunchRequest
from rebake.platforms.model import InstanceSpec

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Intent:
    """`spec.json`: what is to be started, written before it is. Holds versions of secrets, never their values.

    Attributes:
        trees: folders of the unpacked release this instance runs from.
        groups: control groups made for it.
        created_at: seconds since the epoch.
    """

    spec: InstanceSpec
    launch: LaunchRequest
    trees: tuple[str, ...]
    groups: tuple[str, ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class Identity:
    """`pid.json`: one process, told apart from any later one with the same number.

    Attributes:
        start_ticks: field 22 of /proc/PID/stat, clock ticks since boot.
        boot: /proc/sys/kernel/random/boot_id.
    """

    pid: int
    start_ticks: int
    boot: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """`settled.json`: the process as it was when it was healthy first.

    Attributes:
        image: what only an exec changes: executable and the addresses of arguments and environment.
        command: its command line then.
        environment: a short hash of each value, by name; the values themselves are not written.
    """

    image: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stopping:
    """`stopping.json`: told to finish `at`, to be ended at `deadline`; seconds since the epoch."""

    at: float
    deadline: float


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
