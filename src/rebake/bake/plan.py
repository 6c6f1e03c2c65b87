"""What a layer is made of and how little of it must be written anew. Pure.

A layer is the sorted list of its entries; the tar is a function of that list. So the place of every entry in an older
layer is known without looking, and a new layer is a list of stretches copied from the old one and of new files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, count
from operator import ne
from typing import NamedTuple

from rebake.bake import tar
from rebake.release.documents import FileRow, encode_files

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


def common_ends(old: Sequence[Entry], entries: Sequence[Entry]) -> tuple[int, int]:
    """How many entries two lists share at their beginnings and, of the others, at their ends.

    >>> common_ends("abcd", "abXd"), common_ends("aa", "aaa")
    ((2, 1), (2, 0))
    """
    shorter = min(len(old), len(entries))
    head = next(compress(count(), map(ne, old, entries)), shorter)
    tail = next(compress(count(), map(ne, reversed(old), reversed(entries))), shorter)
    return head, min(tail, shorter - head)


def stretches(old: Sequence[Entry], entries: Sequence[Entry], size: int) -> Iterator[Copy | Entry]:
    """What the layer of `entries` is made of: stretches of the layer of `old`, and entries it does not hold.

    Both are as `with_folders` gives them. Mostly little lies between what they share at both ends.

    Args:
        size: bytes of all `old` entries.
    """
    head, tail = common_ends(old, entries)
    if head < tail:
        begin = sum(map(entry_length, old[:head]))
        end = begin + sum(map(entry_length, old[head : len(old) - tail]))
    else:
        end = size - sum(map(entry_length, old[len(old) - tail :]))
        begin = end - sum(map(entry_length, old[head : len(old) - tail]))
    if begin:
        yield Copy(0, begin)
    yield from _between(old[head : len(old) - tail], entries[head : len(entries) - tail], begin)
    if end < size:
        yield Copy(end, size - end)


def _between(old: Sequence[Entry], entries: Iterable[Entry], offset: int) -> Iterator[Copy | Entry]:
    """One pass through two lists; `offset`: where the first entry of `old` is."""
    at, start, length = 0, offset, 0
    for entry in entries:
        while at < len(old) and old[at] != entry and _order(old[at]) <= _order(entry):
            offset += entry_length(old[at])
            at += 1
        if at < len(old) and old[at] == entry:
            if start + length != offset:
                if length:
                    yield Copy(start, length)
                start, length = offset, 0
            size = entry_length(entry)
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


def renewed_file_list(listed: bytes, old: Sequence[Entry], entries: Sequence[Entry]) -> bytes:
    """The file list of `entries`, with the lines that `old` and they share taken from that of `old`.

    >>> x, y = (b"app/x", FILE, 1, bytes(32)), (b"app/y", FILE, 1, bytes(32))
    >>> renewed_file_list(encode_files(file_list([x])), [x], [x, y]) == encode_files(file_list([x, y]))
    True
    """
    head, tail = common_ends(old, entries)
    lines = listed.splitlines(keepends=True)
    first = sum(entry[1] != FOLDER for entry in old[:head])
    last = len(lines) - sum(entry[1] != FOLDER for entry in old[len(old) - tail :])
    return b"".join([*lines[:first], encode_files(file_list(entries[head : len(entries) - tail])), *lines[last:]])
