"""What a layer is made of and how little of it must be written anew. Pure.

A layer is the sorted list of its entries; the tar is a function of that list. So the place of every entry in an older
layer is known without looking, and a new layer is a list of stretches copied from the old one and of new files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rebake.bake import tar
from rebake.release.documents import FileRow

FILE, PROGRAM, LINK, FOLDER = "f", "x", "l", "d"


Entry = tuple[bytes, str, int, bytes]
"""One entry of a layer; a plain tuple, because a large tree has tens of thousands: path, kind, size, token.

- path: in the image, without a slash at either end.
- kind: FILE, PROGRAM (a file with the x bit), LINK or FOLDER.
- size: of the content, bytes.
- token: SHA-256 of the content (32 bytes; empty while unknown), or a link's target.
"""


class Copy(NamedTuple):
    """A stretch of the old layer: offset and length in bytes."""

    offset: int
    length: int


def with_folders(entries: Iterable[Entry]) -> list[Entry]:
    """Sort by path as bytes and put every folder before the first entry below it."""
    made: set[bytes] = set()
    result: list[Entry] = []
    for entry in sorted(entries):
        folder = entry[0].rpartition(b"/")[0]
        if folder not in made:
            result += [(f, FOLDER, 0, b"") for f in _missing(folder, made)]
        result.append(entry)
    return result


def _missing(folder: bytes, made: set[bytes]) -> list[bytes]:
    missing = []
    while folder and folder not in made:
        made.add(folder)
        missing.append(folder)
        folder = folder.rpartition(b"/")[0]
    return missing[::-1]


def entry_header(entry: Entry) -> bytes:
    """The header of an entry whose token is known."""
    path, kind, size, token = entry
    if kind == FOLDER:
        return tar.folder_header(path)
    if kind == LINK:
        return tar.link_header(path, token)
    return tar.file_header(path, kind == PROGRAM, size, token)


def entry_length(entry: Entry) -> int:
    """Bytes of an entry in the tar: header, content and padding."""
    path, kind, size, token = entry
    if (
        len(path) < 100
        and size < 1 << 30
        and path.isascii()
        and (kind != LINK or (len(token) <= 100 and token.isascii()))
    ):
        return 512 + (size + 511) // 512 * 512
    digest = token if kind == LINK else bytes(32)
    return len(entry_header((path, kind, size, digest))) + (size + 511) // 512 * 512


def _order(entry: Entry) -> bytes:
    """The key by which `with_folders` orders: a folder comes right before what is below it."""
    return entry[0] + b"/" if entry[1] == FOLDER else entry[0]


def stretches(old: Sequence[Entry], entries: Iterable[Entry]) -> Iterator[Copy | Entry]:
    """What the layer of `entries` is made of: stretches of the layer of `old`, and entries it does not hold.

    Both are as `with_folders` gives them, so one pass through the two suffices.
    """
    at = offset = start = length = 0
    for entry in entries:
        while at < len(old) and old[at] != entry and _order(old[at]) <= _order(entry):
            offset += entry_length(old[at])
            at += 1
        if at < len(old) and old[at] == entry:
            size = entry_length(entry)
            if start + length != offset:
                if length:
                    yield Copy(start, length)
                start, length = offset, 0
            length, offset, at = length + size, offset + size, at + 1
        else:
            if length:
                yield Copy(start, length)
            start, length = offset, 0
            yield entry
    if length:
        yield Copy(start, length)


def file_list(entries: Iterable[Entry]) -> Iterator[FileRow]:
    """The entries as the release's file list names them; folders are not listed."""
    for path, kind, size, token in entries:
        if kind in (FILE, PROGRAM):
            yield path.decode(), 0o755 if kind == PROGRAM else 0o644, size, f"sha256:{token.hex()}", None
        elif kind == LINK:
            yield path.decode(), 0o777, 0, "", token.decode("utf-8", "surrogateescape")
