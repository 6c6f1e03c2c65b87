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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
        digests: SHA-256 of each file, by path.
        extra: entries of the items the builder added (`plan.Entry` as tuples): they are part of the layer.
        steering: SHA-256 of each ignore file met, by path.
        layer, size, files: the layer made of it, its size in bytes, the blob with its file list.
        blob: stamp of the layer's blob; while it is the same, nobody has touched the blob.
    """

    rules: str
    found: Found
    digests: dict[bytes, bytes] = field(default_factory=dict)
    extra: tuple[Any, ...] = ()
    steering: dict[bytes, bytes] = field(default_factory=dict)
    layer: str = ""
    size: int = 0
    files: str = ""
    blob: Stamp = (0, 0, 0, 0, 0)


def _version() -> str:
    """Names the layout, so that what another rebake or interpreter wrote is not read."""
    layout = ",".join([*Found.__dataclass_fields__, *Tree.__dataclass_fields__])
    return f"rebake-tree-{hashlib.sha256(layout.encode()).hexdigest()[:8]} {sys.implementation.cache_tag}"


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


def save(path: Path, tree: Tree) -> None:
    """Write atomically; a bake that is killed leaves the last version."""
    found = tree.found
    payload = marshal.dumps(
        (
            tree.rules,
            (found.files, found.links, found.folders, found.left_out, found.steering),
            (tree.digests, tree.extra, tree.steering, tree.layer, tree.size, tree.files, tree.blob),
        )
    )
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
    rules, (files, links, folders, left_out, steering), rest = marshal.loads(payload)
    found = Found(files, links, folders, left_out, steering)
    return Tree(rules, found, *rest)
