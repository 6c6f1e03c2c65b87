"""Runs the programs a builder needs, quietly, with their whole output kept for an error's evidence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rebake.bake.ports import ToolResult
from rebake.errors import BakeError
from rebake.release.blobs import disk_full

_FULL = re.compile(r"no space left on device|disk quota exceeded|\bENOSPC\b|\bEDQUOT\b", re.IGNORECASE)
_REMEDIES = {
    "npm": "install Node.js with npm (Debian: apt-get install npm)",
    "node": "install Node.js (Debian: apt-get install nodejs)",
    "uv": "install rebake with its dependencies again: uv comes with it",
}


class SystemTools:
    """Programs from PATH; `uv` is the one that came with rebake."""

    def run(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> ToolResult:
        """See `ports.Tools`. Raises: Permanent `disk-full` when that is why the program failed."""
        full = {**os.environ, **(env or {})}
        full = {name: value for name, value in full.items() if value and name != "REBAKE_DATABASE"}  # has a password
        done = subprocess.run(
            [self.path(command[0]), *command[1:]],
            cwd=cwd,
            env=full,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        result = ToolResult(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if result.status != 0 and _FULL.search(result.stdout + result.stderr):
            raise disk_full(command[0], cwd, result.tail())
        return result

    def path(self, name: str) -> str:
        """Where a program is. Raises: BakeError `tool-missing`."""
        found = _bundled_uv() if name == "uv" else None
        found = found or shutil.which(name)
        if found is None:
            raise BakeError(
                "tool-missing",
                f"this builder needs {name}, and there is none on PATH",
                where=name,
                remedy=_REMEDIES.get(name, f"install {name}"),
            )
        return found


def _bundled_uv() -> str | None:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return None
