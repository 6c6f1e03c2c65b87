"""The files of a container's folder: written before the engine is asked, read by whoever adopts the container."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.core.home import Home
from rebake.platforms import logs
from rebake.platforms.instances import InstanceFolder, folder_in
from rebake.platforms.model import InstanceSpec
from rebake.platforms.records import Ended, Stopping, read_record, write_record


@dataclass(frozen=True, slots=True)
class Intent:
    """`spec.json`: what is to be started, written before it is. Holds versions of secrets, never their values.

    Attributes:
        socket: of the engine that was asked.
        request: what it was asked, without values of secrets.
        exposed: names of secrets that the request holds as values (an image without a shell).
        created_at: seconds since the epoch.
    """

    spec: InstanceSpec
    socket: str
    request: dict[str, Any]
    port: int
    created_at: float
    exposed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """`started.json`: the engine said that it runs."""

    container: str
    at: float


@dataclass(frozen=True, slots=True)
class Touched:
    """`touched.json`: what somebody did to the container with an exec session."""

    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerFolder(InstanceFolder):
    """The folder of an instance that is a container."""

    @property
    def started(self) -> Path:
        return self.root / "started.json"

    @property
    def touched(self) -> Path:
        return self.root / "touched.json"

    @property
    def secrets(self) -> Path:
        """Mounted into the container, read-only. Nobody else of this machine can reach it: the home is private."""
        return self.root / "secrets"


class ContainerFolders:
    """Every container of one home that was asked for."""

    def __init__(self, home: Home) -> None:
        self._root = home.containers

    @property
    def root(self) -> Path:
        return self._root

    @property
    def kept_logs(self) -> Path:
        return self._root / ".logs"

    @property
    def images(self) -> Path:
        """Which images were loaded where: one record for each release."""
        return self._root / ".images"

    def folder(self, instance: str) -> ContainerFolder:
        """Raises: BrokenInvariant for an id that is not one plain file name."""
        return folder_in(ContainerFolder, self._root, instance)

    def all(self) -> Iterator[tuple[ContainerFolder, Intent]]:
        with suppress(FileNotFoundError):
            for path in sorted(self._root.iterdir()):
                folder = ContainerFolder(path)
                if not path.name.startswith(".") and (intent := self.intent(folder)) is not None:
                    yield folder, intent

    def of(self, service: str, environment: str) -> Iterator[tuple[ContainerFolder, Intent]]:
        for folder, intent in self.all():
            if (intent.spec.service, intent.spec.environment) == (service, environment):
                yield folder, intent

    def intent(self, folder: ContainerFolder) -> Intent | None:
        return read_record(Intent, folder.spec)

    def write_intent(self, folder: ContainerFolder, intent: Intent) -> None:
        """The folder is there with an intent in it or not at all, wherever a kill comes. Raises: OSError."""
        if folder.root.exists():
            write_record(folder.spec, intent)
            return
        made = ContainerFolder(self._root / f".new-{folder.id}")
        shutil.rmtree(made.root, ignore_errors=True)
        made.root.mkdir(parents=True, mode=0o700)
        write_record(made.spec, intent)
        made.root.rename(folder.root)

    def started(self, folder: ContainerFolder) -> Started | None:
        return read_record(Started, folder.started)

    def stopping(self, folder: ContainerFolder) -> Stopping | None:
        return read_record(Stopping, folder.stopping)

    def ended(self, folder: ContainerFolder) -> Ended | None:
        return read_record(Ended, folder.exit)

    def sessions(self, folder: ContainerFolder) -> tuple[str, ...]:
        found = read_record(Touched, folder.touched)
        return found.sessions if found else ()

    def remove(self, folder: ContainerFolder) -> None:
        gone = self._root / f".gone-{folder.id}"
        with suppress(FileNotFoundError):
            folder.root.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a killed agent was making or removing; to be called before anything is made."""
        for path in (*self._root.glob(".new-*"), *self._root.glob(".gone-*")):
            shutil.rmtree(path, ignore_errors=True)

    def keep_log(self, instance: str, lines: list[str]) -> None:
        """What a container that is about to be removed had to say."""
        kept = self._root / ".log-of-a-removal"
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)
        kept.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        logs.keep(kept, self.kept_logs, instance)

    def kept_log(self, instance: str, lines: int) -> list[str]:
        return list(logs.read(self.kept_logs / f"{instance}.log", lines))
