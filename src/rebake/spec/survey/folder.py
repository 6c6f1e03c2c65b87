"""A folder as the survey sees it: bounded, tolerant reading. What cannot be read or parsed is as if not there."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_SKIPPED = {
    "node_modules", "venv", "env", "site-packages", "__pycache__", "dist", "build", "target", "vendor", "test", "tests",
    "docs", "acceptance",
}  # fmt: skip
_MOST_FILES = 3000
_LARGEST = 256 * 1024
_SUFFIXES = (".py", ".js", ".mjs", ".cjs", ".ts", ".mts", ".cts")


@dataclass(frozen=True)
class Guess:
    """How the folder is probably run.

    Attributes:
        because: what it was seen by, as the end of a sentence.
        health: a path known to answer; None to look for one in the sources.
        worker: nobody calls it: it fetches its work itself.
        platform: where it runs.
        command: empty where the builder, or the image, says it.
        source: the folder that is baked.
        notes: what a person should know or do.
    """

    builder: str
    command: tuple[str, ...]
    because: str
    health: str | None = None
    build: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    worker: bool = False
    platform: str = "local"
    source: str = "."
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One source file: its path in the folder, with /, and its text."""

    path: str
    text: str


class Folder:
    """What lies there, read at most once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def text(self, name: str) -> str:
        """The file's text; empty when there is none or it is too large."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(_LARGEST).decode("utf-8-sig", "replace")
        except OSError:
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """The file as a JSON object; empty when it is none."""
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def toml(self, name: str) -> dict[str, Any]:
        """The file as TOML; empty when it is none."""
        try:
            return tomllib.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}

    @cached_property
    def names(self) -> list[str]:
        """What lies directly in the folder. A name that no text can hold is passed over, as in `paths`."""
        try:
            return sorted(path.name for path in self.root.iterdir() if path.name.isprintable())
        except OSError:
            return []

    @cached_property
    def paths(self) -> list[str]:
        """Every file worth looking at, the shallow ones first; tests, dependencies and hidden folders are left out."""
        found = sorted(self._walk(), key=lambda path: (path.count("/"), path))
        return found[:_MOST_FILES]

    def _walk(self) -> Iterator[str]:
        seen = 0
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
            seen += len(files)
            paths = (Path(folder, name).relative_to(self.root).as_posix() for name in sorted(files))
            yield from (path for path in paths if path.isprintable())
            if seen > 10 * _MOST_FILES:
                return

    @cached_property
    def sources(self) -> list[Source]:
        """The Python and JavaScript sources."""
        return [Source(path, self.text(path)) for path in self.paths if path.endswith(_SUFFIXES)][:1000]


def literal(word: str) -> str:
    """A word of a command in which nothing is expanded."""
    return word.replace("$", "$$")


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: other people's files hold anything anywhere."""
    return value if isinstance(value, dict) else {}
