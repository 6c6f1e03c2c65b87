"""Images by reference, as a bake reads them: resolved to a digest, remembered, fetched once.

A tag is asked for at each bake, in one request without a body; everything else is known by its digest and kept in the
store. A tag that names another image than at the last bake is told. Where the registry does not answer, the image that
the tag named last is taken, and that is told too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rebake.core.digest import digest_bytes, short
from rebake.errors import BakeError, Permanent, Transient
from rebake.registry.client import RegistryClient
from rebake.registry.repository import Repository
from rebake.registry.transfer import Progress, fetch
from rebake.release.blobs import Pin
from rebake.release.reference import Reference, parse_reference
from rebake.release.store import Store

_TAGS = "tags"


class Memo(Protocol):
    """A small persistent dictionary; losing it costs time."""

    def get(self, name: str, key: str) -> Any | None: ...

    def put(self, name: str, key: str, value: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where images are kept, remembered and asked for.

    Attributes:
        clients: the client for a registry's name.
    """

    store: Store
    memo: Memo
    clients: Callable[[str], RegistryClient]


class RegistryImages:
    """Images of every registry, for one bake. See `bake.ports.Images`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def image(self, reference: str, pin: Pin, progress: Progress) -> RegistryImage:
        """Raises: BakeError `wrong-reference`."""
        try:
            found = parse_reference(reference)
        except ValueError as error:
            raise BakeError(
                "wrong-reference", str(error), where="bake.base", remedy="write registry/repository:tag"
            ) from error
        return RegistryImage(self._shelf, found, pin, progress)


class RegistryImage:
    """One image of a registry, read through the store. See `bake.ports.ImageSource`."""

    remedy = "the registry's own storage is damaged, or the image is: push it there again"

    def __init__(self, shelf: Shelf, reference: Reference, pin: Pin, progress: Progress) -> None:
        self._shelf, self._reference, self._pin, self._progress = shelf, reference, pin, progress
        self.name, self.where, self.notes = reference.name, str(reference), list[str]()

    def top(self) -> bytes:
        """The index or manifest that the reference names now."""
        return self.manifest(self._reference.digest or self._resolved())

    def manifest(self, digest: str) -> bytes:
        return self._kept(digest, lambda: self._repository().manifest(digest).data)

    def config(self, digest: str, size: int) -> bytes:
        def ask() -> bytes:
            got = fetch(self._pin, self._repository(), {digest: size}, self._shelf.store.root, _silent)
            return got[digest].read_bytes()

        return self._kept(digest, ask)

    def layers(self, rows: Mapping[str, int]) -> Mapping[str, Path]:
        if not rows:
            return {}
        return fetch(self._pin, self._repository(), rows, self._shelf.store.root, self._progress)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _repository(self) -> Repository:
        return Repository(self._shelf.clients(self._reference.registry), self._reference.repository)

    def _kept(self, digest: str, ask: Callable[[], bytes]) -> bytes:
        """A document from the store, else from the registry, which is then kept."""
        self._pin.hold([digest])
        if self._shelf.store.blobs.has(digest):
            try:
                return self._shelf.store.blobs.read(digest)
            except Permanent:
                pass  # damaged: it is fetched again
        data = ask()
        self._pin.add(data)
        return data

    def _resolved(self) -> str:
        """What the tag names now, beside what it named last."""
        tag, key = self._reference.tag, digest_bytes(str(self._reference).encode())
        known = self._shelf.memo.get(_TAGS, key)
        try:
            found = self._repository().resolve(tag) or self._repository().manifest(tag).digest
        except Transient as error:
            if not isinstance(known, str):
                raise
            self.notes.append(f"base {self.where}: {error.problem}; taken as it was last, {short(known)}")
            return known
        if isinstance(known, str) and known != found:
            self.notes.append(f"base {self.where} moved: {short(known)} → {short(found)}")
        if known != found:
            self._shelf.memo.put(_TAGS, key, found)
        return found


def _silent(_line: str) -> None:
    pass
