"""One agent per home: the lock under attack, and the socket that appears private."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from rebake.core.agent_lock import Busy, lock_holder, take_lock
from rebake.errors import UsageError
from rebake.server.private import check_private, listen_private


def test_the_second_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    first = take_lock(path)
    assert lock_holder(path) == os.getpid()
    with pytest.raises(Busy):
        take_lock(path)
    os.close(first)
    assert lock_holder(path) is None
    os.close(take_lock(path))


def test_a_pid_that_a_crash_left_behind_is_no_holder(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    path.write_text(f"{os.getpid()}\n")
    assert lock_holder(path) is None


def test_a_holder_that_has_not_written_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    handle = take_lock(path)
    os.ftruncate(handle, 0)
    assert lock_holder(path) == 0
    os.close(handle)


def test_nobody_ever_held_it(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "agent.lock") is None


def test_a_stale_socket_gives_way_to_a_private_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    tmp_path.chmod(0o700)
    with listen_private(path), socket.socket(socket.AF_UNIX) as caller:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        caller.connect(str(path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["agent.sock"]


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_may_write_to(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UsageError) as caught:
        listen_private(tmp_path / "agent.sock")
    assert caught.value.code == "socket-folder-not-private"
    tmp_path.chmod(0o700)


def test_a_link_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(UsageError):
        check_private(tmp_path / "link")
