"""Releases to a registry and back: the image as it is, and beside it, as an artifact that refers to the image, the
release document and the file lists.

What a release is named by is its image's manifest, so it goes out byte for byte: its layers are not compressed on the
way. A registry keeps what a manifest names; the release document and the file lists are named by the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.core.digest import digest_bytes, short
from rebake.core.units import format_size
from rebake.errors import UsageError
from rebake.registry.repository import Document, Repository
from rebake.registry.requests import EMPTY, EMPTY_TYPE
from rebake.registry.tally import Tally
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import MANIFEST_TYPE, RELEASE_ANNOTATION, StoredLayer, descriptor, release_from
from rebake.release.manifest import Release
from rebake.release.reference import parse_reference
from rebake.release.store import Store

RELEASE_TYPE = "application/vnd.rebake.release.v1+json"
"""Artifact type of a release's own documents, and media type of the release document among them."""
FILES_TYPE = "application/vnd.rebake.files.v1+jsonl"
AT_ONCE = 4
"""Blobs that are moved at the same time."""
_EMPTY = digest_bytes(b"")
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


def push_release(store: Store, release: Release, repository: Repository, progress: Progress) -> Pushed:
    """Put a release into a repository, sending only what is missing.

    Raises: PlatformError as in `faults`; Permanent `release-damaged`.
    """
    with store.pinned([release.digest]) as pin, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rebake-push") as pool:
        # Each answer of a registry takes a while, so whatever can be asked beside something else is.
        listed = pool.submit(repository.tagged_referrers, release.digest)
        image = store.read_json(release.digest)
        data = store.blobs.read(release.digest)
        subject = descriptor(MANIFEST_TYPE, release.digest, len(data))
        artifact, nothing = list(_artifact_layers(store, release)), descriptor(EMPTY_TYPE, pin.add(EMPTY), len(EMPTY))
        rows = {str(row["digest"]): int(row["size"]) for row in (image["config"], *image["layers"], *artifact, nothing)}
        pushed = _push_blobs(store, release, repository, rows, (pool, progress))
        tag = short(release.digest)
        put = pool.submit(repository.put_manifest, Document(release.digest, MANIFEST_TYPE, data), tag)
        repository.attach(subject, RELEASE_TYPE, artifact, listed.result)
        put.result()
    return Pushed(f"{repository.place}@{release.digest}", tag, *pushed)


def _artifact_layers(store: Store, release: Release) -> Iterable[Mapping[str, Any]]:
    """The release document first, then each file list that is not empty."""
    named = str(store.read_json(release.digest)["annotations"][RELEASE_ANNOTATION])
    yield descriptor(RELEASE_TYPE, named, store.blob_path(named).stat().st_size)
    lists = {layer["files"] for layer in store.read_json(named)["layers"]} - {_EMPTY}
    for digest in sorted(lists):
        yield descriptor(FILES_TYPE, digest, store.blob_path(digest).stat().st_size)


def _push_blobs(
    store: Store,
    release: Release,
    repository: Repository,
    rows: Mapping[str, int],
    with_: tuple[Executor, Progress],
) -> tuple[int, int, int, int]:
    """Returns: blobs sent, bytes sent, blobs mounted, blobs that were there."""
    pool, progress = with_
    there = dict(zip(rows, pool.map(repository.has_blob, rows), strict=True))
    missing = [digest for digest in rows if not there[digest]]
    mounted: set[str] = set()
    if below := _mountable(release, repository):
        bases = [layer.digest for layer in release.layers if layer.role == "base" and layer.digest in missing]
        taken = pool.map(lambda digest: repository.mount(digest, below), bases)
        mounted = {digest for digest, done in zip(bases, taken, strict=True) if done}
    left = [digest for digest in missing if digest not in mounted]
    total = sum(rows[digest] for digest in left)
    if left:
        progress(f"push {len(left)} of {_blobs(len(rows))}, {format_size(total)}, to {repository.place}")
    tally = Tally("push", repository.place, total, progress)

    def send(digest: str) -> None:
        store.verify(digest)
        repository.upload(digest, store.blob_path(digest), rows[digest], tally.moved)

    list(pool.map(send, left))
    return len(left), total, len(mounted), len(rows) - len(missing)


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
            named = image["annotations"][RELEASE_ANNOTATION]
            rows = {str(row["digest"]): int(row["size"]) for row in (image["config"], *image["layers"])}
        except (KeyError, TypeError, ValueError) as error:
            raise _no_release(repository, digest, "its manifest names no release") from error
        lists = _documents(repository, digest, named)
        take(store, pin, repository, {named: lists[named]}, progress)
        release, stored = _read(store, repository, digest, named)
        if [layer.layer.digest for layer in stored] != [row["digest"] for row in image["layers"]]:
            raise _no_release(repository, digest, "its image and its release document name other layers")
        pin.add(b"")
        rows |= {layer.files: lists[layer.files] for layer in stored if layer.files in lists}
        take(store, pin, repository, rows, progress)
        if missing := [layer.files for layer in stored if not store.blobs.has(layer.files)]:
            raise _no_release(repository, digest, f"the file list {missing[0]} is not with it")
        store.put_release(pin, manifest.data, service=release.service, size=release.size)
    return store.release(digest)


def _read(store: Store, repository: Repository, digest: str, named: str) -> tuple[Release, tuple[StoredLayer, ...]]:
    try:
        return release_from(digest, store.read_json(named))
    except (KeyError, TypeError, ValueError) as error:
        raise _no_release(repository, digest, f"its release document cannot be read ({error})") from error


def _documents(repository: Repository, digest: str, named: str) -> dict[str, int]:
    """The release's own documents beside the image, by digest, with their sizes."""
    for row in repository.referrers(digest, RELEASE_TYPE):
        layers = repository.manifest(str(row["digest"])).json().get("layers", [])
        sizes = {str(layer["digest"]): int(layer["size"]) for layer in layers}
        if named in sizes:
            return sizes
    raise _no_release(repository, digest, "its release document is not with it")


def _no_release(repository: Repository, digest: str, why: str) -> UsageError:
    return UsageError(
        "not-a-release",
        f"expected a release that `rebake bake --push` put there, found another image: {why}",
        where=f"{repository.place}@{digest}",
        remedy="push the release again from where it was baked; an image of others is deployed with `builder: image`",
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
