"""The tour's stage: a home of its own, the example service in a folder of its own, and the real command line."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Doc = dict[str, Any]

FILE = """\
service: guestbook
bake: {{builder: python, exclude: [README.md]}}
run:
  command: [python, -m, guestbook]
  health: {{path: /healthz}}
checks:
  - {{name: smoke, http: {{path: /notes, expect_status: 200, expect_body: "["}}}}
environments:
  staging:
    platform: local
    instances: 1
    listen: 127.0.0.1:{staging}
    strategy: all-at-once
  production:
    after: staging
    platform: local
    instances: 2
    listen: 127.0.0.1:{production}
    env: {{GREETING: "{greeting}"}}
    strategy: {{canary: {{steps: [5%, 25%, 50%], hold: 3s}}}}
    soak: 2m
    drift_interval: 2s
"""


def example() -> Path:
    """The guestbook: beside the sources in a checkout, inside the package when installed."""
    here = Path(__file__).resolve()
    places = (here.parent / "guestbook", here.parents[3] / "examples" / "guestbook")
    for place in places:
        if (place / "requirements.txt").is_file():
            return place
    raise FileNotFoundError(f"the example service is in none of {', '.join(map(str, places))}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Stage:
    """One tour's home, folder and addresses.

    Attributes:
        folder: the service's source, free to be edited.
        url: where users reach production.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.folder = root / "guestbook"
        shutil.copytree(example(), self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._ports = free_ports(2)
        self.url = f"http://127.0.0.1:{self._ports[1]}"
        self._environ = {**os.environ, "REBAKE_HOME": str(self.home)}
        self.greet("welcome")

    def greet(self, greeting: str) -> None:
        """Change a setting of production in rebake.yaml."""
        staging, production = self._ports
        text = FILE.format(staging=staging, production=production, greeting=greeting)
        (self.folder / "rebake.yaml").write_text(text)

    def edit(self, file: str, before: str, after: str) -> None:
        """Change one place of the source, as a developer would."""
        path = self.folder / file
        text = path.read_text()
        if text.count(before) != 1:
            raise ValueError(f"expected {before!r} once in {file}, found it {text.count(before)} times")
        path.write_text(text.replace(before, after))

    def rebake(self, *words: str) -> int:
        """Type one command. What it prints is the tour's own text. Returns its exit code."""
        print(f"\n$ rebake {' '.join(words)}", flush=True)
        done = subprocess.run(self._command(words), cwd=self.folder, env=self._environ, stdout=sys.stdout, check=False)
        return done.returncode

    def ask(self, *words: str) -> Doc:
        """Type a reading command with --json, quietly. Raises: RuntimeError with what it said when it fails."""
        done = subprocess.run(
            self._command((*words, "--json")),
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rebake {' '.join(words)} ended with {done.returncode}: {done.stderr or done.stdout}")
        doc: Doc = json.loads(done.stdout)
        return doc

    @staticmethod
    def _command(words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "rebake.cli", *words]

    def clear(self) -> None:
        """End everything that was started, whatever happened before."""
        for words in (("down", "production", "--yes"), ("down", "staging", "--yes"), ("agent", "stop")):
            subprocess.run(self._command(words), cwd=self.folder, env=self._environ, capture_output=True, check=False)

    def processes(self) -> list[int]:
        """Everything alive that was started from this home: what the tour must not leave behind."""
        mark = str(self.root).encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in text and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return sorted(found)


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage that is cleared at the end, also when the tour fails or is interrupted."""
    root = Path(tempfile.mkdtemp(prefix="rebake-tour-"))
    built: Stage | None = None
    try:
        built = Stage(root)
        yield built
    finally:
        if built is not None:
            built.clear()
        _remove(root)


def _remove(root: Path) -> None:
    """Remove a tree in which releases are read-only."""
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
