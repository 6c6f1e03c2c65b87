"""What a bake remembers about a source folder, so that nothing is read twice when nothing changed.

Like git's index: a file whose stamp (times, size, inode, mode) is the remembered one has the remembered digest. A file
that was changed so shortly before it was read that a later change could get the same time is remembered without a
stamp, and read again the next time ("racily clean").

The file is a cache of this machine and user: a header line with the digest of the rest, then `marshal`, the fastest
encoding Python has; anything unexpected means: remember nothing.

Source: git documentation, technical/racy-git.
"""

from __future__ import annotations

import hashlib
import marshal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rebake.bake.plan import Entry
from rebake.bake.walk import Found, Stamp
from rebake.core.atomic import write_atomic

RACY_NS = 2_000_000_000
"""The coarsest clock of a file system in use (FAT: 2 s)."""


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
    packed: bytes

    def entries(self) -> list[Entry]:
        """The layer's entries, folders among them, in its order."""
        entries: list[Entry] = marshal.loads(self.packed)
        return entries


def pack(entries: list[Entry]) -> bytes:
    """Encode entries for `Tree.packed`."""
    return marshal.dumps(entries)


def pack_walk(found: Found) -> bytes:
    """Encode a walk for `save`: of the two slow steps this is the one that can be done before the layer is whole."""
    return marshal.dumps((found.files, found.links, found.folders, found.left_out, found.steering))


def settled(stamp: Stamp, read_at_ns: int) -> Stamp:
    """The stamp to remember for a file read at this time: one that never matches when a change could hide behind it."""
    return stamp if stamp[1] < read_at_ns - RACY_NS else (-1, *stamp[1:])


def settle(found: Found, read_at_ns: int) -> Found:
    """A walk as it is to be remembered."""
    border = read_at_ns - RACY_NS
    return replace(
        found,
        files={p: s if s[1] < border else settled(s, read_at_ns) for p, s in found.files.items()},
        steering={p: settled(s, read_at_ns) for p, s in found.steering.items()},
        folders={p: (settled(s, read_at_ns), count) for p, (s, count) in found.folders.items()},
    )


_REST = ("rules", "young", "extra", "steering", "layer", "size", "files", "blob", "packed")


def _version() -> str:
    """Names the layout, so that what another rebake or interpreter wrote is not read."""
    layout = ",".join([*Found.__dataclass_fields__, *Tree.__dataclass_fields__])
    return f"rebake-tree-{hashlib.sha256(layout.encode()).hexdigest()[:8]} {sys.implementation.cache_tag}"


def save(path: Path, tree: Tree, walk: bytes) -> None:
    """Write atomically; a bake that is killed leaves the last version.

    Args:
        walk: `pack_walk(tree.found)`.
    """
    rest = tuple(getattr(tree, name) for name in _REST)
    payload = marshal.dumps((walk, rest))
    header = f"{_version()} {hashlib.sha256(payload).hexdigest()} {tree.layer}\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, header + payload, mode=0o600)


def load(path: Path) -> Tree | None:
    """The remembered folder; None when there is none that this interpreter wrote whole."""
    try:
        header, _, payload = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    expected = f"{_version()} {hashlib.sha256(payload).hexdigest()} ".encode()
    if not header.startswith(expected):
        return None
    walk, rest = marshal.loads(payload)
    return Tree(found=Found(*marshal.loads(walk)), **dict(zip(_REST, rest, strict=True)))
