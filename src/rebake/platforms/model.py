"""What every platform shares: the instance as wished, the instance as observed, and how the two may differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rebake.release.manifest import RunContract, SecretVersion

HOST = "127.0.0.1"
"""Where instances of this machine are reached: its own loopback."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One instance as the engine wants it. Its `id` names it for ever: launching the same id twice starts it once."""

    id: str
    service: str
    environment: str
    fleet: str
    revision: str
    release: str
    run: RunContract
    secrets: dict[str, SecretVersion] = field(default_factory=dict)


DriftKind = Literal[
    "file-changed",
    "file-added",
    "file-removed",
    "command",
    "environment",
    "limits",
    "image",
    "configuration",
    "network",
    "mounts",
    "session",
    "stranger",
    "route",
]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between what runs and what was released."""

    kind: DriftKind
    where: str
    expected: str = ""
    found: str = ""

    def sentence(self) -> str:
        """The difference as a person reads it."""
        text = f"{self.kind}: {self.where}"
        if self.expected or self.found:
            text += f" (expected {self.expected or 'nothing'}, found {self.found or 'nothing'})"
        return text


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as observed.

    Attributes:
        address: `127.0.0.1:PORT`, or None before a port is known.
        state: `starting` until it was healthy once, then `running`; `stopping` after it was told to finish; `exited`.
        healthy: the latest verdict of its health check; None when it was not probed yet.
        started_at: seconds since the epoch.
        was_healthy: it passed its health check at least once.
        exit: how it ended, such as `exit 1` or `killed by SIGKILL (memory limit 256MiB)`.
        detail: the last reason it is not healthy, such as `GET /healthz answered 500`.
        drift: differences found by the last inspection.
    """

    id: str
    fleet: str
    revision: str
    state: Literal["starting", "running", "stopping", "exited"]
    address: str | None = None
    healthy: bool | None = None
    was_healthy: bool = False
    started_at: float = 0.0
    pid: int | None = None
    exit: str | None = None
    detail: str | None = None
    drift: tuple[Drift, ...] = ()
