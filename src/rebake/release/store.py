"""The content-addressed store of releases: an OCI image layout that every OCI tool can read.

```
store/
  oci-layout  index.json  blobs/sha256/…     the image layout
  releases/<hex>                             one record per release: service, size; its mtime is the last bake
  cache/                                     what a bake remembers; may be lost at any time
  tmp/  pins/  lock  index.lock              work under way
  unpacked/                                  owned by the local platform
```

Source: OCI image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rebake.core.atomic import write_atomic
from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes, short
from rebake.errors import UsageError
from rebake.release.blobs import Blobs, Pin, damaged, disk_errors, locked
from rebake.release.documents import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    RELEASE_ANNOTATION,
    FileEntry,
    StoredLayer,
    decode_files,
    descriptor,
    release_from,
)
from rebake.release.gc import GcReport, mark, sweep
from rebake.release.manifest import Release

GRACE_SECONDS = 600.0
"""A release baked, or a blob written, less than this ago survives a collection even if nobody asks for it yet."""


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """What `releases` says about one release without opening it. `baked_at`: seconds since the epoch, last bake."""

    digest: str
    service: str
    size: int
    baked_at: float


class Store:
    """See the module. Safe from several threads and processes at once, and after any of them is killed.

    Raises (every method): Permanent `disk-full`, `store-read-only` when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)
        self.cache = root / "cache"
        self._records = root / "releases"

    # -- blobs ---------------------------------------------------------------------------------------------------

    def pinned(self, digests: Iterable[str] = ()) -> AbstractContextManager[Pin]:
        """Work with the store; what the pin holds (blobs, or releases with all they need) no collection removes."""
        return self.blobs.pinned(digests)

    def add_blob(self, data: bytes) -> str:
        """Put a blob in; returns its digest. Kept by a collection while it is young or a release needs it."""
        with self.pinned() as pin:
            return pin.add(data)

    def blob_path(self, digest: str) -> Path:
        return self.blobs.path(digest)

    def open_verified(self, digest: str) -> BinaryIO:
        """A blob, opened and verified. Raises: Permanent `release-damaged`."""
        return self.blobs.open_verified(digest)

    def verify(self, digest: str) -> None:
        """Read a blob and compare it with its digest. Raises: Permanent `release-damaged`."""
        self.blobs.verify(digest)

    def read_json(self, digest: str) -> Any:
        """A JSON blob, verified. Raises: Permanent `release-damaged`."""
        return json.loads(self.blobs.read(digest))

    # -- releases ------------------------------------------------------------------------------------------------

    def put_release(self, pin: Pin, manifest: bytes, *, service: str, size: int) -> str:
        """Record an image manifest as a release; returns its digest. Every blob it names is already in and pinned."""
        digest = pin.add(manifest)
        record = self._record(digest)
        if record.exists():
            with contextlib.suppress(FileNotFoundError):
                os.utime(record)  # young again: a collection that runs now must not take it
                return digest
        with disk_errors(self.root), locked(self.root / "index.lock"):
            self._records.mkdir(exist_ok=True)
            self.cache.mkdir(exist_ok=True)
            write_atomic(record, canonical({"digest": digest, "service": service, "size": size}))
            try:
                self._write_index()
            except BaseException:
                record.unlink()
                raise
        return digest

    def knows(self, manifest: bytes) -> bool:
        """Whether this image manifest is a release already."""
        return self._record(digest_bytes(manifest)).exists()

    def holds(self, digest: str) -> bool:
        """Whether a release of this full digest is here."""
        return self._record(digest).exists()

    def resolve(self, prefix: str) -> str:
        """The full digest of the release whose digest begins so, with or without `sha256:`.

        Raises: UsageError `release-unknown`, `release-ambiguous`.
        """
        digits = prefix.removeprefix("sha256:").lower()
        found = [n for n in self._names() if n.startswith(digits)] if re.fullmatch(r"[0-9a-f]{4,64}", digits) else []
        if not found:
            raise UsageError(
                "release-unknown",
                f"no release in this store begins with {prefix!r}",
                where=str(self.root),
                remedy="run `rebake bake`, or take a digest from `rebake history`; give at least four digits",
            )
        if len(found) > 1:
            raise UsageError(
                "release-ambiguous",
                f"{prefix!r} begins {len(found)} releases: {', '.join(short(n) for n in found[:5])}",
                remedy="give more digits",
            )
        return f"sha256:{found[0]}"

    def release(self, digest: str) -> Release:
        """A release by its digest or a unique beginning of it.

        Raises: Permanent `release-damaged`; UsageError `release-unknown`, `release-ambiguous`.
        """
        return self._open(self.resolve(digest))[0]

    def releases(self) -> tuple[ReleaseRecord, ...]:
        """Every release, last baked first."""
        found = []
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):
                path = self._records / name
                doc = json.loads(path.read_bytes())
                found.append(ReleaseRecord(doc["digest"], doc["service"], doc["size"], path.stat().st_mtime))
        return tuple(sorted(found, key=lambda r: (-r.baked_at, r.digest)))

    def files(self, release: Release) -> tuple[FileEntry, ...]:
        """Every file and link of a release, in the order of its layers; a later entry hides an earlier one."""
        return tuple(entry for layer in self._open(release.digest)[1] for entry in self.layer_files(layer.files))

    def layer_files(self, digest: str) -> tuple[FileEntry, ...]:
        """The file list with this digest. Raises: Permanent `release-damaged`."""
        return decode_files(self.blobs.read(digest))

    def make_durable(self, digest: str) -> None:
        """Force a release and all it needs to the disk: called before a rollout relies on it."""
        self.blobs.make_durable(self.needed(digest))

    def needed(self, digest: str) -> set[str]:
        """Every blob a release is made of, itself included. Raises: Permanent `release-damaged`."""
        image = self.read_json(digest)
        blobs = {digest, image["config"]["digest"], image["annotations"][RELEASE_ANNOTATION]}
        for layer in self._open(digest)[1]:
            blobs |= {layer.layer.digest, layer.files}
        return blobs

    def gc(
        self,
        keep_releases: set[str],
        *,
        grace_seconds: float = GRACE_SECONDS,
        on_removed: Callable[[str], int] | None = None,
    ) -> GcReport:
        """Remove every release that is neither kept, nor young, nor pinned, and every blob none of the others needs.

        Args:
            keep_releases: full digests.
            on_removed: told each removed release's digest, returns the bytes it freed elsewhere (what was unpacked).
        """
        if not self.root.is_dir():
            return GcReport()
        with disk_errors(self.root), locked(self.blobs.lock):
            return sweep(self, mark(self, keep_releases, grace_seconds), on_removed)

    def would_collect(self, keep_releases: set[str], *, grace_seconds: float = GRACE_SECONDS) -> GcReport:
        """What `gc` would remove now; removes nothing."""
        if not self.root.is_dir():
            return GcReport()
        with disk_errors(self.root), locked(self.blobs.lock):
            return mark(self, keep_releases, grace_seconds).report()

    def forget_releases(self, digests: Iterable[str]) -> None:
        """Drop the records of releases; only a collection calls this, and calls `renew_index` once it has freed space.

        Until then there is no index: on a full disk there may be no room for two.
        """
        with locked(self.root / "index.lock"):
            (self.root / "index.json").unlink(missing_ok=True)
            for digest in digests:
                self._record(digest).unlink(missing_ok=True)

    def renew_index(self) -> None:
        """Write the list of releases that other tools read, if it is not as the records say, and remove what killed
        writers of either left behind."""
        with locked(self.root / "index.lock"):
            for folder in (self.root, self._records):
                for path in folder.glob(".*"):
                    path.unlink()
            if self._records.is_dir():
                self._write_index()

    # -- inside --------------------------------------------------------------------------------------------------

    def _record(self, digest: str) -> Path:
        return self._records / digest.removeprefix("sha256:")

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            yield from sorted(p.name for p in self._records.iterdir() if not p.name.startswith("."))

    def _open(self, digest: str) -> tuple[Release, tuple[StoredLayer, ...]]:
        try:
            image = self.read_json(digest)
            return release_from(digest, self.read_json(image["annotations"][RELEASE_ANNOTATION]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(digest, f"its manifest cannot be read ({error})") from error

    def _write_index(self) -> None:
        manifests = []
        for record in sorted(self.releases(), key=lambda r: r.digest):
            with contextlib.suppress(FileNotFoundError):
                size = self.blob_path(record.digest).stat().st_size
                manifests.append(
                    descriptor(MANIFEST_TYPE, record.digest, size)
                    | {"annotations": {"org.opencontainers.image.ref.name": f"{record.service}-{short(record.digest)}"}}
                )
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        _renew(self.root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _renew(self.root / "index.json", canonical(index))


def _renew(path: Path, data: bytes) -> None:
    """Write a file, unless it holds this already."""
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)
