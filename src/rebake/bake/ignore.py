"""Which files of the source go into the release. Pure, except for reading the ignore files it is asked to read.

Rules, the first that speaks decides:
1. Never: version control (`.git`, `.hg`, `.svn`), `__pycache__`, `.rebake`, the builder's hidden folders, virtual
   environments (a folder with `pyvenv.cfg`), and what steers the bake itself (`rebake.yaml`, `.dockerignore`,
   `.gitignore`): changing those must not make another release.
2. `.dockerignore` of the source and the file's `exclude`, in Docker's way: patterns from the root, a pattern covers
   what is below a matching folder, the last match wins, `!` takes back (also from `.gitignore`: `!dist`).
3. `.gitignore`, in git's way: in every folder, also those above the source up to the repository's root, unless they
   leave out the source folder itself. Files of one person or machine (`.git/info/exclude`, `core.excludesFile`) are not
   read: two people must bake the same release.

Folders without any file that goes in do not go in either, as with git.

Source: docs.docker.com, "Dockerfile reference, .dockerignore file"; moby/patternmatcher; git-scm.com, gitignore(5).
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

RULES = 1
"""Raised with every change of what goes in or what is a likely secret: a memory made under other rules is dropped."""

NEVER = frozenset({b".git", b".hg", b".svn", b"__pycache__", b".rebake", b".dockerignore", b".gitignore"})
NEVER_AT_ROOT = frozenset({b"rebake.yaml", b"rebake.yml"})


@dataclass(frozen=True, slots=True)
class DockerPattern:
    """One line of a `.dockerignore`: a compiled pattern, whether it takes back, and its text for exact comparison."""

    regex: re.Pattern[str]
    takes_back: bool
    text: str


def _translate(pattern: str) -> str:
    """Go's filepath.Match with `**`, as moby/patternmatcher writes it as a regular expression."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
            out += ".*" if at >= len(pattern) else "(.*/)?"
            continue
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            body = pattern[at + 1 : end].replace("\\", "\\\\")
            out += f"[{body}]"
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            out += re.escape(pattern[at])
        else:
            out += re.escape(char)
        at += 1
    return out


def docker_patterns(lines: Sequence[str]) -> tuple[DockerPattern, ...]:
    """Parse the lines of a `.dockerignore`. Raises: ValueError with the line that is no pattern."""
    patterns = []
    for number, raw in enumerate(lines):
        line = (raw.removeprefix("\ufeff") if number == 0 else raw).strip()
        if not line or raw.startswith("#"):
            continue
        takes_back = line.startswith("!")
        text = line[1:].strip() if takes_back else line
        text = posixpath.normpath(text).lstrip("/") if text else ""
        if not text or text == ".":
            continue
        try:
            patterns.append(DockerPattern(re.compile(_translate(text), re.DOTALL), takes_back, text))
        except re.error as error:
            raise ValueError(f"{line!r} is no pattern: {error}") from error
    return tuple(patterns)


def docker_verdict(patterns: Sequence[DockerPattern], path: str) -> bool | None:
    """True: out, False: taken back by `!`, None: no pattern speaks. Tried on the path and every folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    verdict: bool | None = None
    for pattern in patterns:
        may_change = verdict is None or verdict is pattern.takes_back
        if may_change and any(pattern.regex.fullmatch(name) for name in above):
            verdict = not pattern.takes_back
    return verdict


class Rules:
    """The rules of one source folder, loaded while the walk comes by; asked about paths from the root.

    Args:
        docker: patterns of `.dockerignore` and `exclude`, in this order.
        git: follow `.gitignore`.
    """

    def __init__(self, root: bytes, docker: Sequence[DockerPattern], *, git: bool = True) -> None:
        self._root = root
        self._git = git
        self._docker = docker
        self._may_return = any(p.takes_back for p in docker)
        self._by_name = {p.text for p in docker if p.takes_back}
        self._way_down = {name[:at] for name in self._by_name for at in range(len(name)) if name[at] == "/"}
        # Without `!`, a folder that matches is not entered, so that only the path itself must be tried.
        texts = [f"(?:{p.regex.pattern})" for p in docker]
        self._any = None if self._may_return or not docker else re.compile("|".join(texts), re.DOTALL)
        self._specs: dict[bytes, GitIgnoreSpec | None] = {}
        self._unread: set[bytes] = set()
        self._above: list[tuple[str, GitIgnoreSpec]] | None = None

    def keeps_by_name(self, path: bytes) -> bool:
        """The person wrote `!path` in `.dockerignore` or `exclude`, letter by letter: it is wanted, whatever it is."""
        return path.decode("utf-8", "replace") in self._by_name

    def leaves_out(self, path: bytes, is_folder: bool) -> bool:
        """Whether the path stays out; a folder that stays out is not entered, so nothing below it is asked about."""
        text = path.decode("utf-8", "surrogateescape")
        verdict = self._docker_verdict(text)
        if verdict is not None:
            return verdict and not (is_folder and self._may_return)
        if is_folder and text in self._way_down:
            return False
        return self._git and self._git_ignores(path, text + "/" * is_folder)

    def found(self, folder: bytes) -> None:
        """There is a `.gitignore` in this folder (a slash at its end, or empty); read when it is first asked."""
        self._unread.add(folder)

    def _docker_verdict(self, text: str) -> bool | None:
        if self._may_return:
            return docker_verdict(self._docker, text)
        return True if self._any is not None and self._any.fullmatch(text) else None

    def _git_ignores(self, path: bytes, text: str) -> bool:
        """The `.gitignore` nearest to the path that speaks decides."""
        while self._unread:
            folder = self._unread.pop()
            self._specs[folder] = read_gitignore(self._root + b"/" + folder + b".gitignore")
        folder = path
        while self._specs and folder:
            folder = folder[: folder.rstrip(b"/").rfind(b"/") + 1]
            if (spec := self._specs.get(folder)) is not None:
                below = text[len(folder.decode("utf-8", "surrogateescape")) :]
                if (decided := spec.check_file(below).include) is not None:
                    return bool(decided)
        for prefix, spec in self._specs_above():
            if (decided := spec.check_file(prefix + text).include) is not None:
                return bool(decided)
        return False

    def _specs_above(self) -> list[tuple[str, GitIgnoreSpec]]:
        """Rules of the folders above the source, nearest first, with the source's path from there."""
        if self._above is None:
            found = [
                (prefix, spec)
                for file, prefix in gitignores_above(self._root)
                if (spec := read_gitignore(os.fsencode(file))) is not None
            ]
            hides_source = any(
                spec.match_file(prefix[: end + 1])
                for prefix, spec in found
                for end in range(len(prefix))
                if prefix[end] == "/"
            )
            self._above = [] if hides_source else found
        return self._above


def gitignores_above(root: bytes) -> list[tuple[Path, str]]:
    """`.gitignore` files of the repository above the source, nearest first, each with the way down: `services/a/`."""
    top = Path(os.fsdecode(os.path.realpath(root)))
    if (top / ".git").exists():
        return []
    found = []
    for folder in top.parents:
        found.append((folder / ".gitignore", top.relative_to(folder).as_posix() + "/"))
        if (folder / ".git").exists():
            return [(file, prefix) for file, prefix in found if file.is_file()]
    return []


def read_gitignore(path: bytes) -> GitIgnoreSpec | None:
    """The rules of one file; None when there is no such file."""
    try:
        text = Path(os.fsdecode(path)).read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError):
        return None
    from pathspec import GitIgnoreSpec  # 50 ms: paid only where there is something to ignore

    return GitIgnoreSpec.from_lines(text.splitlines())
