"""What platforms with folders of instances share: the names of a folder's files, and the instance they tell of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rebake.errors import BrokenInvariant
from rebake.platforms.health import Condition, sentence, state_of
from rebake.platforms.model import HOST, Drift, Instance, InstanceSpec

if TYPE_CHECKING:
    from rebake.platforms.watcher import Watched

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,150}")


@dataclass(frozen=True, slots=True)
class InstanceFolder:
    """One instance's folder, named after it. Each file is written once, atomically, and read by whoever adopts it."""

    root: Path

    @property
    def id(self) -> str:
        return self.root.name

    @property
    def spec(self) -> Path:
        """The intent: written before anything is started."""
        return self.root / "spec.json"

    @property
    def settled(self) -> Path:
        """It was healthy at least once; on some platforms also what it looked like then."""
        return self.root / "settled.json"

    @property
    def stopping(self) -> Path:
        """When it was told to finish, and until when it may take."""
        return self.root / "stopping.json"

    @property
    def exit(self) -> Path:
        """How it ended."""
        return self.root / "exit.json"


F = TypeVar("F", bound=InstanceFolder)


def folder_in(kind: type[F], root: Path, instance: str) -> F:
    """The folder of an instance. Raises: BrokenInvariant for an id that is not one plain file name."""
    if _SAFE_ID.fullmatch(instance) is None:
        raise BrokenInvariant(f"an instance id is a plain file name, found {instance!r}")
    return kind(root / instance)


def condition_of(folder: InstanceFolder, seen: Watched | None) -> Condition:
    """What the watch knows; before it has looked, what is remembered."""
    return seen.condition if seen is not None else Condition(was_healthy=folder.settled.exists())


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of one instance at one moment.

    Attributes:
        created_at, now: seconds since the epoch.
        ended: how it ended, if it did.
    """

    spec: InstanceSpec
    port: int
    created_at: float
    now: float
    condition: Condition
    ended: str | None = None
    stopping: bool = False
    pid: int | None = None
    drift: tuple[Drift, ...] = ()

    def instance(self) -> Instance:
        """As the engine is told."""
        health = self.spec.run.health
        return Instance(
            id=self.spec.id,
            fleet=self.spec.fleet,
            revision=self.spec.revision,
            state=state_of(self.ended, self.stopping, self.condition),
            address=f"{HOST}:{self.port}",
            healthy=False if self.ended else self.condition.healthy,
            was_healthy=self.condition.was_healthy,
            started_at=self.created_at,
            pid=self.pid if not self.ended else None,
            exit=self.ended,
            detail=self.ended or sentence(self.condition, health, self.now - self.created_at),
            drift=self.drift,
        )
