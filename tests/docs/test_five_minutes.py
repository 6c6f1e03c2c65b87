"""README's five-minute path, typed as it stands there: its files, its commands, and what it says will happen."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import ROOT, examples

from rebake.tour.load import Load
from rebake.tour.stage import free_ports

README = ROOT / "README.md"


def index_is_reachable() -> bool:
    try:
        socket.create_connection(("pypi.org", 443), timeout=5).close()
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not index_is_reachable(), reason="pypi.org cannot be reached: the README's service needs Flask"),
]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who follows the README."""

    folder: Path
    environ: dict[str, str]
    url: str

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-ec", line],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def edit(self, name: str, before: str, after: str) -> None:
        file = self.folder / name
        text = file.read_text()
        assert text.count(before) == 1, f"expected {before!r} once in {name}"
        file.write_text(text.replace(before, after))

    def ask(self) -> str:
        with urllib.request.urlopen(self.url, timeout=5) as answer:
            body: bytes = answer.read()
        return body.decode()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "hello"
    folder.mkdir()
    here = str(Path(sys.executable).parent)
    environ = {**os.environ, "REBAKE_HOME": str(tmp_path / "home"), "PATH": f"{here}:{os.environ['PATH']}"}
    one = Reader(folder, environ, f"http://127.0.0.1:{free_ports(1)[0]}")
    yield one
    one.type("rebake down production --yes; rebake agent stop")


def shown(language: str, mark: str) -> str:
    """The README's block in this language that holds this text."""
    return next(one.text for one in examples(language) if one.page == README and mark in one.text)


def test_five_minutes(reader: Reader) -> None:
    (reader.folder / "app.py").write_text(shown("python", "# app.py"))
    said = reader.type(shown("sh", "rebake init"))
    assert said.returncode == 0, said.stderr
    reader.edit("rebake.yaml", "127.0.0.1:8080", reader.url.removeprefix("http://"))
    reader.edit("rebake.yaml", "hold: 10s", "hold: 1s")

    first = reader.type("rebake deploy production")
    assert first.returncode == 0, first.stdout + first.stderr
    assert reader.ask() == "hello from one\n"

    reader.edit("app.py", "from one", "from two")
    begun = reader.type("rebake deploy production --detach --json")
    assert begun.returncode == 0, begun.stderr
    approved = reader.type("until rebake status production | grep -q 'holding, step 1'; do sleep 0.1; done")
    assert approved.returncode == 0
    assert reader.type("rebake approve production").returncode == 0
    with Load(reader.url, 60.0) as load:
        promoted = reader.type("rebake deploy production --json")  # joins the rollout that is under way
        assert promoted.returncode == 0, promoted.stderr
        assert document(promoted.stdout)["outcome"] == "promoted"
        back = reader.type("rebake undo production")
        assert back.returncode == 0, back.stderr
        assert re.search(r"^undone: hello/production is back on revision [0-9a-f]{12} after ", back.stdout)
        assert reader.ask() == "hello from one\n"
        assert load.report().lost == 0

        reader.edit("app.py", 'return "hello from two\\n"', 'raise RuntimeError("broken")')
        harmful = reader.type("rebake deploy production")
        assert harmful.returncode == 3, harmful.stdout + harmful.stderr
        assert "taken back after" in harmful.stdout
        assert load.stop().lost == 0
    assert reader.type("rebake deploy production").returncode == 4


def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
