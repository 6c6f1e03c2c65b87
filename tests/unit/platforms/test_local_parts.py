"""Small parts: control groups as data, ports, logs, exits, faults, drift."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path

import pytest

from rebake.core.clock import boot_id
from rebake.errors import Permanent, Transient
from rebake.platforms import logs, port_choice
from rebake.platforms.faults import disk_errors
from rebake.platforms.local import cgroups, listeners, processes
from rebake.platforms.local.drift import process_drift
from rebake.platforms.local.records import Identity, Settled
from rebake.platforms.local.requests import LaunchRequest
from rebake.platforms.model import Drift
from rebake.platforms.records import read_record, write_once, write_record
from rebake.release.manifest import Resources

# Control groups.


def test_limits_of_version_1() -> None:
    assert cgroups.wanted_values("v1", Resources(256 << 20, 1500)) == {
        "memory": {"memory.limit_in_bytes": "268435456"},
        "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
    }


def test_limits_of_version_2() -> None:
    assert cgroups.wanted_values("v2", Resources((256 << 20) + 1, 5)) == {
        "memory": {"memory.max": "268435456", "memory.swap.max": "0", "memory.oom.group": "1"},
        "cpu": {"cpu.max": "1000 100000"},
    }


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_no_limit_writes_nothing(mode: str) -> None:
    assert cgroups.wanted_values(mode, Resources()) == {"memory": {}, "cpu": {}}


def _detect(tmp_path: Path, mounts: str, own: str) -> cgroups.Hierarchies:
    (tmp_path / "mounts").write_text(mounts)
    (tmp_path / "own").write_text(own)
    return cgroups.detect("tag", tmp_path / "mounts", tmp_path / "own")


def _group(folder: Path, controllers: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    (folder / "cgroup.subtree_control").touch()
    (folder / "cgroup.controllers").write_text(controllers)
    return folder


def test_the_highest_folder_delegated_with_both_controllers_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    _group(root, "cpuset io")
    user = _group(root / "user", "cpu memory pids")
    _group(root / "user" / "app", "cpu memory pids")
    found = _detect(tmp_path, f"cgroup2 {root} cgroup2 rw 0 0\n", "0::/user/app\n")
    assert (found.mode, found.parents) == ("v2", {"memory": user, "cpu": user})


def test_version_1_is_taken_where_version_2_offers_nothing(tmp_path: Path) -> None:
    _group(tmp_path / "unified")
    memory, cpu = _group(tmp_path / "memory"), _group(tmp_path / "cpu")
    mounts = (
        f"cgroup2 {tmp_path}/unified cgroup2 rw 0 0\n"
        f"cgroup {memory} cgroup rw,memory 0 0\ncgroup {cpu} cgroup rw,cpu,cpuacct 0 0\n"
    )
    found = _detect(tmp_path, mounts, "0::/\n")
    assert (found.mode, found.parents) == ("v1", {"memory": memory, "cpu": cpu})


def test_a_machine_without_control_groups_has_none(tmp_path: Path) -> None:
    assert _detect(tmp_path, "proc /proc proc rw 0 0\n", "").mode == "none"
    assert cgroups.detect("tag", tmp_path / "missing", tmp_path / "missing").mode == "none"


def test_without_control_groups_nothing_is_made(tmp_path: Path) -> None:
    groups = cgroups.Groups(cgroups.Hierarchies(), "tag")
    assert groups.make("i", Resources(1 << 20, 500)) == groups.places("i") == ()


def test_kills_for_memory_are_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert cgroups.out_of_memory_kills([tmp_path, tmp_path / "missing"]) == 2


# Ports.


def test_a_port_of_a_live_instance_or_of_somebody_else_is_not_chosen() -> None:
    low, _ = port_choice.span()
    assert port_choice.choose({low, low + 1}, 0, lambda port: port != low + 2) == low + 3


def test_the_search_goes_round() -> None:
    low, high = port_choice.span()
    assert port_choice.choose(set(), high - low, lambda port: port != high) == low


def test_no_free_port_says_so() -> None:
    with pytest.raises(Transient) as refusal:
        port_choice.choose(set(), 0, lambda port: False)
    assert refusal.value.code == "no-free-port"


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not port_choice.is_free(server.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32768 60999", (20000, 32000)),
        ("25000 60999", (20000, 24999)),
        ("1024 65000", (1024, 2048)),
        ("", (20000, 32000)),
    ],
)
def test_ports_lie_below_those_of_outgoing_connections(text: str, expected: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "range").write_text(text)
    assert port_choice.span(tmp_path / "range") == expected


def test_listeners_of_a_port_are_read_from_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100\n"
        "   1: 0100007F:4E20 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100\n"
        "   2: 00000000:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100\n"
    )
    assert listeners.parse_listeners(table, 20000) == {"111"}
    assert listeners.parse_listeners(table, 20002) == set()


def test_a_port_served_by_this_program_is_not_foreign_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not listeners.is_foreign(port, [os.getpid()])
        assert listeners.is_foreign(port, [])
    assert not listeners.is_foreign(port, [])


# Logs.


@pytest.mark.parametrize("count", [0, 1, 3, 10_000])
def test_the_tail_is_the_last_lines(count: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n} {'x' * 30}\n" for n in range(5000)))
    expected = log.read_text().splitlines()[-count:] if count else []
    assert logs.tail(log, count) == expected


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ok \xff\xfe\r\nlast without end")
    assert logs.tail(tmp_path / "log", 5) == ["ok ��", "last without end"]


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert logs.read(tmp_path / "log", 5) == []


def test_a_log_that_grew_is_cut_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\ntwo\n")
        assert not logs.rotate(log, 100)
        assert logs.rotate(log, 4)
        writer.write(b"three\n")
    assert log.read_bytes() == b"three\n"
    assert logs.read(log, 2) == ["two", "three"]
    assert logs.read(log, 9) == ["one", "two", "three"]


def test_only_the_newest_logs_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        log = tmp_path / "log"
        log.write_text(f"{number}\n")
        logs.keep(log, tmp_path / "kept", f"i{number}", limit=2)
        os.utime(tmp_path / "kept" / f"i{number}.log", (number, number))
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["i2.log", "i3.log"]


# Processes.


@pytest.mark.parametrize(
    ("status", "limit", "text"),
    [
        (0, None, "exit 0"),
        (3 << 8, None, "exit 3"),
        (signal.SIGSEGV, None, "killed by SIGSEGV"),
        (signal.SIGKILL, 256 << 20, "killed by SIGKILL (memory limit 256MiB)"),
        (40, None, "killed by signal 40"),
        (None, None, "exited, code unknown: it was adopted after a restart of the agent"),
        (None, 1 << 30, "exited (memory limit 1GiB)"),
    ],
)
def test_exits(status: int | None, limit: int | None, text: str) -> None:
    assert processes.describe_exit(status, limit) == text


def test_a_process_is_itself_only_with_its_start_time_and_boot() -> None:
    me = processes.identify(os.getpid(), 1)
    assert me is not None
    assert processes.alive(me)
    assert not processes.alive(Identity(me.pid, me.start_ticks + 1, me.boot))
    assert not processes.alive(Identity(me.pid, me.start_ticks, "another boot"))


def test_a_signal_for_a_process_that_is_gone_reaches_nobody_else() -> None:
    processes.kill(Identity(os.getpid(), 1, boot_id()))
    processes.signal_group(Identity(os.getpid(), 1, boot_id()), signal.SIGKILL)


# Records and faults.


def test_a_record_is_written_whole_and_only_for_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "pid.json"
    write_record(path, Identity(1, 2, "b", 3))
    assert read_record(Identity, path) == Identity(1, 2, "b", 3)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_torn_record_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid.json").write_text(text)
    assert read_record(Identity, tmp_path / "pid.json") is None


def test_only_the_first_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    assert write_once(path, Identity(1, 1, "first"))
    assert not write_once(path, Identity(2, 2, "second"))
    assert read_record(Identity, path) == Identity(1, 1, "first")
    assert [p.name for p in tmp_path.iterdir()] == ["exit.json"]


@pytest.mark.parametrize(
    ("number", "family", "code"),
    [
        (errno.ENOSPC, Permanent, "disk-full"),
        (errno.EDQUOT, Permanent, "disk-full"),
        (errno.EROFS, Permanent, "home-not-writable"),
        (errno.EACCES, Permanent, "home-not-writable"),
        (errno.EMFILE, Transient, "local-io"),
    ],
)
def test_what_the_disk_says_becomes_what_to_do(number: int, family: type[Permanent], code: str) -> None:
    with pytest.raises(family) as refusal, disk_errors(Path("/home/x")):
        raise OSError(number, os.strerror(number), "/home/x/y")
    assert (refusal.value.code, refusal.value.where) == (code, "/home/x/y")


# Drift of a process.

REQUEST = LaunchRequest(("serve", "1"), {"A": "one"}, ("TOKEN",), "/app", "/pid", 1, {})
HASH = processes.hash_value
SETTLED = Settled(("/bin/serve", "1", "2"), ("serve", "1"), {"A": HASH("one"), "TOKEN": HASH("hidden")})


def found(command: tuple[str, ...], executable: str = "/bin/serve", **env: str) -> Settled:
    return Settled((executable, "8", "9"), command, {name: HASH(value) for name, value in env.items()})


def test_a_process_that_starts_is_not_judged() -> None:
    assert list(process_drift("i", REQUEST, None, found(("other",)))) == []


def test_a_process_that_wrote_a_title_over_its_arguments_is_no_drift() -> None:
    titled = Settled(SETTLED.image, ("serve: worker",), {})
    assert list(process_drift("i", REQUEST, SETTLED, titled)) == []


def test_a_process_that_executed_itself_again_is_no_drift() -> None:
    assert list(process_drift("i", REQUEST, SETTLED, found(("serve", "1"), A="one", TOKEN="hidden"))) == []


def test_another_command_executable_and_environment_are_named_without_secrets() -> None:
    again = found(("serve", "2"), "/bin/other", A="two", B="new")
    assert list(process_drift("i", REQUEST, SETTLED, again)) == [
        Drift("command", "i", "serve 1", "serve 2"),
        Drift("command", "i: executable", "/bin/serve", "/bin/other"),
        Drift("environment", "i: A", "one", "another value"),
        Drift("environment", "i: B", "", "another value"),
        Drift("environment", "i: TOKEN", "another value", ""),
    ]
