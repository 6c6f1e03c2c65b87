"""Registries, composed: one client for each that is asked. httpx is loaded with the first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from rebake.bake.ports import ImageSource, Memo, Progress
from rebake.platforms.kubernetes.ports import Published
from rebake.release.blobs import Pin
from rebake.release.reference import Reference, parse_repository
from rebake.release.store import Store

if TYPE_CHECKING:
    from rebake.registry.client import RegistryClient
    from rebake.registry.known import Known
    from rebake.registry.repository import Repository
    from rebake.registry.transfer import Pushed

_UPLOADS = 2
"""A change of a service is one layer and the configuration."""
_PUSHED = "pushed"
"""Folder of the store in which it is kept what each repository was last given."""


class Registries:
    """Used as a context: its connections end with it. Safe from several threads.

    Args:
        environ: of the user, see `registry.client.RegistryClient`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._clients: dict[str, RegistryClient] = {}
        self._repositories: dict[str, Repository] = {}
        self._preparing: dict[str, list[threading.Thread]] = {}

    def __enter__(self) -> Registries:
        return self

    def __exit__(self, *_: object) -> None:
        if any(thread.is_alive() for threads in self._preparing.values() for thread in threads):
            return  # nobody waits for a registry that does not answer: what it holds up ends with the process
        for repository in self._repositories.values():
            repository.abandon()
        for client in self._clients.values():
            client.close()

    def client(self, registry: str) -> RegistryClient:
        """The client for a registry's name."""
        from rebake.registry.client import RegistryClient

        with self._lock:
            if registry not in self._clients:
                self._clients[registry] = RegistryClient(registry, self._environ)
            return self._clients[registry]

    def repository(self, reference: Reference) -> Repository:
        """The repository that a reference names."""
        from rebake.registry.repository import Repository

        client = self.client(reference.registry)
        with self._lock:
            return self._repositories.setdefault(reference.name, Repository(client, reference.repository))

    def images(self, store: Store, memo: Memo) -> _Images:
        """Bases by reference, for `bake.ports.Images`."""
        return _Images(store, memo, self.client)

    def prepare(self, store: Store, repository: Reference) -> None:
        """Get ready for a push, beside whatever is done before it: sign in, begin the uploads that a change needs, and
        ask for what was put there last.

        Only the push waits for that; a registry that is away holds up nobody else, and is told by the push.
        """
        from rebake.errors import PlatformError

        def begin() -> None:
            with suppress(PlatformError):
                self.repository(repository).prepare()

        def ask() -> None:
            there = self.repository(repository)
            with suppress(PlatformError):
                for manifest in _known(store).of(there.place):
                    there.has_manifest(manifest)

        self._preparing[repository.name] = [
            threading.Thread(target=work, daemon=True) for work in (ask, *[begin] * _UPLOADS)
        ]
        for thread in self._preparing[repository.name]:
            thread.start()

    def push(self, store: Store, digest: str, repository: Reference, progress: Progress) -> Pushed:
        """See `registry.transfer.push_release`."""
        from rebake.registry.transfer import push_release

        for thread in self._preparing.pop(repository.name, ()):
            thread.join()
        return push_release(store, store.release(digest), self.repository(repository), progress, _known(store))

    def pull(self, store: Store, reference: Reference, progress: Progress) -> str:
        """The digest of a release by reference, which is in the store then. See `registry.transfer.pull_release`."""
        if reference.digest and store.holds(reference.digest):
            return reference.digest
        from rebake.registry.transfer import pull_release

        there = self.repository(reference)
        digest = reference.digest or there.resolve(reference.tag) or there.manifest(reference.tag).digest
        return digest if store.holds(digest) else pull_release(store, there, digest, progress).digest


def _known(store: Store) -> Known:
    """What was put where, as this store remembers it."""
    from rebake.registry.known import Known

    return Known(store.root / _PUSHED)


class _Images:
    def __init__(self, store: Store, memo: Memo, client: Callable[[str], RegistryClient]) -> None:
        self._store, self._memo, self._client = store, memo, client

    def image(self, reference: str, pin: Pin, progress: Progress, /) -> ImageSource:
        from rebake.registry.images import RegistryImages, Shelf

        return RegistryImages(Shelf(self._store, self._memo, self._client)).image(reference, pin, progress)


class Publisher:
    """Puts releases into registries for platforms whose nodes pull them. See `platforms.kubernetes.ports.Publisher`."""

    def __init__(self, store: Store, environ: Mapping[str, str]) -> None:
        self._store, self._environ = store, environ

    def publish(self, digest: str, repository: str, progress: Progress, /) -> Published:
        """Send what is missing. A release that is not in the store must be there already."""
        place = parse_repository(repository)
        with Registries(self._environ) as registries:
            if self._store.holds(digest):
                registries.push(self._store, digest, place, progress)
                config = self._store.read_json(self._store.read_json(digest)["config"]["digest"])
                return Published(f"{place.name}@{digest}", str((config.get("config") or {}).get("User") or ""))
            registries.repository(place).manifest(digest)
        return Published(f"{place.name}@{digest}")
