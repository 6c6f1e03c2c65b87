"""Releases to a registry and back.

A release goes out as its image and nothing else, byte for byte, because it is named by the image's manifest: so its
layers are not compressed on the way. The manifest holds the release document; the file lists are read off the layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rebake.core.digest import digest_bytes, short
from rebake.core.units import format_size
from rebake.errors import Permanent, UsageError
from rebake.registry.known import Known, Proofs
from rebake.registry.repository import Document, Moved, Repository
from rebake.registry.tally import Tally
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import (
    DOCUMENT_ANNOTATION,
    MANIFEST_TYPE,
    RELEASE_ANNOTATION,
    StoredLayer,
    release_from,
)
from rebake.release.listing import listed
from rebake.release.manifest import Release
from rebake.release.reference import parse_reference
from rebake.release.store import Store

AT_ONCE = 6
"""Questions and blobs that are under way at the same time."""
SMALL = 64 << 10
"""To send such a blob, where it is likely new, takes no longer than to ask for it first; bytes."""
_NO_FILES = digest_bytes(b"")
"""The file list of a base's layer: none was made."""
_LACKING = ("registry-refused", "image-unknown")
"""How a registry refuses a manifest of which it has not every blob."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        reference: names the release for whoever pulls it: `registry/repository@sha256:…`.
        sent: blobs that were sent; `bytes` of them.
        mounted: blobs that were taken over from another repository.
        held: blobs that were there.
    """

    reference: str
    tag: str
    sent: int = 0
    bytes: int = 0
    mounted: int = 0
    held: int = 0


def push_release(
    store: Store, release: Release, repository: Repository, progress: Progress, known: Known | None = None
) -> Pushed:
    """Put a release into a repository, sending only what is missing.

    Args:
        known: what the repository was last given, which is asked for whole instead of blob by blob.
    Raises: PlatformError as in `faults`; Permanent `release-damaged`.
    """
    proofs = known.of(repository.place) if known is not None else {}
    try:
        return _pushed(store, release, repository, progress, known, proofs=proofs)
    except Permanent as error:
        if not proofs or error.code not in _LACKING:
            raise
        return _pushed(store, release, repository, progress, known, proofs={})  # it lacks what its manifests name


def _pushed(
    store: Store, release: Release, repository: Repository, progress: Progress, known: Known | None, *, proofs: Proofs
) -> Pushed:
    with store.pinned([release.digest]), ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rebake-push") as pool:
        data = store.blobs.read(release.digest)
        image = json.loads(data)
        rows = {str(row["digest"]): int(row["size"]) for row in (image["config"], *image["layers"])}
        blobs = _Blobs(store, repository, rows, pool, progress)
        blobs.send(release, proofs)
        if known is not None:  # what is kept is asked for before it is relied on, so it may be kept meanwhile
            pool.submit(known.keep, repository.place, {release.digest: list(rows)})
        tag = short(release.digest)
        repository.put_manifest(Document(release.digest, MANIFEST_TYPE, data), tag)
    return Pushed(f"{repository.place}@{release.digest}", tag, *blobs.counts)


class _Blobs:
    """The blobs of one push. Args: rows: size by digest."""

    def __init__(
        self, store: Store, repository: Repository, rows: Mapping[str, int], pool: Executor, progress: Progress
    ) -> None:
        self._store, self._repository, self._rows, self._pool = store, repository, rows, pool
        self._progress = progress
        self._sent: list[Future[None]] = []
        self._own: Callable[[], None] | None = None
        self.counts = (0, 0, 0, 0)
        """Blobs sent, bytes sent, blobs mounted, blobs that were there."""

    def send(self, release: Release, known: Proofs) -> None:
        """Send what is not there, and return once it is. Raises: what sending one of them raised.

        What a known manifest names is there if that is. What is new beside it, and small, is sent without a question.
        """
        rows, repository = self._rows, self._repository
        proven = {blob: name for name, blobs in known.items() for blob in blobs if blob in rows}
        new = [one for one in rows if known and one not in proven and rows[one] <= SMALL]
        self._begin(new, lambda _: None)
        asked = [one for one in rows if one not in proven and one not in new]
        answers = self._pool.map(repository.has_blob, asked)
        there = dict.fromkeys(new, False)
        there |= {blob: repository.has_manifest(name) for blob, name in proven.items()}
        there |= dict(zip(asked, answers, strict=True))
        lost = [blob for blob in proven if not there[blob]]
        there |= dict(zip(lost, self._pool.map(repository.has_blob, lost), strict=True))
        missing = [digest for digest in rows if not there[digest]]
        mounted = self._mounted(release, missing)
        left = [digest for digest in missing if digest not in mounted]
        total = sum(rows[digest] for digest in left)
        if left:
            self._progress(f"push {len(left)} of {_blobs(len(rows))}, {format_size(total)}, to {repository.place}")
        tally = Tally("push", repository.place, total, self._progress)
        self._begin([one for one in left if one not in new], tally.moved)
        self._finish()
        self.counts = len(left), total, len(mounted), len(rows) - len(missing)

    def _mounted(self, release: Release, missing: Collection[str]) -> set[str]:
        """Layers that were taken over from the repository that the base came from."""
        below = _mountable(release, self._repository)
        if not below:
            return set()
        bases = [one.digest for one in release.layers if one.role == "base" and one.digest in missing]
        taken = self._pool.map(lambda digest: self._repository.mount(digest, below), bases)
        return {digest for digest, done in zip(bases, taken, strict=True) if done}

    def _begin(self, digests: Iterable[str], moved: Moved) -> None:
        """Send them; but one is left to `_finish`, whose thread has nothing else to do."""
        for digest in digests:
            work = partial(self._send, digest, moved)
            if self._own is None:
                self._own = work
            else:
                self._sent.append(self._pool.submit(work))

    def _finish(self) -> None:
        if self._own is not None:
            self._own()
        for sent in self._sent:
            sent.result()

    def _send(self, digest: str, moved: Moved) -> None:
        self._store.verify(digest)
        self._repository.upload(digest, self._store.blob_path(digest), self._rows[digest], moved)


def _mountable(release: Release, repository: Repository) -> str:
    """The repository of the same registry that the base came from; empty where there is none."""
    try:
        base = parse_reference(release.base)
    except ValueError:
        return ""
    same = base.name.removesuffix(base.repository) == repository.place.removesuffix(repository.name)
    return base.repository if same and base.repository != repository.name else ""


def pull_release(store: Store, repository: Repository, digest: str, progress: Progress) -> Release:
    """Bring a release from a repository into the store, fetching only what is missing.

    Args:
        digest: of the image's manifest.
    Raises: PlatformError as in `faults`; UsageError `not-a-release`; Permanent `disk-full`.
    """
    with store.pinned() as pin:
        manifest = repository.manifest(digest)
        try:
            image = manifest.json()
            document = str(image["annotations"][DOCUMENT_ANNOTATION]).encode()
            rows = {str(row["digest"]): int(row["size"]) for row in (image["config"], *image["layers"])}
            if digest_bytes(document) != image["annotations"][RELEASE_ANNOTATION]:
                raise ValueError("another one than it names")
            release, stored = release_from(digest, json.loads(document))
        except (KeyError, TypeError, ValueError) as error:
            raise _no_release(repository, digest, f"its manifest holds no release document ({error})") from error
        if [layer.layer.digest for layer in stored] != [row["digest"] for row in image["layers"]]:
            raise _no_release(repository, digest, "its image and its release document name other layers")
        take(store, pin, repository, rows, progress)
        pin.add(document)
        pin.hold(layer.files for layer in stored)
        for layer in stored:
            if not store.blobs.has(layer.files) and pin.add(_listed(store, layer)) != layer.files:
                raise _no_release(repository, digest, f"the layer {layer.layer.digest} holds other files than it says")
        store.put_release(pin, manifest.data, service=release.service, size=release.size)
    return store.release(digest)


def _listed(store: Store, layer: StoredLayer) -> bytes:
    """The list of a layer's files, made again; an empty one where that cannot be."""
    if layer.files == _NO_FILES:
        return b""
    with store.blob_path(layer.layer.digest).open("rb") as file, suppress(ValueError):
        return listed(file)
    return b""


def _no_release(repository: Repository, digest: str, why: str) -> UsageError:
    return UsageError(
        "not-a-release",
        f"expected a release that `rebake bake --push` put there, found another image: {why}",
        where=f"{repository.place}@{digest}",
        remedy="bake the release and push it again; an image of others is deployed with `builder: image`",
    )


def take(store: Store, pin: Pin, repository: Repository, rows: Mapping[str, int], progress: Progress) -> None:
    """Bring blobs into the store, those that are not there.

    Args:
        rows: size by digest.
    """
    pin.hold(rows)
    wanted = {digest: size for digest, size in rows.items() if not _held(store, digest, size)}
    for digest, path in fetch(pin, repository, wanted, store.root, progress).items():
        pin.adopt(path, digest)


def fetch(pin: Pin, repository: Repository, rows: Mapping[str, int], disk: Path, progress: Progress) -> dict[str, Path]:
    """Bring blobs into temporary files of the pin, several at a time; each has the bytes of its digest.

    Args:
        rows: size by digest.
        disk: what is told to be full, if it is.
    """
    total = sum(rows.values())
    if rows:
        progress(f"pull {_blobs(len(rows))}, {format_size(total)}, from {repository.place}")
    tally = Tally("pull", repository.place, total, progress)
    paths = {digest: pin.temporary() for digest in rows}

    def one(digest: str) -> None:
        with disk_errors(disk):
            repository.download(digest, rows[digest], paths[digest], tally.moved)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rebake-pull") as pool:
        list(pool.map(one, rows))
    return paths


def _blobs(count: int) -> str:
    return f"{count} blob{'s' * (count != 1)}"


def _held(store: Store, digest: str, size: int) -> bool:
    try:
        return store.blob_path(digest).stat().st_size == size
    except FileNotFoundError:
        return False
