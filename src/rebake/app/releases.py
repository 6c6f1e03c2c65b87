"""Releases of a team's server: they come from the repository that a deploy names, and lie in the store from then on.

Where each came from is in the ledger, so that another server of the same database, or the same one on an empty disk,
fetches it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rebake.core.digest import is_digest
from rebake.core.home import Home
from rebake.errors import UsageError
from rebake.ledger.ports import Ledger, Put
from rebake.release.manifest import Release
from rebake.release.reference import parse_reference
from rebake.release.store import Store

KIND = "origin"

Pull = Callable[[str], Any]


class Releases:
    """The store of a home, with what is missing in it fetched.

    Args:
        pull: brings a release by `REGISTRY/NAME@DIGEST` into the store; for tests.
    """

    def __init__(self, home: Home, store: Store, ledger: Ledger, pull: Pull | None = None) -> None:
        self._store, self._ledger = store, ledger
        self._pull: Pull = pull or (lambda reference: _pull(home, reference))

    def release(self, digest: str) -> Release:
        """A release by its digest or a unique beginning of it.

        Raises: as `Store.release`; PlatformError of the registry where it must be fetched.
        """
        if is_digest(digest) and not self._store.holds(digest):
            origin = self._ledger.get(KIND, digest)
            if origin is not None:
                self._pull(f"{origin['repository']}@{digest}")
        return self._store.release(digest)

    def fetch(self, digest: str, repository: str, at: float) -> None:
        """See that a release is in the store, and write down where it came from.

        Raises: UsageError `wrong-reference`, `not-a-release`; PlatformError of the registry.
        """
        try:
            parse_reference(f"{repository}@{digest}")
        except ValueError as error:
            raise UsageError("wrong-reference", str(error), where="bake.repository") from error
        if not self._store.holds(digest):
            self._pull(f"{repository}@{digest}")
        if self._ledger.get(KIND, digest) is None:
            self._ledger.commit([], [Put(KIND, digest, {"repository": repository})], at=at)


def _pull(home: Home, reference: str) -> None:
    from rebake import app

    app.pull(home, parse_reference(reference), lambda _line: None)
