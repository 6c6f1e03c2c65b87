"""The files of an instance's folder, as values; `platforms.records` reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rebake.core.clock import Boot, set_between
from rebake.platforms.local.requests import LaunchRequest
from rebake.platforms.model import InstanceSpec


@dataclass(frozen=True, slots=True)
class Intent:
    """`spec.json`: what is to be started, written before it is. Holds versions of secrets, never their values.

    Attributes:
        trees: folders of the unpacked release this instance runs from.
        groups: control groups made for it.
        created_at: seconds since the epoch.
        boot: of the machine, by the clock that told this time.
    """

    spec: InstanceSpec
    launch: LaunchRequest
    trees: tuple[str, ...]
    groups: tuple[str, ...]
    created_at: float
    boot: Boot | None = None

    def told(self, boot: Boot | None) -> Intent:
        """The same by the clock that tells of `boot` now: somebody may have set it since."""
        by = set_between(self.boot, boot)
        return replace(self, created_at=self.created_at + by, boot=boot) if by else self


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
