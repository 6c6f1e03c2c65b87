"""The command line as a user types it: in a home and a folder of its own, against an agent on a real Unix socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fake import FakeApplication, served

from rebake.cli.root import run
from rebake.core.home import Home


@dataclass
class Typed:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def doc(self) -> Any:
        """The one JSON document on standard output. Fails when anything else is there."""
        return json.loads(self.out)


class Terminal:
    """Types command lines."""

    def __init__(self, home: Home, capfd: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capfd = capfd

    def __call__(self, *args: str) -> Typed:
        self._capfd.readouterr()
        code = run(args)
        seen = self._capfd.readouterr()
        return Typed(code, seen.out, seen.err)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home nobody used, and an empty folder to work in."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REBAKE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CI", "1")
    for name in ("REBAKE_DEBUG", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path / "home")


@pytest.fixture
def terminal(home: Home, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(home, capfd)


@pytest.fixture
def application(home: Home) -> Iterator[FakeApplication]:
    """An agent that runs already, over a fake application."""
    fake = FakeApplication()
    with served(home.root, fake):
        yield fake
