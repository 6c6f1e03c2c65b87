"""Mark and sweep of the store. Runs while nobody may pin, add or record: the caller holds the store's lock alone.

Order: records first, then what was unpacked, then blobs, the index at last. Killed in the middle, it leaves blobs
nobody names and no index, which the next run removes and writes; never a record without its blobs. Nothing is written
before something was freed: a full disk is when a collection is needed most.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rebake.core.digest import is_digest
from rebake.errors import Permanent
from rebake.release.blobs import remove

if TYPE_CHECKING:
    from rebake.release.store import Store


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection did.

    Attributes:
        removed: digests of the releases that are gone.
        blobs: how many blobs went.
        bytes: what was freed, unpacked copies and temporary files included.
        kept: how many releases are left.
    """

    removed: tuple[str, ...] = ()
    blobs: int = 0
    bytes: int = 0
    kept: int = 0


def live_pins(folder: Path) -> dict[str, set[str]]:
    """Pins whose owner lives, and what each holds. The file of a dead owner is removed."""
    found: dict[str, set[str]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                found[path.name] = {line for line in path.read_text().split("\n") if is_digest(line)}
            finally:
                os.close(handle)
    return found


@dataclass(frozen=True, slots=True)
class Doomed:
    """What a collection would remove.

    Attributes:
        releases: digests.
        blobs: path and size in bytes.
        kept: how many releases stay.
        pins: names of the pins whose owner lives.
    """

    releases: tuple[str, ...]
    blobs: tuple[tuple[Path, int], ...]
    kept: int
    pins: frozenset[str]

    def report(self) -> GcReport:
        """The collection as foreseen: without what is unpacked."""
        return GcReport(self.releases, len(self.blobs), sum(size for _, size in self.blobs), self.kept)


def mark(store: Store, keep_releases: set[str], grace_seconds: float) -> Doomed:
    """Find what nobody needs. The caller holds the store's lock alone."""
    pins = live_pins(store.blobs.pins)
    pinned = set().union(*pins.values())
    cutoff = time.time() - grace_seconds
    records = store.releases()
    kept = {r.digest for r in records if r.digest in keep_releases | pinned or r.baked_at >= cutoff}
    needed = pinned | _needed(store, kept)
    return Doomed(
        releases=tuple(sorted(r.digest for r in records if r.digest not in kept)),
        blobs=tuple(_unneeded(store, needed, cutoff)),
        kept=len(kept),
        pins=frozenset(pins),
    )


def sweep(store: Store, doomed: Doomed, on_removed: Callable[[str], int] | None) -> GcReport:
    """Remove it. The caller still holds the lock."""
    if doomed.releases:
        store.forget_releases(doomed.releases)
    freed = sum(on_removed(digest) for digest in doomed.releases) if on_removed else 0
    for path, _ in doomed.blobs:
        path.unlink(missing_ok=True)
    freed += _sweep_temporary(store.blobs.temporary, doomed.pins)
    _sweep_cache(store)
    store.renew_index()
    report = doomed.report()
    return GcReport(report.removed, report.blobs, report.bytes + freed, report.kept)


def _needed(store: Store, kept: set[str]) -> set[str]:
    """Blobs of the kept releases. A damaged release keeps at least its own manifest; the others are not held up."""
    needed = set(kept)
    for digest in kept:
        with contextlib.suppress(Permanent):
            needed |= store.needed(digest)
    return needed


def _unneeded(store: Store, needed: set[str], cutoff: float) -> Iterator[tuple[Path, int]]:
    for path in list(store.blobs.folder.iterdir()) if store.blobs.folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if f"sha256:{path.name}" not in needed and stat.st_mtime < cutoff:
                yield path, stat.st_size


def _sweep_temporary(folder: Path, pins: frozenset[str]) -> int:
    freed = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if not any(path.name.startswith(f"{pin}-") for pin in pins):
            freed += remove(path)
    return freed


def _sweep_cache(store: Store) -> None:
    """Forget what the cache remembers about layers that are gone."""
    for path in (store.cache / "layers").glob("*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            doc = json.loads(path.read_bytes())
            if not all(store.blobs.has(digest) for digest in doc["blobs"]):
                path.unlink(missing_ok=True)
    for path in (store.cache / "trees").glob("*.index"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            layer = file.readline(1024).split()[-1:]
            if not layer or not is_digest(name := layer[0].decode("ascii", "replace")) or not store.blobs.has(name):
                path.unlink(missing_ok=True)
