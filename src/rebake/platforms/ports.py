"""The platform port: what raises, observes and retires instances. Adapters live in folders beside this file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from rebake.ledger.ports import Fence
from rebake.platforms.model import Instance, InstanceSpec
from rebake.release.manifest import Release

Progress = Callable[[str], None]
"""Told one short line at a time while something long runs."""


class Platform(Protocol):
    """Raises, observes and retires instances. Every call is idempotent, and safe from several threads.

    What changes an environment carries the token of the engine that leads it: after an effect with a newer token an
    older one is refused (`ledger.fencing`).

    Raises (every method): Transient when a later try may succeed, Permanent when somebody must change something;
        LedgerConflict `lease-lost` for an effect that comes too late.
    """

    name: str

    def prepare(self, release: Release, progress: Progress) -> None:
        """Make the release ready to launch here (unpack and verify, pull, copy). May take long; cheap when done before.

        Raises: Permanent `release-damaged` when the stored bytes do not match the digest.
        """
        ...

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        """Start one instance and return without waiting for its health. A second call with the same id does nothing,
        also when the first was killed half way, and also when the instance has exited since."""
        ...

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        """Every instance of the environment that exists, strangers with our mark included; from the latest probes,
        without waiting for a probe. An exited instance stays until it is retired."""
        ...

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        """Tell one instance to finish (SIGTERM); after `grace_ms` end it. Returns at once; called again until the
        instance is gone from `observe`. Its log is kept for a while."""
        ...

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        """The last lines an instance wrote, oldest first; also of one that is retired, while its log is kept."""
        ...

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Where this machine reaches instances of these addresses, in their order, for as long as it is open.

        Raises: PlatformError where they cannot be reached from here, with what is missing.
        """
        ...

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        """Like `observe`, but look for drift now instead of taking the last inspection's result."""
        ...
