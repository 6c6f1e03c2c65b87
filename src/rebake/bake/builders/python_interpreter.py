"""Chooses the interpreter a Python source is baked for: what `.python-version` or `requires-python` asks, and among
those the one rebake itself runs on; never one that would have to be downloaded.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rebake.bake.ports import Memo, Tools
from rebake.core.digest import digest_of
from rebake.errors import BakeError


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter by its absolute path and version, such as `3.11.7`."""

    path: str
    version: str

    @property
    def minor(self) -> str:
        """`3.11`."""
        return ".".join(self.version.split(".")[:2])


def own_interpreter() -> Interpreter:
    """The one below rebake, outside any virtual environment."""
    path = getattr(sys, "_base_executable", "") or sys.executable
    return Interpreter(path, ".".join(str(n) for n in sys.version_info[:3]))


def wanted(source: Path) -> tuple[str, str]:
    """What the source asks for and where it says so; empty when it does not care."""
    pin = source / ".python-version"
    if pin.is_file():
        lines = [line.strip() for line in pin.read_text().splitlines()]
        if found := [line for line in lines if line and not line.startswith("#")]:
            return found[0], ".python-version"
    project = source / "pyproject.toml"
    if project.is_file():
        try:
            spec = tomllib.loads(project.read_text()).get("project", {}).get("requires-python", "")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError):
            spec = ""
        if isinstance(spec, str) and spec:
            return spec, "pyproject.toml: project.requires-python"
    return "", ""


def search_path(env: Mapping[str, str]) -> str:
    """PATH with rebake's own interpreter first, and pyenv's versions for its shims, which fail unless chosen."""
    entries = [str(Path(own_interpreter().path).parent)]
    for entry in env.get("PATH", "").split(os.pathsep):
        versions = Path(entry).parent / "versions"
        if Path(entry).name == "shims" and versions.is_dir():
            entries += sorted((str(v / "bin") for v in versions.iterdir()), reverse=True)
        else:
            entries.append(entry)
    return os.pathsep.join(entries)


def find_interpreter(source: Path, tools: Tools, memo: Memo, env: Mapping[str, str]) -> Interpreter:
    """The interpreter for a source; asks uv once per wish and machine.

    Raises: BakeError `interpreter-missing`.
    """
    wish, where = wanted(source)
    if not wish:
        return own_interpreter()
    key = digest_of({"wish": wish, "own": own_interpreter().path, "path": os.environ.get("PATH", "")})
    known = memo.get("interpreters", key)
    if known is not None and _mtime(known["path"]) == known["mtime"]:
        return Interpreter(known["path"], known["version"])
    found = _ask(wish, source, tools, {**env, "PATH": search_path(os.environ)})
    if found is None:
        raise BakeError(
            "interpreter-missing",
            f"the source asks for Python {wish}, and this machine has none",
            where=where,
            remedy=f"install it (`uv python install '{wish}'`), or change {where}",
        )
    memo.put("interpreters", key, {"path": found.path, "version": found.version, "mtime": _mtime(found.path)})
    return found


def _mtime(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return -1


def _ask(wish: str, source: Path, tools: Tools, env: Mapping[str, str]) -> Interpreter | None:
    # An installed Python before one that uv manages: it is what the machine's owner keeps up to date.
    for preference in (["--no-managed-python"], []):
        command = ["uv", "python", "find", "--no-project", *preference, wish]
        done = tools.run(command, cwd=source, env=env)
        if done.status == 0:
            path = done.stdout.strip()
            version = tools.run(["uv", "python", "find", "--no-project", "--show-version", path], cwd=source, env=env)
            if version.status == 0:
                return Interpreter(path, version.stdout.strip())
    return None
