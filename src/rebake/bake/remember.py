"""What a bake remembers about a source folder, so that nothing is read twice when nothing changed.

Like git's index: a file whose stamp (times, size, inode, mode) is the remembered one has the remembered digest. A file
that was changed so shortly before it was read that a later change could get the same time is remembered without a
stamp, and read again the next time ("racily clean"). So is, for a minute, each of a few changed files: a program that
writes through a mapping leaves a time only when it first touches a page, and the next one after the kernel has written
the page back. (Never so in a tmpfs; nor are many files changed at once, such as a fresh checkout, read for a minute.)

The file is a cache of this machine and user: a header line of fixed length with the digest of the rest and the layer's
name, then the walk, the layer's entries and all else, each by `marshal`, the fastest encoding Python has; anything
unexpected means: remember nothing. The first two are known before the layer is, and are most of it: a `Draft` writes
them while the layer is still being made.

Source: git documentation, technical/racy-git; Linux admin guide, vm: dirty_expire_centisecs (30 s); mmap(2).
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rebake.bake.plan import Entry
from rebake.bake.walk import Found, Stamp
from rebake.core.atomic import write_all

Packed = bytes | memoryview

RACY_NS = 2_000_000_000
"""The coarsest clock of a file system in use (FAT: 2 s)."""
MAPPED_NS = 60_000_000_000
"""Twice what Linux lets a page be dirty before it is written back."""
_FEW, _LITTLE = 256, 16 << 20
"""Files, and bytes of them all, that are read again at no cost worth speaking of."""


@dataclass(slots=True)
class Tree:
    """One remembered source folder.

    Attributes:
        rules: digest of everything that decides what goes in, besides the ignore files inside the folder.
        found: the last walk.
        young: SHA-256 of each file that was too young for its stamp to count, by path.
        extra: entries of the items the builder added: they are part of the layer.
        steering: SHA-256 of each ignore file met, by path.
        layer, size, files: the layer made of it, its size in bytes, the blob with its file list.
        blob: stamp of the layer's blob; while it is the same, nobody has touched the blob.
        packed: the layer's entries, still encoded: not needed while nothing changed.
    """

    rules: str
    found: Found
    young: dict[bytes, bytes]
    extra: list[Entry]
    steering: dict[bytes, bytes]
    layer: str
    size: int
    files: str
    blob: Stamp
    packed: Packed

    def entries(self) -> list[Entry]:
        """The layer's entries, folders among them, in its order."""
        entries: list[Entry] = marshal.loads(self.packed)
        return entries


def is_young(stamp: Stamp, read_at_ns: int) -> bool:
    """Whether a change at the time of reading, or later, could leave the stamp as it is."""
    return stamp[1] >= read_at_ns - RACY_NS


def settled(stamp: Stamp, border_ns: int) -> Stamp:
    """The stamp to remember: one that never matches if it is not from before this time."""
    return stamp if stamp[1] < border_ns else (-1, *stamp[1:])


def settle(found: Found, read_at_ns: int) -> Found:
    """A walk as it is to be remembered."""
    border = read_at_ns - RACY_NS
    mapped = read_at_ns - MAPPED_NS
    recent = [stamp[2] for stamp in found.files.values() if stamp[1] >= mapped]
    files = mapped if len(recent) <= _FEW and sum(recent) <= _LITTLE else border
    return replace(
        found,
        files={p: s if s[1] < files else settled(s, files) for p, s in found.files.items()},
        steering={p: settled(s, border) for p, s in found.steering.items()},
        folders={p: f if f[0][1] < border else (settled(f[0], border), f[1]) for p, f in found.folders.items()},
    )


_REST = ("rules", "young", "extra", "steering", "layer", "size", "files", "blob")
_HEADER = 256
"""Bytes of the header line, its end included."""


class Draft:
    """A memory under way: what is known before the layer has a name.

    Args:
        path: a file on the same disk as the index; whoever gives it sees to it that it goes if `save` is never reached.
        found: the walk, settled.
        entries: the layer's entries, or encoded already as `Tree.packed`.
    Raises: OSError as the disk says it.
    """

    def __init__(self, path: Path, found: Found, entries: list[Entry] | Packed) -> None:
        self.found = found
        self._path = path
        self._hash = hashlib.sha256()
        walk = marshal.dumps((found.files, found.links, found.folders, found.left_out, found.steering))
        self.packed = marshal.dumps(entries) if isinstance(entries, list) else entries
        self._lengths = len(walk), len(self.packed)
        with path.open("xb", buffering=0) as file:
            file.seek(_HEADER)
            for part in (walk, self.packed):
                self._hash.update(part)
                write_all(file.fileno(), part)

    def save(self, index: Path, tree: Tree) -> None:
        """Become the index; a bake that is killed leaves the last version. `tree` has this draft's walk and entries."""
        rest = marshal.dumps(tuple(getattr(tree, name) for name in _REST))
        walk, packed = self._lengths
        self._hash.update(rest)
        self._hash.update(b"%d %d" % self._lengths)
        header = f"{_version()} {walk} {packed} {self._hash.hexdigest()} {tree.layer}".ljust(_HEADER - 1) + "\n"
        with self._path.open("r+b", buffering=0) as file:
            file.write(header.encode())
            file.seek(0, os.SEEK_END)
            write_all(file.fileno(), rest)
            os.fchmod(file.fileno(), 0o600)
        index.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(index)


def _version() -> str:
    """Names the layout, so that what another rebake or interpreter wrote is not read."""
    layout = ",".join([*Found.__dataclass_fields__, *Tree.__dataclass_fields__])
    return f"rebake-tree-{hashlib.sha256(layout.encode()).hexdigest()[:8]}-{sys.implementation.cache_tag}"


def load(path: Path) -> Tree | None:
    """The remembered folder; None when there is none that this interpreter wrote whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    words = data[:_HEADER].split()
    payload = memoryview(data)[_HEADER:]
    if len(words) != 5 or words[0] != _version().encode() or words[3] != _hex(payload, b" ".join(words[1:3])):
        return None
    end = int(words[1])
    rest = end + int(words[2])
    found = Found(*marshal.loads(payload[:end]))
    return Tree(found=found, packed=payload[end:rest], **dict(zip(_REST, marshal.loads(payload[rest:]), strict=True)))


def _hex(payload: memoryview, lengths: bytes) -> bytes:
    state = hashlib.sha256(payload)
    state.update(lengths)
    return state.hexdigest().encode()
