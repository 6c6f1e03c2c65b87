"""One pass over the source folder: what goes in, with the stamp of every file; nothing is opened.

What the last walk found is trusted name by name, so that ignore rules are only asked about names not seen before; and a
folder whose own stamp is the remembered one still has the remembered names, so that only its files are looked at. When
an ignore file itself changed, the walk is made again without that memory.
"""

# One call for each file of a large tree, and paths as bytes, so os functions instead of Path:
# ruff: noqa: PTH115, PTH116

from __future__ import annotations

import os
import stat as modes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rebake.bake.ignore import NEVER, NEVER_AT_ROOT, Rules
from rebake.bake.ports import Seen
from rebake.bake.secret import secret_by_name

Stamp = tuple[int, int, int, int, int]
"""mtime and ctime in nanoseconds, size, inode, mode: equal stamps mean equal content, unless the file is younger than
the file system's clock is fine (see `remember.py`)."""

_LONGEST = 3000
"""Bytes of the longest path that goes in: below any usual folder it can still be unpacked (PATH_MAX is 4096)."""
_PATH_MAX = 4096

_STEERING = frozenset({b".gitignore", b".dockerignore"})
_EXACT_FOLDER_TIMES = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "bcachefs", "overlay"})


def stamp_of(stat: os.stat_result) -> Stamp:
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_mode)


@dataclass(slots=True)
class Found:
    """What one walk found; paths from the source's root, as bytes.

    Attributes:
        files: what goes in, by path; in the order of `folders`.
        links: target by path.
        folders: folders entered, parents first: the stamp from before its names were read, and how many of `files` lie
            directly in it. The root is the empty path.
        left_out: what the rules keep out; a folder with a slash at its end.
        steering: stamps of the ignore files that were met.
        rules_asked: how many names the rules had to be asked about.
        folders_read: how many folders were listed.
    """

    files: dict[bytes, Stamp] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    folders: dict[bytes, tuple[Stamp, int]] = field(default_factory=dict)
    left_out: set[bytes] = field(default_factory=set)
    steering: dict[bytes, Stamp] = field(default_factory=dict)
    rules_asked: int = field(default=0, compare=False)
    folders_read: int = field(default=0, compare=False)


class Walker:
    """Walks one source folder.

    Args:
        seen: told what cannot be baked.
        hidden: names that never go in, besides those of `ignore.NEVER`.
        last: what was found the last time, under the same rules.
        trust_folders: a folder's time tells whether names were added or removed.
    """

    def __init__(
        self,
        root: bytes,
        rules: Rules,
        seen: Seen,
        *,
        hidden: Sequence[bytes] = (),
        last: Found | None = None,
        trust_folders: bool = True,
    ) -> None:
        self._root = root + b"/"
        self._rules = rules
        self._seen = seen
        self._never = NEVER | frozenset(hidden)
        self._last = last or Found()
        self._trust = trust_folders
        self._found = Found()
        self._device = -1

    def walk(self) -> Found:
        """Raises: nothing for what lies in the folder: that goes to `seen`. FileNotFoundError without a folder."""
        self._device = os.stat(self._root).st_dev
        for path in self._last.steering:
            if path.endswith(b".gitignore"):
                self._rules.found(path.removesuffix(b".gitignore"))
        stack = self._remembered_folders() if self._last.folders else [b""]
        while stack:
            stack += self._enter(stack.pop())
        return self._found

    # -- folders known from the last walk ------------------------------------------------------------------------------

    def _remembered_folders(self) -> list[bytes]:
        """Go through the remembered folders in their order; returns those not known before."""
        intact: set[bytes] = set()
        listed: set[bytes] = {b""}
        fresh: list[bytes] = []
        kept = self._found.folders
        root, lstat, files = self._root, os.lstat, iter(self._last.files.items())
        for path, folder in self._last.folders.items():
            stamp, count = folder
            mine = list(islice(files, count))
            if path not in listed and path.rpartition(b"/")[0] not in intact:
                continue  # it is gone, or left out now
            try:
                s = lstat(root + path)
                # spelled out, here and below: these lines run once per folder and file of the tree
                now = (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_mode)
                same = now == stamp and self._trust and s.st_dev == self._device
            except OSError:
                same = False
            if same and (not mine or self._files_of(mine)):
                kept[path] = folder
                intact.add(path)
            else:
                below = self._enter(path + b"/" if path else b"")
                listed.update(name[:-1] for name in below)
                fresh += [name for name in below if name[:-1] not in self._last.folders]
        self._keep_the_rest(intact)
        return fresh

    def _files_of(self, files: Sequence[tuple[bytes, Stamp]]) -> bool:
        """Look at the files of an intact folder; False when one is not as its folder says: it must be listed."""
        root, lstat, found = self._root, os.lstat, self._found.files
        try:
            for name, last in files:
                s = lstat(root + name)
                stamp = (s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_mode)
                if stamp == last:
                    found[name] = last
                elif modes.S_ISREG(s.st_mode):
                    found[name] = stamp
                else:
                    break
            else:
                return True
        except OSError:
            pass
        for name, _ in files:
            found.pop(name, None)
        return False

    def _keep_the_rest(self, intact: set[bytes]) -> None:
        """Links, names left out and ignore files of intact folders: a name's kind cannot change without its folder."""
        found, last = self._found, self._last
        for path, target in last.links.items():
            if path.rpartition(b"/")[0] in intact:
                found.links[path] = target
        for path in last.left_out:
            if path.rstrip(b"/").rpartition(b"/")[0] in intact:
                found.left_out.add(path)
        for path in last.steering:
            if path.rpartition(b"/")[0] in intact:
                found.steering[path] = stamp_of(os.lstat(self._root + path))

    # -- listing a folder ----------------------------------------------------------------------------------------------

    def _enter(self, folder: bytes) -> list[bytes]:
        """List one folder; returns the folders below it. `folder` ends with a slash, or is empty for the root."""
        found, last = self._found, self._last
        here: dict[bytes, Stamp] = {}
        below: list[bytes] = []
        others: list[os.DirEntry[bytes]] = []
        stamp, entries = self._list(folder)
        for entry in entries:
            name = entry.name
            path = folder + name
            try:
                if path in last.files and entry.is_file(follow_symlinks=False):
                    here[path] = stamp_of(entry.stat(follow_symlinks=False))
                elif path in last.folders and entry.is_dir(follow_symlinks=False):
                    below.append(path + b"/")
                elif name in _STEERING and (name == b".gitignore" or not folder):
                    found.steering[path] = stamp_of(entry.stat(follow_symlinks=False))
                    if name == b".gitignore":
                        self._rules.found(folder)
                elif name == b"pyvenv.cfg" and folder:
                    found.folders[folder[:-1]] = (stamp, 0)  # a virtual environment, until this file goes
                    return []
                else:
                    others.append(entry)
            except FileNotFoundError:
                self._seen.add("file-changed-while-read", _text(path))
        for entry in others:
            self._meet(folder + entry.name, entry, here, below)
        found.folders[folder[:-1]] = (stamp, len(here))
        found.files.update(here)
        return below

    def _list(self, folder: bytes) -> tuple[Stamp, list[os.DirEntry[bytes]]]:
        """The folder's stamp, then its names: what is added in between makes another stamp the next time."""
        self._found.folders_read += 1
        stamp: Stamp = (-1, 0, 0, 0, 0)
        try:
            stamp = stamp_of(os.lstat(self._root + folder))
            with os.scandir(self._root + folder) as entries:
                return stamp, list(entries)
        except PermissionError:
            self._seen.add("source-unreadable", _text(folder[:-1]) or ".")
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            self._seen.add("file-changed-while-read", _text(folder[:-1]))
        return stamp, []

    def _meet(self, path: bytes, entry: os.DirEntry[bytes], here: dict[bytes, Stamp], below: list[bytes]) -> None:
        """A name not known as file or folder from the last walk."""
        is_folder = entry.is_dir(follow_symlinks=False)
        if self._stays_out(path, entry.name, is_folder):
            return
        if not _is_utf8(path):
            self._seen.add("name-not-utf8", repr(path)[2:-1])
            return
        if len(path) > _LONGEST or len(entry.path) >= _PATH_MAX:
            self._seen.add("path-too-long", f"{_text(path[:60])}… ({len(path)} bytes)")
            return
        try:
            if is_folder:
                below.append(path + b"/")
            elif entry.is_symlink():
                self._meet_link(path, os.readlink(entry.path))
            elif entry.is_file(follow_symlinks=False):
                here[path] = stamp_of(entry.stat(follow_symlinks=False))
                if secret_by_name(path) and not self._rules.keeps_by_name(path):
                    self._seen.add("likely-secret", _text(path))
            else:
                self._seen.add("special-file", _text(path))
        except FileNotFoundError:
            self._seen.add("file-changed-while-read", _text(path))

    def _meet_link(self, path: bytes, target: bytes) -> None:
        if _is_utf8(target):
            self._found.links[path] = target
        else:
            self._seen.add("name-not-utf8", f"{_text(path)} -> {repr(target)[2:-1]}")

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


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
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


def folder_times_are_exact(root: bytes, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the file system is one whose folders' times tell of every name added or removed.

    Source: proc(5), mountinfo: field 3 is the device, the first field after ` - ` the type.
    """
    device = os.stat(root).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mountinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ", 3)[2] == wanted}
    return bool(kinds) and kinds <= _EXACT_FOLDER_TIMES
