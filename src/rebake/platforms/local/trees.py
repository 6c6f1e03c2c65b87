"""Sealed folder trees: made read-only, remembered file by file, and looked over quickly for any difference.

A tree's listing holds for each entry its kind, mode, size, times, inode and content digest. Looking it over takes one
`lstat` for each entry: only an entry whose status changed is read again. A file that was touched but holds the same
bytes is no difference; a file that holds other bytes, has another mode, is missing or was added is one.
"""

# Ten thousand entries are looked over again and again, so they are strings, not Path objects:
# ruff: noqa: PTH101, PTH115, PTH123

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat as st
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.platforms.model import Drift

MTIME_NS = 946_684_800 * 1_000_000_000  # 2000-01-01, the same everywhere: bytecode and HTTP caches rely on it
_LISTING = "sealed.jsonl"
_MARK = "sealed.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tree.

    Attributes:
        path: relative to the tree's root.
        status: mode, size, mtime, ctime and inode as one string; only the mode for folders.
        content: digest of a file's bytes, target of a link, empty for a folder.
    """

    path: str
    status: str
    content: str = ""


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, str, os.stat_result]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda e: e.name)
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        path = prefix + entry.name
        yield path, entry.path, status
        if st.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, path + "/")


def _status(s: os.stat_result) -> str:
    if st.S_ISDIR(s.st_mode):
        return f"{s.st_mode:o}"
    return f"{s.st_mode:o} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"


def walk(root: Path, parts: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(relative path, full path, status) of everything below the named parts of a root, parts included."""
    for part in sorted(parts):
        full = str(root / part)
        try:
            status = os.lstat(full)
        except FileNotFoundError:
            continue
        yield part, full, _status(status)
        if st.S_ISDIR(status.st_mode):
            for path, where, found in _walk(full, part + "/"):
                yield path, where, _status(found)


def _digest_of_status(rows: Iterable[tuple[str, str]]) -> str:
    sum_ = hashlib.blake2b(digest_size=16)
    for path, status in rows:
        sum_.update(f"{path}\0{status}\n".encode("utf-8", "surrogateescape"))
    return sum_.hexdigest()


def hash_file(path: str) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    sum_ = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            sum_.update(chunk)
    return sum_.hexdigest()


def _content(full: str, status: str) -> str:
    mode = int(status.split(" ", 1)[0], 8)
    if st.S_ISLNK(mode):
        return os.readlink(full)
    return hash_file(full) if st.S_ISREG(mode) else ""


def make_read_only(root: Path, parts: Iterable[str]) -> None:
    """Files 0444 or 0555, folders 0555, one constant modification time."""
    for _, full, status in reversed(list(walk(root, parts))):
        mode = int(status.split(" ", 1)[0], 8)
        if not st.S_ISLNK(mode):
            wanted = 0o555 if st.S_ISDIR(mode) or mode & 0o111 else 0o444
            if st.S_IMODE(mode) != wanted:
                os.chmod(full, wanted)
        os.utime(full, ns=(MTIME_NS, MTIME_NS), follow_symlinks=False)


def write_seal(folder: Path, parts: Iterable[str], known: dict[str, str] | None = None) -> None:
    """Remember the tree as it is now. The mark is written last: a folder without it is not complete.

    Args:
        known: digests by path that are known already, so that these files are not read again.
    """
    parts = sorted(parts)
    known = known or {}
    entries = [Entry(path, s, known.get(path) or _content(full, s)) for path, full, s in walk(folder, parts)]
    lines = [json.dumps([e.path, e.status, e.content]) for e in entries]
    write_atomic(folder / _LISTING, ("\n".join(lines) + "\n").encode(), mode=0o444)
    mark = {"parts": parts, "status": _digest_of_status((e.path, e.status) for e in entries)}
    write_atomic(folder / _MARK, json.dumps(mark).encode(), mode=0o444)


def is_sealed(folder: Path) -> bool:
    return (folder / _MARK).exists()


def _listing(folder: Path) -> dict[str, Entry]:
    rows = (json.loads(line) for line in (folder / _LISTING).read_text().splitlines())
    return {path: Entry(path, status, content) for path, status, content in rows}


def look_over(folder: Path) -> tuple[Drift, ...]:
    """Every difference between a sealed folder and what was sealed; empty is the usual answer.

    A folder whose own seal cannot be read is one difference. Files that were touched without changing are taken into
    the listing, so that they are not read again the next time.
    """
    try:
        mark = json.loads((folder / _MARK).read_bytes())
        parts, expected = list(mark["parts"]), str(mark["status"])
        rows = list(walk(folder, parts))
        if _digest_of_status((path, status) for path, _, status in rows) == expected:
            return ()
        listing = _listing(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (Drift("file-changed", str(folder / _MARK), "the seal of the unpacked tree", f"unreadable: {error}"),)
    drift = tuple(_compare(folder, listing, rows))
    if not drift:
        write_seal(folder, parts, {path: entry.content for path, entry in listing.items()})
    return drift


def _compare(folder: Path, listing: dict[str, Entry], rows: list[tuple[str, str, str]]) -> Iterator[Drift]:
    seen = set()
    for path, full, status in rows:
        seen.add(path)
        entry = listing.get(path)
        if entry is None:
            yield Drift("file-added", str(folder / path), "", _kind(status))
        elif entry.status != status:
            yield from _compare_one(folder, entry, full, status)
    for path in sorted(listing.keys() - seen):
        yield Drift("file-removed", str(folder / path), _kind(listing[path].status), "")


def _compare_one(folder: Path, entry: Entry, full: str, status: str) -> Iterator[Drift]:
    expected_mode, found_mode = entry.status.split(" ", 1)[0], status.split(" ", 1)[0]
    if expected_mode != found_mode:
        yield Drift("file-changed", str(folder / entry.path), f"mode {expected_mode}", f"mode {found_mode}")
        return
    try:
        content = _content(full, status)
    except OSError as error:
        content = f"unreadable: {error.strerror}"
    if content != entry.content:
        yield Drift("file-changed", str(folder / entry.path), entry.content[:12], content[:12])


def _kind(status: str) -> str:
    mode = int(status.split(" ", 1)[0], 8)
    return "a folder" if st.S_ISDIR(mode) else "a link" if st.S_ISLNK(mode) else "a file"


def remove_tree(folder: Path) -> None:
    """Remove a read-only tree; also one that is partly gone."""
    for current, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(current, 0o755)
    shutil.rmtree(folder, ignore_errors=True)
