"""`builder: files`: what is there goes in as it is; any language that needs nothing installed."""

# ruff: noqa: ARG002 the port asks everybody what only others answer

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebake.bake.ports import Application, BakeRequest, Installed, Progress, Resolution
from rebake.errors import BrokenInvariant
from rebake.release.manifest import Runtime


class FilesBuilder:
    """See `ports.Builder`. Has no dependencies and no build."""

    name = "files"
    version = 1

    def runtime(self, request: BakeRequest) -> Runtime:
        return Runtime()

    def inputs(self, request: BakeRequest) -> Mapping[str, Any] | None:
        return None

    def resolve(self, request: BakeRequest, progress: Progress) -> Resolution | None:
        return None

    def install(self, request: BakeRequest, resolution: Resolution, into: Path, progress: Progress) -> Installed:
        raise BrokenInvariant("the files builder has nothing to install")

    def application(self, request: BakeRequest, dependencies: bool) -> Application:
        return Application()

    def container_env(self, request: BakeRequest, runtime: Runtime) -> Mapping[str, str]:
        return {}
