"""`builder: python`: dependencies resolved and installed with uv, from the first of `uv.lock`, `pylock.toml`,
`requirements.txt` and `pyproject.toml` that is there.

What it decides: which lock counts, which interpreter, what of an installation goes into the layer. What it leaves to
others: remembering (`memoising.py`), the layer's bytes (`layers.py`).

In the image: packages in `deps/lib/pythonX.Y/site-packages`, programs in `deps/bin`. The project itself is not
installed: it is imported from `app` and, where there is one, from `app/src`; its `[project.scripts]` and its metadata
are added to the application layer, so that `command: [guestbook]` and `importlib.metadata` work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebake.bake.builders.python_install import installed_tree, project_items
from rebake.bake.builders.python_interpreter import Interpreter, find_interpreter
from rebake.bake.builders.python_lock import (
    PythonLock,
    all_hashed,
    check_extras,
    find_lock,
    flatten,
    local_digest,
    lock_inputs,
    portable,
    read_project,
)
from rebake.bake.ports import Application, BakeRequest, Installed, Memo, Progress, Resolution, ToolResult, Tools
from rebake.errors import BakeError
from rebake.release.manifest import Runtime

_FOREIGN = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT")
_CLEAN = dict.fromkeys(_FOREIGN, "") | {
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class PythonBuilder:
    """See `ports.Builder`."""

    name = "python"
    version = 1

    def __init__(self, tools: Tools, memo: Memo) -> None:
        self._tools = tools
        self._memo = memo

    def runtime(self, request: BakeRequest) -> Runtime:
        """Raises: BakeError `interpreter-missing`."""
        return Runtime("python", self._interpreter(request).minor)

    def inputs(self, request: BakeRequest) -> Mapping[str, Any] | None:
        """Raises: BakeError `extra-unknown`, `extras-not-locked`."""
        lock = find_lock(request.source)
        check_extras(request.source, lock, request.extras)
        if lock is None:
            return None
        wanted = {"wheels": request.wheels, "extras": sorted(set(request.extras))}
        return {**lock_inputs(lock), **{name: value for name, value in wanted.items() if value}}

    def resolve(self, request: BakeRequest, progress: Progress) -> Resolution | None:
        """Raises: BakeError `dependencies-failed` with uv's words."""
        lock = find_lock(request.source)
        if lock is None:
            return None
        text = self._text(lock, request, progress)
        if not text.strip():
            return None
        return Resolution(lock.kind, text, local_digest(lock.source, text))

    def install(self, request: BakeRequest, resolution: Resolution, into: Path, progress: Progress) -> Installed:  # noqa: ARG002
        """Raises: BakeError `dependencies-failed` with uv's words."""
        interpreter = self._interpreter(request)
        name = "pylock.toml" if resolution.kind == "pylock.toml" else "requirements.txt"
        (into / name).write_text(resolution.text)
        prefix = into / "prefix"
        command = [
            "uv",
            "pip",
            "install",
            "--prefix",
            str(prefix),
            "--python",
            interpreter.path,
            "-r",
            str(into / name),
        ]
        if name == "requirements.txt":
            command += ["--require-hashes"] if all_hashed(resolution.text) else ["--no-deps"]
        command += _platform(request)
        done = self._tools.run(command, cwd=request.source, env=_CLEAN)
        _must(done, "install", resolution.kind)
        return installed_tree(os.fsencode(prefix), interpreter.minor)

    def application(self, request: BakeRequest, dependencies: bool) -> Application:  # noqa: ARG002 same for both
        project = read_project(request.source)
        if not project:
            return Application()
        return Application(extra=project_items(project, self._interpreter(request).minor))

    def container_env(self, request: BakeRequest, runtime: Runtime) -> Mapping[str, str]:
        roots = ["/app"] + ["/app/src"] * (request.source / "src").is_dir()
        packages = f"/deps/lib/python{runtime.version}/site-packages"
        return {
            "PYTHONPATH": ":".join([*roots, packages]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _interpreter(self, request: BakeRequest) -> Interpreter:
        return find_interpreter(request.source, self._tools, self._memo, _CLEAN)

    def _text(self, lock: PythonLock, request: BakeRequest, progress: Progress) -> str:
        """Exact requirements of the lock, without anything of this machine."""
        if lock.kind == "pylock.toml":
            return (lock.source / "pylock.toml").read_text()
        if lock.kind == "requirements.txt" and lock.hashed:
            return flatten(lock.source, "requirements.txt")
        python = self._interpreter(request).path
        if lock.kind == "uv.lock":
            command = ["uv", "export", "--frozen", "--no-dev", "--no-emit-project", "--format", "requirements-txt"]
        else:
            progress(f"resolving the dependencies of {lock.kind}: they are not locked")
            command = ["uv", "pip", "compile", lock.kind, "--generate-hashes", *_platform(request)]
        extras = [word for extra in sorted(set(request.extras)) for word in ("--extra", extra)]
        done = self._tools.run(
            [*command, *extras, "--no-header", "--no-annotate", "--python", python], cwd=lock.source, env=_CLEAN
        )
        _must(done, "resolve", lock.kind)
        return portable(done.stdout, lock.source)


def _platform(request: BakeRequest) -> list[str]:
    """Whose wheels uv chooses."""
    return ["--python-platform", request.wheels] if request.wheels else []


def _must(done: ToolResult, verb: str, lock: str) -> None:
    if done.status == 0:
        return
    offline = re.search(r"network|dns|connect|fetch", done.stderr, re.IGNORECASE) is not None
    raise BakeError(
        "dependencies-failed",
        f"uv could not {verb} the dependencies of {lock} (exit {done.status})",
        where=lock,
        remedy="check the network and the index that uv uses, then bake again"
        if offline
        else f"correct {lock} so that `uv pip install -r {lock}` (or `uv sync`) works in this folder, then bake again",
        evidence=done.tail(),
    )
