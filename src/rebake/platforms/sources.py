"""What the `local` platform asks of other rooms, by shape only: where releases and secrets come from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rebake.release.manifest import Release


class ReleaseSource(Protocol):
    """The content-addressed store, as far as this platform needs it."""

    def release(self, digest: str) -> Release:
        """The sealed release of this digest. Raises: a RebakeError when the store does not hold it."""
        ...

    def blob_path(self, digest: str) -> Path:
        """Where the bytes of a layer lie; they are verified here while they are read."""
        ...


class SecretSource(Protocol):
    """Values of secrets by version. They go into the process's environment and nowhere else."""

    def secret(self, version: str) -> str:
        """The value of one version. Raises: a RebakeError when it is not kept any more."""
        ...
