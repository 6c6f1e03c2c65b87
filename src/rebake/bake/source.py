"""A source folder and what its owner wrote about it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebake.bake.ignore import DockerPattern, docker_patterns
from rebake.errors import BakeError


@dataclass(frozen=True, slots=True)
class Source:
    """A source folder and what decides which of it goes in.

    Attributes:
        root: absolute path.
        exclude: patterns besides those of `.dockerignore`.
        follow_ignores: read the ignore files; not done for the output of a build, which they would leave out.
    """

    root: bytes
    exclude: tuple[str, ...] = ()
    follow_ignores: bool = True

    @property
    def name(self) -> str:
        return os.fsdecode(self.root)


def open_source(folder: Path, exclude: Sequence[str]) -> Source:
    """Raises: BakeError `source-missing` when there is no such folder."""
    root = folder.absolute()
    if not root.is_dir():
        raise BakeError(
            "source-missing",
            f"expected a folder to bake, found {'a file' if root.exists() else 'nothing'} at {folder}",
            where="bake.source",
            remedy="correct `bake.source` in rebake.yaml; it is relative to that file",
        )
    return Source(os.fsencode(root.resolve()), tuple(exclude))


def load_patterns(source: Source) -> tuple[DockerPattern, ...]:
    """`.dockerignore` and `exclude`. Raises: BakeError `ignore-pattern` for a line that is no pattern."""
    text = ""
    if source.follow_ignores:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            text = Path(source.name, ".dockerignore").read_text("utf-8", "surrogateescape")
    try:
        return docker_patterns([*text.splitlines(), *source.exclude])
    except ValueError as error:
        raise BakeError(
            "ignore-pattern",
            f"{error}",
            where=".dockerignore or bake.exclude",
            remedy="correct the pattern; the syntax is that of .dockerignore",
        ) from error
