"""Bytes by their digest on one disk: the `blobs/sha256` folder of an OCI image layout, and who is using what.

Rules:
- A blob appears by rename, whole, or not at all; adding what is there does nothing.
- Whoever works with blobs holds a `Pin`: a file locked for as long as its owner lives, which names what must stay.
  The kernel drops the lock when the owner is killed, so nothing is left behind that a person must remove.
- What can be baked again is not forced to the disk while baking; `make_durable` does that before anyone relies on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from rebake.core.atomic import write_all
from rebake.core.digest import digest_bytes, is_digest
from rebake.errors import BrokenInvariant, Permanent

_CHUNK = 1 << 20


def disk_full(what: str, where: Path, evidence: Iterable[str] = ()) -> Permanent:
    """The error for a disk or quota that is used up. Args: what: who has no space, and how that was said."""
    return Permanent(
        "disk-full",
        f"no space is left for {what}",
        where=str(where),
        remedy="run `rebake gc`, free some space, or set REBAKE_HOME to a folder on a larger disk",
        evidence=tuple(evidence),
    )


@contextlib.contextmanager
def full_disks(where: Path) -> Iterator[None]:
    """Say in our words that a disk is full, wherever it was met. Raises: Permanent `disk-full`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(f"the store ({os.strerror(error.errno)})", where) from error
        raise


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Say in our words what the store's disk said. Raises: Permanent `disk-full` or `store-read-only`."""
    try:
        with full_disks(where):
            yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Permanent(
                "store-read-only",
                f"the store cannot be written ({os.strerror(error.errno)})",
                where=error.filename or str(where),
                remedy="run as the user who owns this folder, or set REBAKE_HOME to a folder of your own",
            ) from error
        raise


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock; the kernel releases it when the process ends, however it ends. Source: flock(2)."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Pin:
    """One user of the store at work. Made by `Blobs.pinned`; safe to use from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.name = f"{os.getpid()}-{secrets.token_hex(6)}"
        self.path = blobs.pins / self.name
        self._handle = -1
        self._left: list[Path] = []

    def open(self) -> None:
        # Created and locked under the store's lock: a collection never sees a pin that is not locked yet.
        with locked(self._blobs.lock, shared=True):
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_EX)

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        for left in self._left:
            remove(left)
        os.close(self._handle)

    def hold(self, digests: Iterable[str]) -> None:
        """Keep these blobs (or releases) for as long as the pin lives. Whoever then finds a blob may rely on it."""
        text = "".join(f"{digest}\n" for digest in digests)
        with disk_errors(self._blobs.root), locked(self._blobs.lock, shared=True):
            write_all(self._handle, text.encode())

    def read(self, digest: str) -> bytes:
        """A small blob, verified. Raises: Permanent `release-damaged`."""
        return self._blobs.read(digest)

    def temporary(self) -> Path:
        """A path for a file under way, on the same disk as the blobs; removed with the pin, or by a collection."""
        path = self._blobs.temporary / f"{self.name}-{secrets.token_hex(4)}"
        self._left.append(path)
        return path

    def scratch(self) -> Path:
        """An empty folder to work in, as short-lived as `temporary`."""
        path = self.temporary()
        with disk_errors(self._blobs.root):
            path.mkdir()
        return path

    def adopt(self, path: Path, digest: str) -> None:
        """Make a finished temporary file the blob of this digest. The caller has hashed exactly these bytes."""
        self.hold([digest])
        with disk_errors(self._blobs.root):
            path.chmod(0o444)
            path.replace(self._blobs.path(digest))

    def add(self, data: bytes) -> str:
        """Put a blob in and return its digest."""
        digest = digest_bytes(data)
        self.hold([digest])
        if not self._blobs.holds(digest, data):
            path = self.temporary()
            with disk_errors(self._blobs.root), path.open("wb", buffering=0) as file:
                write_all(file.fileno(), data)
            self.adopt(path, digest)
        return digest


class Blobs:
    """The folder itself. Everything is made when first needed; reading an empty place finds nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "blobs" / "sha256"
        self.temporary = root / "tmp"
        self.pins = root / "pins"
        self.lock = root / "lock"

    @contextlib.contextmanager
    def pinned(self, digests: Iterable[str] = ()) -> Iterator[Pin]:
        """Work with the store: what the pin holds is safe from every collection until the block ends."""
        with disk_errors(self.root):
            for folder in (self.folder, self.temporary, self.pins):
                folder.mkdir(parents=True, exist_ok=True)
            pin = Pin(self)
            pin.open()
        try:
            pin.hold(digests)
            yield pin
        finally:
            pin.close()

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises: BrokenInvariant for what is no digest."""
        if not is_digest(digest):
            raise BrokenInvariant(f"expected a digest, found {digest!r}")
        return self.folder / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """The blob is there. Its bytes are not looked at: whoever uses them verifies them."""
        return self.path(digest).exists()

    def holds(self, digest: str, data: bytes) -> bool:
        """The blob is there with exactly these bytes; a damaged one is then written again."""
        try:
            return self.path(digest).read_bytes() == data
        except FileNotFoundError:
            return False

    def read(self, digest: str) -> bytes:
        """A small blob, verified. Raises: Permanent `release-damaged`."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise damaged(digest, "it is missing from the store") from error
        if digest_bytes(data) != digest:
            raise damaged(digest, f"its bytes have the digest {digest_bytes(data)}")
        return data

    def open_verified(self, digest: str) -> BinaryIO:
        """A blob, opened, hashed through the same open file and rewound. Raises: Permanent `release-damaged`."""
        try:
            file = self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise damaged(digest, "it is missing from the store") from error
        try:
            found = _hash(file)
            if found != digest:
                raise damaged(digest, f"its bytes have the digest {found}")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def verify(self, digest: str) -> None:
        """Raises: Permanent `release-damaged` when the stored bytes are not those of the digest."""
        self.open_verified(digest).close()

    def make_durable(self, digests: Iterable[str]) -> None:
        """Force blobs to the disk, for what must survive a power cut."""
        with disk_errors(self.root):
            for path in [*(self.path(digest) for digest in digests), self.folder]:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)


def remove(path: Path) -> int:
    """Remove a file or a whole folder, also one without write permission inside; returns the bytes it held."""
    if not path.is_dir() or path.is_symlink():
        size = path.lstat().st_size if path.is_symlink() or path.exists() else 0
        path.unlink(missing_ok=True)
        return size
    import shutil

    size = 0
    for folder, _, files in os.walk(path):
        Path(folder).chmod(0o700)
        size += sum((Path(folder) / name).lstat().st_size for name in files)
    shutil.rmtree(path, ignore_errors=True)
    return size


def _hash(file: BinaryIO) -> str:
    state = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def damaged(digest: str, problem: str) -> Permanent:
    """The error for bytes that do not match their digest."""
    return Permanent(
        "release-damaged",
        f"the store does not hold {digest} as it was baked: {problem}",
        where=digest,
        remedy="bake the same source again (`rebake bake`): it gives the same digest and repairs the store",
    )
