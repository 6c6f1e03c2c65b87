"""The agent as a process: started, found, replaced, killed and ended, with real processes, locks and sockets."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Terminal

from rebake.cli import agent_process, client
from rebake.cli.client import AgentAbsent, Client, OtherVersion
from rebake.cli.session import Session
from rebake.core.agent_lock import lock_holder, take_lock
from rebake.core.home import Home
from rebake.errors import BrokenInvariant, Permanent, UsageError

FAKE_AGENT = (sys.executable, str(Path(__file__).with_name("fake_agent.py")))
pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def fake_agents(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is started here is the fake agent, and ends with the test."""
    real_start = agent_process.start
    monkeypatch.setattr(agent_process, "start", lambda home, command=FAKE_AGENT: real_start(home, FAKE_AGENT))
    yield
    pid = lock_holder(home.agent_lock) if home.root.is_dir() and os.access(home.root, os.X_OK) else None
    if pid:
        os.kill(pid, signal.SIGKILL)
        until(lambda: lock_holder(home.agent_lock) is None)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime folder with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        yield Path(folder)


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.005)


def test_a_command_starts_it_and_the_next_one_finds_it(terminal: Terminal) -> None:
    first = terminal("agent", "start", "--json")
    assert first.code == 0
    assert first.doc["running"] is True
    assert first.doc["pid"] != os.getpid()
    assert terminal("agent", "status", "--json").doc == first.doc
    assert terminal("status", "production").code == 0
    assert lock_holder(terminal.home.agent_lock) == first.doc["pid"]


def test_it_has_left_the_terminal_and_the_folder(terminal: Terminal) -> None:
    pid = terminal("agent", "start", "--json").doc["pid"]
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert not [name for name in held if name.startswith("pipe:")]
    assert str(terminal.home.agent_log) in held


def test_only_its_owner_may_connect(terminal: Terminal) -> None:
    terminal("agent", "start")
    assert terminal.home.agent_socket.stat().st_mode & 0o777 == 0o600
    assert terminal.home.root.stat().st_mode & 0o077 == 0


def test_it_ends_when_asked_and_leaves_nothing(terminal: Terminal) -> None:
    terminal("agent", "start")
    typed = terminal("agent", "stop")
    assert typed.code == 0
    assert "has ended" in typed.out
    assert not terminal.home.agent_socket.exists()
    assert terminal("agent", "status", "--json").doc["running"] is False


def test_it_ends_on_sigterm(terminal: Terminal) -> None:
    pid = terminal("agent", "start", "--json").doc["pid"]
    os.kill(pid, signal.SIGTERM)
    until(lambda: lock_holder(terminal.home.agent_lock) is None)
    assert "ending" in terminal.home.agent_log.read_text()


def test_it_ends_also_when_something_in_it_hangs(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AGENT", "hangs")
    terminal("agent", "start")
    assert terminal("agent", "stop").code == 0
    log = terminal.home.agent_log.read_text()
    assert "closing hangs" in log
    assert "Thread 0x" in log


def test_its_home_is_removed_under_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AGENT", "homeless")
    pid = terminal("agent", "start", "--json").doc["pid"]
    lock = os.open(terminal.home.agent_lock, os.O_RDONLY)
    shutil.rmtree(terminal.home.root)
    until(lambda: _is_free(lock))
    os.close(lock)
    assert lock_holder(terminal.home.agent_lock) is None, f"pid {pid}"


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_killed_and_its_socket_left_behind(terminal: Terminal) -> None:
    pid = terminal("agent", "start", "--json").doc["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: lock_holder(terminal.home.agent_lock) is None)
    assert terminal.home.agent_socket.exists()
    assert terminal("agent", "status", "--json").doc["running"] is False
    typed = terminal("status", "production", "--json")
    assert typed.code == 0
    assert typed.err == ""
    assert lock_holder(terminal.home.agent_lock) not in (None, pid)


def test_killed_in_the_middle_of_a_watch_that_goes_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal("agent", "start")
    first = lock_holder(terminal.home.agent_lock)
    assert first
    session = Session(terminal.home)
    seen: list[dict[str, object]] = []
    for view in session.follow("r-0001", "promoted"):
        if not seen:
            os.kill(first, signal.SIGKILL)
            until(lambda: lock_holder(terminal.home.agent_lock) is None)
        seen.append(view)
    assert seen[-1]["outcome"] == "promoted"


def test_two_terminals_at_once_get_one_agent(terminal: Terminal) -> None:
    found: list[int] = []

    def ask() -> None:
        found.append(Session(terminal.home).get("/v1/agent")["pid"])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    assert len(set(found)) == 1


def test_it_says_why_it_cannot_start(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AGENT", "disk-full")
    typed = terminal("agent", "start", "--json")
    assert typed.code == 5
    assert typed.doc["error"] == "disk-full"
    assert typed.doc["remedy"] == "make room"


def test_it_dies_without_a_word(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AGENT", "dies")
    with pytest.raises(Permanent, match="ended while it started") as caught:
        agent_process.start(terminal.home)
    assert caught.value.code == "agent-cannot-start"
    assert caught.value.remedy is not None
    assert str(terminal.home.agent_log) in caught.value.remedy


def test_a_defect_while_it_starts_is_in_its_log(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_AGENT", "defect")
    with pytest.raises(BrokenInvariant, match="ZeroDivisionError"):
        agent_process.start(terminal.home)
    assert "Traceback" in terminal.home.agent_log.read_text()


def test_an_agent_of_an_older_version_is_replaced_with_one_notice(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = terminal("agent", "start", "--json").doc["pid"]
    with monkeypatch.context() as later:
        # The new agent is of the real version again; the command line is a newer one for its first call only.
        versions = iter(["0.99.0"])
        real = Client._asked

        def asked(self: Client, *args: object) -> object:
            later.setattr(client, "__version__", next(versions, "0.1.0"))
            return real(self, *args)  # type: ignore[arg-type]

        later.setattr(Client, "_asked", asked)
        later.setattr(agent_process, "__version__", "0.99.0")
        typed = terminal("status", "production", "--json")
    assert typed.code == 0
    assert len(typed.err.splitlines()) == 1
    assert "the agent was rebake 0.1.0" in typed.err
    assert lock_holder(terminal.home.agent_lock) not in (None, old)


def test_an_agent_of_a_newer_version_is_left_alone(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = terminal("agent", "start", "--json").doc["pid"]
    monkeypatch.setattr(client, "__version__", "0.0.9")
    monkeypatch.setattr(agent_process, "__version__", "0.0.9")
    typed = terminal("undo", "production", "--json")
    assert typed.code == 2
    assert typed.doc["error"] == "agent-newer"
    assert "rebake==0.1.0" in typed.doc["remedy"]
    assert lock_holder(terminal.home.agent_lock) == pid


def test_of_another_version_nothing_is_done(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal("agent", "start")
    monkeypatch.setattr(client, "__version__", "0.0.9")
    with pytest.raises(OtherVersion):
        Client(terminal.home.agent_socket).call("POST", "/v1/agent/stop", {})
    assert lock_holder(terminal.home.agent_lock)


def test_an_agent_that_does_not_answer_yet(terminal: Terminal) -> None:
    terminal.home.root.mkdir()
    lock = take_lock(terminal.home.agent_lock)
    try:
        doc = terminal("agent", "status", "--json").doc
        text = terminal("agent", "status").out
    finally:
        os.close(lock)
    assert (doc["running"], doc["pid"]) == (False, os.getpid())
    assert "starting" in text


def test_a_home_that_cannot_be_made(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REBAKE_HOME", str(tmp_path / "file" / "home"))
    typed = terminal("agent", "start", "--json")
    assert typed.code == 2
    assert typed.doc["error"] == "home-not-writable"
    assert "REBAKE_HOME" in typed.doc["remedy"]


def test_a_home_on_a_file_system_that_became_read_only(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.home.root.mkdir()
    found = os.statvfs(terminal.home.root)
    flags = list(found)
    flags[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(flags))
    typed = terminal("agent", "start", "--json")
    assert (typed.code, typed.doc["error"]) == (5, "home-not-writable")
    assert "read-only" in typed.doc["problem"]
    assert "what serves goes on" in typed.doc["remedy"]


def test_a_home_of_another_user(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.home.root.mkdir()
    owner = terminal.home.root.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 12345)
    typed = terminal("status", "--json")
    assert typed.code == 2
    assert typed.doc["error"] == "home-of-another-user"
    assert "REBAKE_HOME" in typed.doc["remedy"]


def test_a_stranger_listens_where_the_socket_should_be(home: Home) -> None:
    home.root.mkdir()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(home.agent_socket))
        with pytest.raises(AgentAbsent):
            Client(home.agent_socket).call("GET", "/v1/agent")
        assert Session(home).get("/v1/agent")["running"] is True


def test_an_agent_that_hangs_is_reported_with_the_remedy(home: Home) -> None:
    home.root.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home.agent_socket))
        silent.listen()
        with pytest.raises(Exception, match="did not answer within") as caught:
            Client(home.agent_socket).call("GET", "/v1/agent", timeout=0.05)
    assert "rebake agent stop" in str(getattr(caught.value, "remedy", ""))


def test_a_home_too_deep_for_a_socket(
    terminal: Terminal, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    monkeypatch.setenv("REBAKE_HOME", str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    home = Home(deep)
    try:
        assert terminal("agent", "start", "--json").doc["socket"] == str(home.agent_socket)
        assert not str(home.agent_socket).startswith(str(deep))
    finally:
        agent_process.stop(home)


def test_a_socket_folder_that_others_may_write_to(
    terminal: Terminal, tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    monkeypatch.setenv("REBAKE_HOME", str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = Home(deep).agent_socket.parent
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError) as caught:
        agent_process.start(Home(deep))
    assert caught.value.code == "socket-folder-not-private"


def test_idle_it_costs_nothing(terminal: Terminal) -> None:
    pid = terminal("agent", "start", "--json").doc["pid"]
    terminal("dashboard")
    memory = next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line
    )
    assert memory < 80_000, "kilobytes, without any environment"
    until(lambda: _sleeps(pid))


def _sleeps(pid: int) -> bool:
    """Whether the process slept through a whole quarter of a second: nothing in it ticks."""
    before = _wakes(pid)
    time.sleep(0.25)
    return _wakes(pid) == before


def _wakes(pid: int) -> list[str]:
    """How often each thread of the process has slept and woken."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    lines = (line for task in tasks for line in (task / "status").read_text().splitlines())
    return [line for line in lines if line.startswith("voluntary_ctxt")]
