"""One pass over the source folder: what goes in, with the stamp of every file; nothing is opened.

What the last walk found is trusted name by name, so that ignore rules are only asked about names not seen before; when
an ignore file itself changed, the walk is made again without that memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from rebake.bake.ignore import NEVER, NEVER_AT_ROOT, Rules
from rebake.bake.ports import Seen
from rebake.bake.secret import secret_by_name

Stamp = tuple[int, int, int, int, int]
"""mtime and ctime in nanoseconds, size, inode, mode: equal stamps mean equal content, unless the file is younger than
the file system's clock is fine (see `remember.py`)."""

_STEERING = frozenset({b".gitignore", b".dockerignore"})


def stamp_of(stat: os.stat_result) -> Stamp:
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_mode)


@dataclass(slots=True)
class Found:
    """What one walk found; paths from the source's root, as bytes.

    Attributes:
        files: what goes in, by path.
        links: target by path.
        folders: folders entered.
        left_out: what the rules keep out; a folder with a slash at its end.
        steering: stamps of the ignore files that were met.
        rules_asked: how many names the rules had to be asked about.
    """

    files: dict[bytes, Stamp] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    folders: set[bytes] = field(default_factory=set)
    left_out: set[bytes] = field(default_factory=set)
    steering: dict[bytes, Stamp] = field(default_factory=dict)
    rules_asked: int = 0


class Walker:
    """Walks one source folder.

    Args:
        seen: told what cannot be baked.
        hidden: names that never go in, besides those of `ignore.NEVER`.
        last: what was found the last time, under the same rules.
    """

    def __init__(
        self, root: bytes, rules: Rules, seen: Seen, *, hidden: Sequence[bytes] = (), last: Found | None = None
    ) -> None:
        self._root = root
        self._rules = rules
        self._seen = seen
        self._never = NEVER | frozenset(hidden)
        self._last = last or Found()
        self._found = Found()

    def walk(self) -> Found:
        """Raises: nothing for what lies in the folder: that goes to `seen`. FileNotFoundError without a folder."""
        stack = [b""]
        while stack:
            stack += self._folder(stack.pop())
        return self._found

    def _folder(self, folder: bytes) -> list[bytes]:
        """Take in one folder; returns the folders below it. `folder` ends with a slash, or is empty for the root."""
        found, last = self._found, self._last
        known_files, known_folders = last.files, last.folders
        here: dict[bytes, Stamp] = {}
        below: list[bytes] = []
        others: list[tuple[bytes, os.DirEntry[bytes]]] = []
        for entry in self._scan(folder):
            name = entry.name
            path = folder + name
            try:
                if path in known_files and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    # spelled out: this line runs once per file of the tree
                    here[path] = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_mode)
                elif path in known_folders and entry.is_dir(follow_symlinks=False):
                    below.append(path + b"/")
                elif name in _STEERING and (name == b".gitignore" or not folder):
                    found.steering[path] = stamp_of(entry.stat(follow_symlinks=False))
                elif name == b"pyvenv.cfg" and folder:
                    return []  # a virtual environment; not remembered, since it stops being one with this file
                else:
                    others.append((path, entry))
            except FileNotFoundError:
                self._seen.add("file-changed-while-read", _text(path))
        found.folders.add(folder[:-1])
        for path, entry in others:
            self._meet(path, entry, here, below)
        found.files.update(here)
        return below

    def _scan(self, folder: bytes) -> list[os.DirEntry[bytes]]:
        try:
            with os.scandir(self._root + b"/" + folder) as entries:
                return list(entries)
        except PermissionError:
            self._seen.add("source-unreadable", _text(folder[:-1]) or ".")
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            self._seen.add("file-changed-while-read", _text(folder[:-1]))
        return []

    def _meet(self, path: bytes, entry: os.DirEntry[bytes], here: dict[bytes, Stamp], below: list[bytes]) -> None:
        """A name not known as file or folder from the last walk."""
        is_folder = entry.is_dir(follow_symlinks=False)
        if self._stays_out(path, entry.name, is_folder):
            return
        try:
            path.decode()
        except UnicodeDecodeError:
            self._seen.add("name-not-utf8", repr(path)[2:-1])
            return
        try:
            if is_folder:
                below.append(path + b"/")
            elif entry.is_symlink():
                self._found.links[path] = os.readlink(entry.path)  # noqa: PTH115 bytes, not a Path
            elif entry.is_file(follow_symlinks=False):
                here[path] = stamp_of(entry.stat(follow_symlinks=False))
                if secret_by_name(path) and not self._rules.keeps_by_name(path):
                    self._seen.add("likely-secret", _text(path))
            else:
                self._seen.add("special-file", _text(path))
        except FileNotFoundError:
            self._seen.add("file-changed-while-read", _text(path))

    def _stays_out(self, path: bytes, name: bytes, is_folder: bool) -> bool:
        if name in self._never or (path in NEVER_AT_ROOT and not is_folder):
            return True
        if path in self._last.links and not is_folder:
            return False
        remembered = path + b"/" * is_folder
        if remembered not in self._last.left_out:
            self._found.rules_asked += 1
            if not self._rules.leaves_out(path, is_folder):
                return False
        self._found.left_out.add(remembered)
        return True


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def leaves_tree(root: bytes, path: bytes, target: bytes) -> bool:
    """Whether a link points out of the source: by an absolute target, or by its way through other links."""
    if target.startswith(b"/"):
        return True
    top = os.path.realpath(root)
    real = os.path.realpath(top + b"/" + path)
    return real != top and not real.startswith(top.rstrip(b"/") + b"/")
