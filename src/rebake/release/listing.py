"""The file list of a layer that was baked here, read off the layer itself: what can be made again is not sent along."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO

from rebake.release.documents import FileRow, encode_files

_CHUNK = 1 << 20


def listed(layer: BinaryIO) -> bytes:
    """See `documents.encode_files`. What is no layer of ours gives another list than its release names.

    Args:
        layer: an uncompressed tar, its entries sorted by path as bytes.
    Raises: ValueError when it is no tar.
    """
    try:
        with tarfile.open(fileobj=layer, mode="r:") as archive:
            return encode_files(_rows(archive))
    except (tarfile.TarError, UnicodeError) as error:
        raise ValueError(f"it is no tar ({error})") from error


def _rows(archive: tarfile.TarFile) -> Iterator[FileRow]:
    """As `bake.plan.file_list`: folders are not listed."""
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # else it remembers each of many thousands
        content = archive.extractfile(member) if member.isreg() else None
        if content is not None:
            yield member.name, member.mode, member.size, _digest(content), None
        elif member.issym():
            yield member.name, member.mode, 0, "", member.linkname


def _digest(content: IO[bytes]) -> str:
    state = hashlib.sha256()
    while chunk := content.read(_CHUNK):
        state.update(chunk)
    return f"sha256:{state.hexdigest()}"
