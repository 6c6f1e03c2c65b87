"""`builder: static`: a folder of files, with a small server of Python's own library beside it."""

# ruff: noqa: ARG002 the port asks everybody what only others answer

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebake.bake.builders.python_interpreter import own_interpreter
from rebake.bake.ports import Application, BakeRequest, Installed, Item, Progress, Resolution
from rebake.errors import BrokenInvariant
from rebake.release.manifest import Runtime

PROGRAM = "rebake-static"
_SERVER = Path(__file__).with_name("static_server.py")


class StaticBuilder:
    """See `ports.Builder`. Has no dependencies and no build."""

    name = "static"
    version = 1

    def runtime(self, request: BakeRequest) -> Runtime:
        return Runtime("python", own_interpreter().minor)

    def inputs(self, request: BakeRequest) -> Mapping[str, Any] | None:
        return None

    def resolve(self, request: BakeRequest, progress: Progress) -> Resolution | None:
        return None

    def install(self, request: BakeRequest, resolution: Resolution, into: Path, progress: Progress) -> Installed:
        raise BrokenInvariant("the static builder has nothing to install")

    def application(self, request: BakeRequest, dependencies: bool) -> Application:
        program = Item(f"deps/bin/{PROGRAM}".encode(), executable=True, content=_SERVER.read_bytes())
        return Application(extra=(program,), command=(PROGRAM,))

    def container_env(self, request: BakeRequest, runtime: Runtime) -> Mapping[str, str]:
        return {"PYTHONUNBUFFERED": "1"}
