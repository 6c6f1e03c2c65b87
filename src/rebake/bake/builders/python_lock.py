"""Reads what a Python source says about its dependencies. Only reads; runs nothing."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.bake.ignore import NEVER
from rebake.core.digest import digest_bytes, digest_of
from rebake.errors import BakeError

_INCLUDE = re.compile(r"^\s*(?:-r|--requirement)[\s=]+(\S+)")
_CONSTRAINT = re.compile(r"^\s*(?:-c|--constraint)[\s=]+(\S+)")
_LOCAL_LINE = re.compile(
    r"^(?:-e\s+|--editable[\s=]+)?(?:[\w.\[\], -]+@\s*)?(?:file:(?://)?)?(\.{0,2}/[^\s;#\\]*|\.)", re.MULTILINE
)
_LOCAL_KEY = re.compile(r"""(?:editable|directory|path|virtual)\s*=\s*["']([^"']+)["']""")


@dataclass(frozen=True, slots=True)
class PythonLock:
    """The file that decides the dependencies.

    Attributes:
        kind: its name.
        files: every file that counts, relative to `source`.
        hashed: each requirement carries its hash.
    """

    source: Path
    kind: str
    files: tuple[str, ...]
    hashed: bool = False


def find_lock(source: Path) -> PythonLock | None:
    """The first of uv.lock, pylock.toml, requirements.txt, pyproject.toml with dependencies. Raises: BakeError."""
    if (source / "uv.lock").is_file():
        return PythonLock(source, "uv.lock", ("uv.lock", "pyproject.toml"), hashed=True)
    if (source / "pylock.toml").is_file():
        return PythonLock(source, "pylock.toml", ("pylock.toml",), hashed=True)
    if (source / "requirements.txt").is_file():
        files = tuple(dict.fromkeys(_files(source, "requirements.txt", set())))
        text = "".join(_read(source / name) for name in files)
        hashed = all_hashed(text) and not any(_CONSTRAINT.match(line) for line in text.splitlines())
        if "pyproject.toml" not in files and re.search(r"(?m)^(?:-e\s+)?\.(?:\[.*\])?\s*$", text):
            files = (*files, "pyproject.toml")
        return PythonLock(source, "requirements.txt", files, hashed)
    project = read_project(source)
    if project.get("dependencies") or "dependencies" in project.get("dynamic", ()):
        return PythonLock(source, "pyproject.toml", ("pyproject.toml",))
    return None


def lock_inputs(lock: PythonLock) -> dict[str, Any]:
    """What the resolution depends on, as a JSON value."""
    contents = {name: _read(lock.source / name) for name in lock.files if (lock.source / name).is_file()}
    return {
        "kind": lock.kind,
        "files": {name: digest_bytes(text.encode("utf-8", "surrogateescape")) for name, text in contents.items()},
        "local": local_digest(lock.source, "\n".join(contents.values())),
    }


def read_project(source: Path) -> dict[str, Any]:
    """The `[project]` table; empty without one. Raises: BakeError `pyproject-unreadable`."""
    path = source / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        project = tomllib.loads(path.read_text()).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BakeError(
            "pyproject-unreadable",
            f"pyproject.toml is not valid TOML: {error}",
            where=str(path),
            remedy="correct the line named",
        ) from error
    return project if isinstance(project, dict) else {}


def check_extras(source: Path, lock: PythonLock | None, extras: Sequence[str]) -> None:
    """Whether what is wanted can be had. Raises: BakeError `extra-unknown`, `extras-not-locked`."""
    if not extras:
        return
    if lock is None or lock.kind not in ("uv.lock", "pyproject.toml"):
        raise BakeError(
            "extras-not-locked",
            f"expected dependencies in uv.lock or pyproject.toml, of which extras are chosen, "
            f"found {lock.kind if lock is not None else 'none'}",
            where="bake.extras",
            remedy="run `uv lock`; or name the packages in the file that is there, and remove `extras`",
        )
    known = {normal(name): name for name in read_project(source).get("optional-dependencies", {})}
    for extra in extras:
        if normal(extra) not in known:
            raise BakeError(
                "extra-unknown",
                f"pyproject.toml has no optional dependencies {extra!r}; it has {', '.join(known.values()) or 'none'}",
                where="bake.extras",
                remedy="correct `bake.extras` in rebake.yaml",
            )


def normal(name: str) -> str:
    """A package's name, or an extra's, as it is compared. Source: packaging.python.org, "Name normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_lines(text: str) -> list[str]:
    """Logical lines without comments and blanks."""
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def all_hashed(text: str) -> bool:
    """Whether there are requirements and each carries a hash."""
    lines = [line for line in requirement_lines(text) if not line.startswith("-")]
    return bool(lines) and all("--hash=" in line for line in lines) and not re.search(r"(?m)^(-e|--editable)", text)


def flatten(source: Path, name: str) -> str:
    """A requirements file with its includes in place."""
    out = []
    for line in _read(source / name).splitlines():
        match = _INCLUDE.match(line)
        out.append(flatten(source, _beside(name, match[1])) if match else line)
    return "\n".join(out) + "\n"


def _files(source: Path, name: str, seen: set[str]) -> Iterator[str]:
    if name in seen:
        return
    seen.add(name)
    yield name
    for line in _read(source / name).splitlines():
        if match := _INCLUDE.match(line) or _CONSTRAINT.match(line):
            yield from _files(source, _beside(name, match[1]), seen)


def _beside(name: str, other: str) -> str:
    return os.path.normpath(Path(name).parent / other)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise BakeError(
            "dependencies-failed",
            f"a requirements file names {path.name}, and there is no such file",
            where=str(path),
            remedy="add the file or remove the line that names it",
        ) from error


def portable(text: str, source: Path) -> str:
    """uv's output without this machine's folder, without the project itself, and with nothing editable."""
    root = str(source)
    for spelling in (f"file://{root}", root):
        text = text.replace(f"{spelling}/", "./")
    lines = []
    for line in text.splitlines():
        line = re.sub(r"^(-e|--editable)\s+", "", line)
        if line.strip() not in (".", "./", root, f"file://{root}"):
            lines.append(line)
    return "\n".join(lines) + "\n" if lines else ""


def local_digest(source: Path, text: str) -> str:
    """A digest of the local folders and files a lock points to; empty when it points to none besides the project."""
    names = {match[1] for pattern in (_LOCAL_LINE, _LOCAL_KEY) for match in pattern.finditer(text)}
    paths = sorted({os.path.normpath(source / name) for name in names} - {os.path.normpath(source)})
    found = {os.path.relpath(path, source): _tree_digest(Path(path)) for path in paths if Path(path).exists()}
    return digest_of(found) if found else ""


def _tree_digest(path: Path) -> str:
    if path.is_file():
        return digest_bytes(path.read_bytes())
    state = hashlib.sha256()
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(
            f for f in folders if os.fsencode(f) not in NEVER and not (Path(folder) / f / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink():
                relative = os.fsencode(file.relative_to(path))
                state.update(b"%d %b %b" % (len(relative), relative, hashlib.sha256(file.read_bytes()).digest()))
    return state.hexdigest()


def _is_venv(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists()
