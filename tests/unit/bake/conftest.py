from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.baker import Baker
from rebake.bake.builders.dockerfile import DockerfileBuilder
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.builders.image import ImageBuilder
from rebake.bake.builders.node import NodeBuilder
from rebake.bake.builders.python import PythonBuilder
from rebake.bake.builders.static import StaticBuilder
from rebake.bake.memoising import DiskMemo
from rebake.bake.ports import BakeRequest, BakeResult, Builder, Images, ToolResult, WholeBuilder
from rebake.bake.tools import SystemTools
from rebake.release.manifest import RunContract
from rebake.release.store import Store

Bake = Callable[..., BakeResult]
RUN = RunContract(("python", "-m", "app"), 8080)


class CountingTools:
    """Runs the real programs and keeps the commands, so that a test can see what was not done."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self._system = SystemTools()

    def run(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> ToolResult:
        self.commands.append(list(command))
        return self._system.run(command, cwd=cwd, env=env)

    def count(self, *words: str) -> int:
        return sum(command[: len(words)] == list(words) for command in self.commands)


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder; a path that ends with `*` is made executable."""
    for name, content in files.items():
        path = root / name.removesuffix("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o755 if name.endswith("*") else 0o644)
    return root


def next_tick(folder: Path) -> None:
    """Until the file system's clock has moved on: a change from here on has another time than all before."""
    probe = folder / "probe"
    probe.touch()
    begun, deadline = probe.stat().st_ctime_ns, time.monotonic() + 10
    while probe.stat().st_ctime_ns == begun:
        assert time.monotonic() < deadline
        probe.touch()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tools() -> CountingTools:
    return CountingTools()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def bake(store: Store, tools: CountingTools) -> Bake:
    """Bake a folder; keyword arguments are those of `BakeRequest`."""

    def run(folder: Path, into: Store | None = None, images: Images | None = None, **given: Any) -> BakeResult:
        target = into or store
        memo = DiskMemo(target.cache)
        builders: list[Builder | WholeBuilder] = [FilesBuilder(), StaticBuilder(), ImageBuilder()]
        builders += [PythonBuilder(tools, memo), NodeBuilder(tools, memo), DockerfileBuilder(tools)]
        baker = Baker(target, builders, images)
        options: dict[str, Any] = {"service": "guestbook", "builder": "files", "run": RUN} | given
        return baker.bake(BakeRequest(source=folder, **options), lambda line: None)

    return run


@pytest.fixture
def paths(store: Store) -> Callable[[BakeResult], list[str]]:
    """The paths of a release's files."""
    return lambda result: [entry.path for entry in store.files(result.release)]
