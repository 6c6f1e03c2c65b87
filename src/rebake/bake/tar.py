"""The tar format, written so that equal content gives equal bytes. Pure.

Rules:
- Owner 0/0 without names, permissions 644 or 755 (777 for a link), no device numbers.
- Folders and links carry one constant time. A file's time is made from its digest: web servers and Python itself take
  "same time and size" for "same content" (ETag, `.pyc`), so a constant would let a browser keep yesterday's file.
- A name longer than 100 bytes or outside ASCII, and a file of 8 GiB or more, get a PAX record.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

EPOCH = 946_684_800
"""2000-01-01T00:00:00Z: the time of folders and links, and the earliest of files."""

END = bytes(10_240)
"""Two empty blocks, padded to the customary record of twenty."""

_BLOCK = 512
_MAX_OCTAL = 8**11
_TAIL = b"ustar\x0000" + bytes(64) + b"0000000\x00" + b"0000000\x00" + bytes(155) + bytes(12)
_FILE, _LINK, _FOLDER, _PAX = b"0", b"2", b"5", b"x"


def file_time(digest: bytes) -> int:
    """Seconds since the epoch, between 2000 and 2017, from a content's SHA-256.

    >>> file_time(bytes(32)) == EPOCH
    True
    """
    return EPOCH + (int.from_bytes(digest[:4], "big") >> 3)


def _block(name: bytes, mode: int, size: int, mtime: int, *, kind: bytes, link: bytes = b"") -> bytes:
    head = b"%b%07o\x000000000\x000000000\x00%011o\x00%011o\x00" % (name.ljust(100, b"\0"), mode, size, mtime)
    tail = kind + link.ljust(100, b"\0") + _TAIL
    total = sum(head) + sum(tail) + 8 * 32
    return b"%b%06o\x00 %b" % (head, total, tail)


def _record(key: bytes, value: bytes) -> bytes:
    """One PAX record: its length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def padding(size: int) -> bytes:
    """What fills a file of this size up to whole blocks."""
    return bytes(-size % _BLOCK)


def _fits(text: bytes) -> bool:
    return len(text) <= 100 and text.isascii()


def header(path: bytes, mode: int, size: int, mtime: int, *, kind: bytes, link: bytes = b"") -> bytes:
    """The header of one entry, extended header included; the content and its padding follow it."""
    records = b""
    if not _fits(path):
        records += _record(b"path", path)
        path = b"long-name"
    if not _fits(link):
        records += _record(b"linkpath", link)
        link = b"long-link"
    if size >= _MAX_OCTAL:
        records += _record(b"size", b"%d" % size)
    block = _block(path, mode, size % _MAX_OCTAL, mtime, kind=kind, link=link)
    if not records:
        return block
    extended = _block(b"PaxHeader", 0o644, len(records), EPOCH, kind=_PAX)
    return extended + records + padding(len(records)) + block


def file_header(path: bytes, executable: bool, size: int, digest: bytes) -> bytes:
    """Args: digest: SHA-256 of the content, 32 bytes."""
    return header(path, 0o755 if executable else 0o644, size, file_time(digest), kind=_FILE)


def link_header(path: bytes, target: bytes) -> bytes:
    return header(path, 0o777, 0, EPOCH, kind=_LINK, link=target)


def folder_header(path: bytes) -> bytes:
    """Args: path: without a trailing slash."""
    return header(path + b"/", 0o755, 0, EPOCH, kind=_FOLDER)
