"""What was last put into each repository, so that the next push need not ask for every blob again.

A registry keeps what a manifest names. So one question for a manifest that we put there answers for all of its blobs.
Losing this costs questions; what it says is always asked for, never believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.core.digest import digest_bytes, is_digest

Proofs = Mapping[str, Sequence[str]]
"""By digest of a manifest, the digests of the blobs that it names."""


class Known:
    """Args: folder: one small file for each repository, named by a digest of its name; made when needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, place: str) -> Proofs:
        """What a repository was last given; nothing where that is not known."""
        try:
            rows = json.loads(self._file(place).read_bytes())["manifests"]
            return {str(name): [str(one) for one in blobs] for name, blobs in rows.items() if is_digest(str(name))}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep(self, place: str, proofs: Proofs) -> None:
        """Where it cannot be kept it is not."""
        if proofs == self.of(place):
            return
        text = json.dumps({"place": place, "manifests": {name: list(blobs) for name, blobs in proofs.items()}})
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._file(place), text.encode())

    def _file(self, place: str) -> Path:
        return self._folder / f"{digest_bytes(place.encode()).rpartition(':')[2][:32]}.json"
