"""The machine's own python and node: found, asked for their version, and bound to an unpacked release."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from rebake.errors import Permanent
from rebake.platforms.local.requests import Binding
from rebake.release.manifest import Release, Runtime

_ASK_PYTHON = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys._base_executable or sys.executable)"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
OWN = "own"
"""Folder of an unpacked release for what its application layer brings below `deps`."""
_PARALLEL_FROM = 200  # source files; below, one process compiles faster than several start


def host_platform() -> str:
    """As OCI names it: `linux/amd64`."""
    machine = platform.machine()
    return f"{sys.platform}/{_MACHINES.get(machine, machine)}"


def _answers(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split("\n") if done.returncode == 0 else []


@lru_cache(maxsize=64)
def _python_of(candidate: str) -> tuple[str, str] | None:
    """(minor version, real interpreter) of a candidate that runs."""
    answer = _answers([candidate, "-I", "-S", "-c", _ASK_PYTHON])
    return (answer[0], answer[1]) if len(answer) >= 2 else None


@lru_cache(maxsize=64)
def _node_of(candidate: str) -> tuple[str, str] | None:
    """(major version, real executable) of a candidate that runs; a version manager's shim names what it starts."""
    answer = _answers([candidate, "-p", "process.versions.node + '\\n' + process.execPath"])
    return (answer[0].split(".")[0], answer[1]) if len(answer) >= 2 else None


def _on_path(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            if found := shutil.which(name, path=folder or "."):
                yield found


def _python_candidates(minor: str) -> Iterator[str]:
    yield from _on_path([f"python{minor}", "python3", "python"])
    home = Path.home()
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"
    for root in (Path(uv), home / ".pyenv/versions"):
        if root.is_dir():
            yield from (str(p) for p in sorted(root.glob(f"*{minor}.*/bin/python{minor}"), reverse=True))


def _own_python() -> tuple[str, str]:
    return f"{sys.version_info[0]}.{sys.version_info[1]}", getattr(sys, "_base_executable", None) or sys.executable


@lru_cache(maxsize=16)
def _find_python(minor: str) -> str | None:
    version, executable = _own_python()
    if version == minor:
        return os.path.realpath(executable)
    for candidate in _python_candidates(minor):
        found = _python_of(candidate)
        if found is not None and found[0] == minor:
            return os.path.realpath(found[1])
    return None


def find_python(minor: str) -> str | None:
    """The interpreter of one minor version: our own if it fits, else on PATH, else of uv or pyenv; None if absent."""
    found = _find_python(minor)
    if found is None or not Path(found).exists():  # absent answers are not kept: it may be installed meanwhile
        _find_python.cache_clear()
        found = _find_python(minor)
    return found


def find_node(major: str) -> str | None:
    """A node of one major version on PATH, or under nvm; None if absent."""
    candidates = [*_on_path(["node", "nodejs"])]
    nvm = Path.home() / ".nvm/versions/node"
    if nvm.is_dir():
        candidates += [str(p) for p in sorted(nvm.glob(f"v{major}.*/bin/node"), reverse=True)]
    found = (_node_of(candidate) for candidate in candidates)
    return next((path for version, path in filter(None, found) if version == major), None)


def _missing(runtime: Runtime, release: Release, command: str) -> Permanent:
    return Permanent(
        "runtime-missing",
        f"the release expects {runtime.kind} {runtime.version} on this machine, found none",
        where=f"release {release.digest}",
        remedy=f"install it ({command}), or bake with a version this machine has; `rebake doctor` lists them",
    )


def interpreter(release: Release) -> str | None:
    """The executable the release's runtime needs here; None when it needs none.

    Raises: Permanent `runtime-missing`, `wrong-architecture`.
    """
    runtime = release.runtime
    if runtime.platform not in ("any", "", host_platform()):
        raise Permanent(
            "wrong-architecture",
            f"the release is compiled for {runtime.platform}, this machine is {host_platform()}",
            where=f"release {release.digest}",
            remedy="bake it on a machine of the same kind as the one it runs on",
        )
    if runtime.kind == "none":
        return None
    if runtime.kind == "python":
        found, command = find_python(runtime.version), f"`uv python install {runtime.version}`"
    else:
        found, command = find_node(runtime.version), f"node {runtime.version} from nodejs.org or your distribution"
    if found is None:
        raise _missing(runtime, release, command)
    return found


def write_venv(root: Path, minor: str, executable: str) -> None:
    """Make `root/venv`: an environment of the interpreter whose site-packages are the release's dependencies.

    A real environment rather than PYTHONPATH, so that .pth files work and sys.prefix is the release's.

    Source: PEP 405; docs.python.org, site.
    """
    venv = root / "venv"
    (venv / "bin").mkdir(parents=True)
    for name, target in (("python", executable), ("python3", "python"), (f"python{minor}", "python")):
        (venv / "bin" / name).symlink_to(target)
    (venv / "lib" / f"python{minor}").mkdir(parents=True)
    (venv / "lib" / f"python{minor}" / "site-packages").symlink_to(f"../../../deps/lib/python{minor}/site-packages")
    home = Path(executable).parent
    (venv / "pyvenv.cfg").write_text(
        f"home = {home}\nimplementation = CPython\nversion_info = {minor}\ninclude-system-site-packages = false\n"
    )


def compile_sources(executable: str, folder: Path) -> None:
    """Write bytecode beside every source below the folder, so that no instance compiles at its start.

    Sources that do not compile (templates, other versions) are passed over: importing one says so better.

    Source: PEP 552 for unchecked hashes: valid whatever the clock; changes are found by our own seal.
    """
    count = sum(name.endswith(".py") for _, _, names in os.walk(folder) for name in names)
    if count == 0:
        return
    workers = ["-j", "0"] if count >= _PARALLEL_FROM else []
    command = [executable, "-I", "-S", "-m", "compileall", "-q", "-q", "-f", *workers]
    subprocess.run(
        [*command, "--invalidation-mode", "unchecked-hash", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
        timeout=900,
        check=False,
    )


def bind(release: Release, root: Path, executable: str | None) -> Binding:
    """How the unpacked release at `root` is run with the interpreter found for it."""
    app = str(root / "app")
    path = [str(root / part / "bin") for part in (OWN, "deps") if (root / part / "bin").is_dir()]
    env: dict[str, str] = {}
    if release.runtime.kind == "python":
        path.insert(0, str(root / "venv" / "bin"))
        own = root / OWN / "lib" / f"python{release.runtime.version}" / "site-packages"
        places = [app, *(str(place) for place in (root / "app" / "src", own) if place.is_dir())]
        env = {"PYTHONPATH": ":".join(places), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        env["VIRTUAL_ENV"] = str(root / "venv")
    elif release.runtime.kind == "node":
        path.append(f"{app}/node_modules/.bin")
        env = {"NODE_ENV": "production"}
    if executable is not None and release.runtime.kind == "node":
        path.append(str(Path(executable).parent))
    return Binding(app, tuple(path), env)
