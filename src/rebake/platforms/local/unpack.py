"""A layer's tar into a folder: verified against its digest while it is read, and refused if it reaches outside."""

# One call for each of ten thousand members, so paths are strings, not Path objects:
# ruff: noqa: PTH102, PTH211

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from pathlib import Path
from typing import BinaryIO

from rebake.errors import Permanent
from rebake.platforms.faults import disk_errors

_CHUNK = 1 << 20
_BUFFER = 1 << 14  # tarfile copies what is left of its buffer at each read, so a large one is slow
ROOTS = ("app", "deps")
"""What a layer may hold at its top: `/app` and `/deps` of the image."""


class _HashingReader:
    """Hashes what passes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sum.update(data)
        return data


def _damaged(blob: Path, problem: str) -> Permanent:
    return Permanent(
        "release-damaged",
        problem,
        where=str(blob),
        remedy="bake the release again: `rebake bake` writes the same digest anew",
    )


def safe_parts(name: str) -> tuple[str, ...] | None:
    """The steps of a member's path, or None when it is absolute, climbs, or lies outside `app` and `deps`.

    >>> safe_parts("./app/a.py"), safe_parts("app/../../etc"), safe_parts("/app")
    (('app', 'a.py'), None, None)
    """
    if name.startswith("/") or "\0" in name:
        return None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or (parts and parts[0] not in ROOTS):
        return None
    return parts


def safe_link(parts: tuple[str, ...], target: str) -> bool:
    """Whether a symbolic link stays within `app` and `deps`."""
    if target.startswith("/"):
        return False
    end = posixpath.normpath(posixpath.join(*parts[:-1], target))
    return end.split("/", 1)[0] in ROOTS


class _Extraction:
    """One extraction into one folder that nobody else knows yet."""

    def __init__(self, into: Path, blob: Path) -> None:
        self._into = str(into)
        self._blob = blob
        self._folders: set[tuple[str, ...]] = {()}
        self.digests: dict[str, str] = {}

    def _path(self, parts: tuple[str, ...]) -> str:
        return "/".join((self._into, *parts))

    def folder(self, parts: tuple[str, ...]) -> None:
        """Make it and what is above it; a link in the place of a folder is refused by mkdir."""
        if parts in self._folders:
            return
        self.folder(parts[:-1])
        os.mkdir(self._path(parts), 0o755)
        self._folders.add(parts)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = safe_parts(member.name)
        if parts is None:
            raise _damaged(self._blob, f"expected paths below app/ or deps/, found {member.name!r} in the layer")
        if not parts:
            return
        if member.isdir():
            self.folder(parts)
            return
        self.folder(parts[:-1])
        if member.issym():
            self._link(parts, member.linkname)
        elif member.isreg():
            self._file(tar, member, parts)
        else:
            raise _damaged(self._blob, f"expected files, folders and symbolic links only, found {member.name!r}")

    def _link(self, parts: tuple[str, ...], target: str) -> None:
        if not safe_link(parts, target):
            raise _damaged(self._blob, f"the link {'/'.join(parts)!r} leaves the release: {target!r}")
        os.symlink(target, self._path(parts))

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        source = tar.extractfile(member)
        assert source is not None  # a regular member always has one
        mode = 0o755 if member.mode & 0o111 else 0o644
        fd = os.open(self._path(parts), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        sum_ = hashlib.sha256()
        with os.fdopen(fd, "wb", buffering=0) as file:
            while chunk := source.read(_CHUNK):
                sum_.update(chunk)
                file.write(chunk)
        self.digests["/".join(parts)] = sum_.hexdigest()


def extract(blob: Path, digest: str, into: Path) -> dict[str, str]:
    """Unpack one uncompressed layer and verify it.

    Args:
        blob: the layer's bytes.
        digest: `sha256:…` they must have.
        into: an existing folder of our own. After a failure its content is worthless.
    Returns: sha256 (hexadecimal) of each regular file, by path.
    Raises: Permanent `release-damaged`; `disk-full` and the like.
    Source: OCI image-spec, layer.md.
    """
    with disk_errors(into):
        try:
            with blob.open("rb", buffering=0) as raw:
                return _extract(raw, blob, digest, into)
        except FileNotFoundError as error:
            if error.filename != str(blob):
                raise
            raise _damaged(blob, f"the layer {digest} is missing from the store") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _damaged(blob, f"the layer holds one path twice: {error.filename}") from error


def _extract(raw: BinaryIO, blob: Path, digest: str, into: Path) -> dict[str, str]:
    reader = _HashingReader(raw)
    extraction = _Extraction(into, blob)
    problem: Exception | None = None
    try:
        with tarfile.open(fileobj=reader, mode="r|", bufsize=_BUFFER) as tar:  # type: ignore[call-overload]
            for member in tar:
                extraction.add(tar, member)
    except (tarfile.TarError, Permanent, EOFError, ValueError, FileExistsError, NotADirectoryError) as error:
        problem = error  # other bytes than released explain it better; so the digest is looked at first
    while reader.read(_CHUNK):
        pass
    found = "sha256:" + reader.sum.hexdigest()
    if found != digest:
        raise _damaged(blob, f"expected a layer of {digest}, found {found}") from problem
    if isinstance(problem, tarfile.TarError | EOFError | ValueError):
        raise _damaged(blob, f"the layer is not a tar archive: {problem}") from problem
    if problem is not None:
        raise problem
    return extraction.digests
