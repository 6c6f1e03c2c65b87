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

from rebake.bake.gitignore import GitPattern, git_patterns, git_verdict

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
        self._specs: dict[bytes, tuple[GitPattern, ...]] = {}
        self._unread: set[bytes] = set()
        self._above: list[tuple[str, tuple[GitPattern, ...]]] | None = None

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
        return self._git and (self._git_ignores(path, text, is_folder) or self._below_ignored(text))

    def _below_ignored(self, text: str) -> bool:
        """The path lies in a folder that git ignores and that was entered only on the way to a name taken back."""
        ups = (up for up in self._way_down if text.startswith(up + "/"))
        return any(self._git_ignores(up.encode("utf-8", "surrogateescape"), up, True) for up in ups)

    def found(self, folder: bytes) -> None:
        """There is a `.gitignore` in this folder (a slash at its end, or empty); read when it is first asked."""
        self._unread.add(folder)

    def _docker_verdict(self, text: str) -> bool | None:
        if self._may_return:
            return docker_verdict(self._docker, text)
        return True if self._any is not None and self._any.fullmatch(text) else None

    def _git_ignores(self, path: bytes, text: str, is_folder: bool) -> bool:
        """The `.gitignore` nearest to the path that speaks decides."""
        while self._unread:
            folder = self._unread.pop()
            self._specs[folder] = read_gitignore(self._root + b"/" + folder + b".gitignore")
        folder = path
        while self._specs and folder:
            folder = folder[: folder.rstrip(b"/").rfind(b"/") + 1]
            if spec := self._specs.get(folder):
                below = text[len(folder.decode("utf-8", "surrogateescape")) :]
                if (verdict := git_verdict(spec, below, is_folder)) is not None:
                    return verdict
        for prefix, spec in self._specs_above():
            if (verdict := git_verdict(spec, prefix + text, is_folder)) is not None:
                return verdict
        return False

    def _specs_above(self) -> list[tuple[str, tuple[GitPattern, ...]]]:
        """Rules of the folders above the source, nearest first, with the source's path from there."""
        if self._above is None:
            found = [(down, read_gitignore(os.fsencode(file))) for file, down in gitignores_above(self._root)]
            # nearest first: the first that speaks decides about the source folder, then about each folder above it
            hides_source = any(
                next((v for down, spec in found if (v := _verdict_at(spec, down, up)) is not None), False)
                for up in range(len(found[-1][0].split("/")) if found else 0)
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


def _verdict_at(patterns: tuple[GitPattern, ...], way_down: str, up: int) -> bool | None:
    """What a file above says of the source folder (`up` 0) or of the folder so many levels above it."""
    steps = way_down.rstrip("/").split("/")
    return git_verdict(patterns, "/".join(steps[: len(steps) - up]), True) if up < len(steps) else None


def read_gitignore(path: bytes) -> tuple[GitPattern, ...]:
    """The patterns of one file; none when there is no such file."""
    try:
        text = Path(os.fsdecode(path)).read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, IsADirectoryError):
        return ()
    return git_patterns(text.removeprefix("\ufeff").split("\n"))
