"""Who holds the lock of a home, also where nothing can be written any more."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rebake.core.agent_lock import lock_holder, take_lock


def test_the_holder_is_read_on_a_disk_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opens = tmp_path / "agent.lock", os.open
    handle = take_lock(path)

    def read_only(name: Any, flags: int, *more: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, "Read-only file system", str(name))
        return opens(name, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    assert lock_holder(path) == os.getpid()
    os.close(handle)
    assert lock_holder(path) is None
