"""Instances as real processes: sealed in, limited, watched, drifting, adopted, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from rebake.core.codec import dump
from rebake.errors import Permanent
from rebake.platforms import port_choice
from rebake.platforms.local import cgroups, folders, landlock, processes
from rebake.platforms.local.cgroups import Hierarchies
from rebake.platforms.local.records import Identity, Intent
from rebake.platforms.model import Instance
from rebake.platforms.records import Ended, read_record, write_record
from rebake.release.manifest import Resources, RunContract
from rebake.testing.conformance.platform import eventually, get
from rebake.testing.releases import tar_of
from rebake.testing.simulated import ManualClock

from .conftest import SERVER, World

pytestmark = pytest.mark.real

GROUPED = cgroups.detect("tests").mode != "none"
needs_groups = pytest.mark.skipif(not GROUPED, reason="no control groups can be made here")
needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel offers no Landlock")


def ask(instance: Instance, path: str) -> str:
    return get(instance, path)[1]


def exists(pid: int) -> bool:
    found = processes.stat(pid)
    return found is not None and found.state not in "ZX"


# What an instance is told, and where it may write.


def test_the_environment_is_clean(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_OWN", "private")
    instance = world.launched(world.release(GREETING="hello"))
    env = json.loads(ask(instance, "/env"))
    env.pop("LC_CTYPE", None)  # CPython sets it for itself where the locale is C
    assert set(env) == {
        *("PATH", "HOME", "TMPDIR", "LANG", "PORT", "HOST", "GREETING", "VIRTUAL_ENV"),
        *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
        *("REBAKE_INSTANCE", "REBAKE_SERVICE", "REBAKE_ENVIRONMENT", "REBAKE_REVISION", "REBAKE_DATA"),
    }
    assert env["HOME"] == env["TMPDIR"] == str(world.folder(instance).scratch)


def test_it_runs_in_the_root_of_the_baked_files(world: World) -> None:
    cwd, prefix, path = json.loads(ask(world.launched(world.release({"app/src/lib.py": "1"})), "/where"))
    assert cwd.endswith("/app")
    assert prefix.endswith("/venv")
    assert [cwd, f"{cwd}/src"] == path[1:3]


def test_a_secret_reaches_the_process_and_no_file(world: World) -> None:
    instance = world.healthy(world.spec(world.release(), TOKEN="v1"))
    assert json.loads(ask(instance, "/env"))["TOKEN"] == "value-of-v1"
    world.platform.inspect("shop", "production")
    texts = [p.read_bytes() for p in world.home.root.rglob("*") if p.is_file()]
    assert not any(b"value-of-v1" in text for text in texts)
    assert "value-of-v1" not in " ".join(processes.command_line(instance.pid or 0))


@needs_landlock
def test_it_writes_to_its_own_places_and_nowhere_else(world: World, tmp_path: Path) -> None:
    instance = world.launched(world.release())
    folder = world.folder(instance)
    inside = [folder.scratch / "x", world.layout.data("shop", "production") / "x", folder.log, Path("/dev/null")]
    app = Path(json.loads(ask(instance, "/where"))[0])
    outside = [tmp_path / "x", app / "x", app / "server.py", folder.root / "x", folder.spec, Path("/var/tmp/rebake-x")]
    assert [ask(instance, f"/write?path={quote(str(p))}") for p in inside] == ["written"] * 4
    answers = [ask(instance, f"/write?path={quote(str(p))}") for p in outside]
    assert [a.partition(" ")[0] for a in answers] == ["refused"] * 6
    assert world.inspected(instance.id).drift == ()


@needs_landlock
def test_the_settings_may_open_further_folders(world: World, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    platform = world.open(lambda service, environment: [tmp_path / "uploads"])
    instance = world.healthy(world.spec(world.release()), platform)
    assert ask(instance, f"/write?path={tmp_path}/uploads/x") == "written"


def test_data_outlives_the_instance_and_is_shared_by_its_successors(world: World) -> None:
    first = world.launched(world.release())
    data = json.loads(ask(first, "/env"))["REBAKE_DATA"]
    ask(first, f"/write?path={data}/notes")
    world.fleet.gone(first.id)
    second = world.launched(world.release(CHANGED="yes"))
    ask(second, f"/write?path={data}/notes")
    assert Path(data, "notes").read_text() == "xx"
    world.fleet.gone(second.id)
    world.platform.forget_data("shop", "production")
    world.platform.forget_data("shop", "production")
    assert not world.layout.data_root.joinpath("shop").exists()


def test_a_command_that_is_not_there_is_refused_before_anything_starts(world: World) -> None:
    release = world.store.add(RunContract(("no-such-command",)), tar_of({"app/x": "1"}))
    spec = world.spec(release)
    with pytest.raises(Permanent) as refusal:
        world.platform.launch(spec)
    assert refusal.value.code == "command-not-found"
    assert not world.folder(spec).root.exists()


def test_a_file_that_cannot_be_executed_says_so_in_its_log(world: World) -> None:
    release = world.store.add(RunContract(("./run",)), tar_of({"app/run": "#!/no/such/interpreter\n"}))
    spec = world.spec(release)
    world.platform.launch(spec)
    assert world.fleet.until(spec.id, lambda i: i.state == "exited").exit == "exit 127"
    assert world.platform.logs(spec.id, 1) == ["rebake: cannot execute ./run: No such file or directory"]


# Ports.


def test_a_start_that_finds_its_port_taken_is_followed_by_one_with_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(port_choice, "choose", lambda *_: taken.getsockname()[1])
        loser = world.spec(world.release())
        world.platform.launch(loser)
        world.fleet.until(loser.id, lambda i: i.state == "exited")
    monkeypatch.undo()
    assert "Address already in use" in world.platform.logs(loser.id, 1)[0]
    winner = world.launched(world.release())
    assert winner.address != world.fleet.one(loser.id).address  # type: ignore[union-attr]


_WAITS = "import signal; signal.pause()"


@pytest.mark.parametrize("grouped", [pytest.param(True, marks=needs_groups), False])
def test_the_answer_of_another_program_on_its_port_is_not_its_health(
    grouped: bool, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.launched(world.release())
    monkeypatch.setattr(port_choice, "choose", lambda *_: int((other.address or "").rpartition(":")[2]))
    platform = world.platform if grouped else world.open(hierarchies=Hierarchies())
    spec = world.spec(world.release(app=_WAITS))
    platform.launch(spec)
    said = f"port {(other.address or '').rpartition(':')[2]} is answered by another program"
    seen = world.fleet.until(spec.id, lambda i: i.detail == said, platform)
    assert (seen.state, seen.healthy, seen.was_healthy) == ("starting", False, False)


# Limits.


@needs_groups
def test_limits_are_set_read_back_and_missed_when_lifted(world: World) -> None:
    instance = world.healthy(world.spec(world.release(), resources=Resources(256 << 20, 500)))
    assert world.inspected(instance.id).drift == ()
    groups = world.platform._groups.places(instance.id)
    for file in ("memory.limit_in_bytes", "memory.max"):
        for group in groups:
            if (group / file).exists():
                (group / file).write_text(str(512 << 20))
    (drift,) = world.inspected(instance.id).drift
    assert (drift.kind, drift.expected, drift.found) == ("limits", str(256 << 20), str(512 << 20))


@needs_groups
def test_a_process_taken_out_of_its_group_is_drift(world: World) -> None:
    instance = world.launched(world.release())
    for parent in world.platform._groups.hierarchies.folders():
        (parent / "cgroup.procs").write_text(str(instance.pid))
    assert {d.kind for d in world.inspected(instance.id).drift} == {"limits"}


@needs_groups
def test_an_instance_that_eats_too_much_is_ended_and_the_limit_is_named(world: World) -> None:
    instance = world.healthy(world.spec(world.release(), resources=Resources(memory_bytes=48 << 20)))
    with suppress(OSError):
        ask(instance, "/eat")
    exited = world.fleet.until(instance.id, lambda i: i.state == "exited")
    assert exited.exit == "killed by SIGKILL (memory limit 48MiB)"


def test_without_control_groups_memory_is_limited_by_the_kernel_all_the_same(world: World) -> None:
    platform = world.open(hierarchies=Hierarchies())
    instance = world.healthy(world.spec(world.release(), resources=Resources(memory_bytes=200 << 20)), platform)
    with suppress(OSError):
        ask(instance, "/eat")
    assert any("MemoryError" in line for line in platform.logs(instance.id, 20))


@needs_groups
def test_nothing_is_left_of_the_control_groups(world: World) -> None:
    instance = world.launched(world.release())
    groups = world.platform._groups.places(instance.id)
    assert all(group.exists() for group in groups)
    world.fleet.gone(instance.id)
    assert not any(group.parent.exists() for group in groups)


# Retiring.


def test_one_that_ignores_the_request_is_ended_after_its_grace(world: World) -> None:
    instance = world.launched(world.release(STUBBORN="yes"))
    world.platform.retire(instance.id, 300_000)
    stopping = world.fleet.one(instance.id)
    assert stopping is not None
    assert (stopping.state, stopping.pid) == ("stopping", instance.pid)
    world.fleet.gone(instance.id, grace_ms=50)
    assert not exists(instance.pid or 0)


@pytest.mark.parametrize("by", [3600.0, -3600.0], ids=["forward", "back"])
def test_a_clock_that_is_set_while_no_agent_lives_changes_no_time_of_an_instance(world: World, by: float) -> None:
    clock = ManualClock()
    first = world.open(clock=clock)
    instance = world.healthy(world.spec(world.release(STUBBORN="1")), first)
    first.retire(instance.id, 5000)
    first.close()
    clock.set(by)
    second = world.open(clock=clock)
    second.retire(instance.id, 5000)
    stopping = second._folders.stopping(world.folder(instance))
    assert stopping is not None
    assert stopping.deadline == pytest.approx(clock.now() + 5.0, abs=0.01)
    seen = world.fleet.one(instance.id, second)
    assert seen is not None
    assert seen.started_at == pytest.approx(clock.now(), abs=0.01)
    clock.advance(6.0)
    world.fleet.gone(instance.id, 5000, second)


def test_its_children_end_with_it_also_those_that_left_its_session(world: World) -> None:
    if not GROUPED:
        pytest.skip("no control groups can be made here")
    instance = world.launched(world.release())
    child = int(ask(instance, "/fork"))
    world.pids.append(child)
    world.fleet.gone(instance.id)
    eventually(lambda: not exists(child), lambda: "the child still runs")


def test_a_retired_folder_leaves_its_log_and_nothing_else(world: World) -> None:
    instance = world.launched(world.release())
    ask(instance, "/say?text=last+words")
    world.fleet.gone(instance.id)
    assert [p.name for p in world.home.instances.iterdir()] == [".logs"]
    assert world.platform.logs(instance.id, 1) == ["last words"]


# The end of a process.


def test_the_engine_is_woken_when_an_instance_ends(world: World) -> None:
    woken = threading.Event()
    instance = world.launched(world.release())
    world.platform.on_change = lambda service, environment: woken.set()
    os.kill(instance.pid or 0, signal.SIGKILL)
    assert woken.wait(10)
    exited = world.fleet.until(instance.id, lambda i: i.state == "exited")
    assert exited.exit == "killed by SIGKILL"


def test_an_instance_that_falls_sick_says_why_and_keeps_running(world: World) -> None:
    instance = world.launched(world.release())
    ask(instance, "/sick")
    sick = world.fleet.until(instance.id, lambda i: i.healthy is False)
    assert (sick.state, sick.was_healthy, sick.detail) == ("running", True, "GET /healthz answered 503")


# Adoption.

_AGENT = """
import os, sys
from pathlib import Path
from rebake.core.codec import load
from rebake.core.home import Home
from rebake.platforms.local.platform import LocalPlatform
from rebake.platforms.model import InstanceSpec
from rebake.release.manifest import Release
import json

class Store:
    def release(self, digest):
        return load(Release, json.loads(sys.argv[3]))
    def blob_path(self, digest):
        return Path(sys.argv[2]) / digest.removeprefix("sha256:")

platform = LocalPlatform(Home(Path(sys.argv[1])), Store(), None)
platform.launch(load(InstanceSpec, json.loads(sys.argv[4])))
print("launched", flush=True)
sys.stdin.read()
"""


def agent(world: World, release: object, spec: object) -> subprocess.Popen[str]:
    """Another program that launches, as the agent does, and then waits."""
    arguments = [str(world.home.root), str(world.store._root), json.dumps(dump(release)), json.dumps(dump(spec))]
    return subprocess.Popen(
        [sys.executable, "-c", _AGENT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_instances_outlive_a_killed_agent_and_their_exit_is_still_seen(world: World) -> None:
    release = world.release()
    spec = world.spec(release)
    with agent(world, release, spec) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "launched\n"
        os.killpg(program.pid, signal.SIGKILL)
    adopted = world.fleet.until(spec.id, lambda i: i.healthy is True)
    assert ask(adopted, "/") == "ok"
    os.kill(adopted.pid or 0, signal.SIGTERM)
    exited = world.fleet.until(spec.id, lambda i: i.state == "exited")
    assert exited.exit in (
        "killed by SIGTERM",
        "exited, code unknown: it was adopted after a restart of the agent",  # before Linux 6.15
    )


def test_an_agent_killed_after_its_intent_leaves_a_start_that_can_be_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        raise KeyboardInterrupt

    spec = world.spec(world.release())
    with monkeypatch.context() as patched:
        patched.setattr(processes, "spawn", killed)
        with pytest.raises(KeyboardInterrupt):
            world.platform.launch(spec)
    seen = world.fleet.one(spec.id)
    assert seen is not None
    assert seen.state == "starting"
    assert world.healthy(spec, world.open()).pid


def test_an_intent_that_nobody_finishes_is_an_exit_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.spec(world.release())
    with monkeypatch.context() as patched:
        patched.setattr(processes, "spawn", lambda *_: 1 << 30)
        world.platform.launch(spec)
    exited = world.fleet.until(spec.id, lambda i: i.state == "exited")
    assert exited.exit == "never started: the agent ended while it was launching it"
    world.fleet.gone(spec.id)


def test_two_stubs_of_one_instance_become_one_process(world: World) -> None:
    instance = world.launched(world.release())
    folder = world.folder(instance)
    intent = read_record(Intent, folder.spec)
    assert intent is not None
    second = processes.spawn(folder.spec, folder.log, dict(intent.launch.env))
    _, status = os.waitpid(second, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    identity = read_record(Identity, folder.pid)
    assert identity is not None
    assert identity.pid == instance.pid


@pytest.mark.parametrize("forgery", [{"boot": "another boot"}, {"start_ticks": 1}])
def test_a_number_that_belongs_to_another_process_now_is_not_touched(
    forgery: dict[str, str | int], world: World
) -> None:
    instance = world.launched(world.release())
    folder = world.folder(instance)
    victim = read_record(Identity, folder.pid)
    assert victim is not None
    intent = read_record(Intent, folder.spec)
    assert intent is not None
    write_record(folder.spec, replace(intent, groups=()))
    write_record(folder.pid, replace(victim, **forgery))  # type: ignore[arg-type]
    other = world.open()
    world.pids.append(victim.pid)
    exited = world.fleet.until(instance.id, lambda i: i.state == "exited", other)
    if "boot" in forgery:
        assert exited.exit == "ended with the machine, which was started again"
    assert exists(victim.pid)


def test_closing_touches_no_instance(world: World) -> None:
    instance = world.launched(world.release())
    world.platform.close()
    world.platform.close()
    assert ask(instance, "/") == "ok"
    with pytest.raises(Permanent, match="closed"):
        world.platform.observe("shop", "production")


# Drift.


def app_of(instance: Instance) -> Path:
    return Path(json.loads(ask(instance, "/where"))[0])


def edit(path: Path) -> None:
    path.chmod(0o644)
    path.write_text(path.read_text() + "\n# patched in place\n")
    path.chmod(0o444)


def add(path: Path) -> None:
    path.parent.chmod(0o755)
    path.write_text("added = True")
    path.parent.chmod(0o555)


@pytest.mark.parametrize(("tamper", "name", "kind"), [(edit, "server.py", "file-changed"), (add, "x.py", "file-added")])
def test_a_file_changed_in_a_running_release_is_drift_of_all_who_run_from_it(
    tamper: Callable[[Path], None], name: str, kind: str, world: World
) -> None:
    release = world.release()
    first, second = world.launched(release), world.launched(release)
    path = app_of(first) / name
    tamper(path)
    drifted = [world.inspected(i.id) for i in (first, second)]
    assert [[(d.kind, d.where) for d in i.drift] for i in drifted] == [[(kind, str(path))]] * 2
    third = world.launched(release)
    assert app_of(third) != path.parent
    assert world.inspected(third.id).drift == ()
    assert [bool(i.drift) for i in world.fleet.all()] == [True, True, False]
    for old in (first, second):
        world.fleet.gone(old.id)
    assert not path.parent.exists()
    assert ask(third, "/") == "ok"


def test_a_process_that_became_another_is_drift(world: World) -> None:
    instance = world.launched(world.release(GREETING="hello"))
    with suppress(OSError):
        ask(instance, "/become")
    eventually(lambda: "another" in processes.command_line(instance.pid or 0), lambda: "not yet")
    found = {(d.kind, d.where): (d.expected, d.found) for d in world.inspected(instance.id).drift}
    assert found["command", instance.id][0] == "python server.py one"
    assert "server.py one an" in found["command", instance.id][1]
    assert found["environment", f"{instance.id}: GREETING"] == ("hello", "another value")


def test_a_process_that_renames_itself_is_no_drift(world: World) -> None:
    instance = world.launched(world.release())
    assert ask(instance, "/retitle").startswith("xxxxxx")
    assert world.inspected(instance.id).drift == ()


def test_a_released_command_that_execs_into_another_is_no_drift(world: World) -> None:
    files = tar_of({"app/start": "#!/bin/sh\nexec python server.py one\n", "app/server.py": SERVER})
    release = world.store.add(replace(world.release().run, command=("./start",)), files)
    assert world.inspected(world.launched(release).id).drift == ()


def stranger(world: World, instance: Instance) -> int:
    """What a person does who starts one more by hand, with the environment of a real one."""
    intent = read_record(Intent, world.folder(instance).spec)
    assert intent is not None
    env = {**intent.launch.env, "REBAKE_INSTANCE": "by-hand"}
    child = subprocess.Popen(["/bin/sleep", "1000"], env=env, start_new_session=True)
    world.pids.append(child.pid)
    # the kernel shows it a moment after the program began
    eventually(lambda: processes.environ(child.pid), lambda: "no environment")
    return child.pid


def test_an_instance_nobody_asked_for_is_found_and_ended(world: World) -> None:
    instance = world.launched(world.release())
    pid = stranger(world, instance)
    found = {i.id: i for i in world.platform.inspect("shop", "production")}
    assert set(found) == {instance.id, f"stranger-{pid}"}
    (drift,) = found[f"stranger-{pid}"].drift
    assert (drift.kind, drift.found) == ("stranger", "/bin/sleep 1000")
    assert list(world.platform.inspect("shop", "staging")) == []
    world.fleet.gone(f"stranger-{pid}")
    assert not exists(pid)
    world.platform.retire(f"stranger-{pid}", 0)


def test_a_stranger_is_ended_by_an_agent_that_never_saw_it(world: World) -> None:
    pid = stranger(world, world.launched(world.release()))
    world.open().retire(f"stranger-{pid}", 0)
    os.waitpid(pid, 0)
    assert not exists(pid)


def test_children_of_an_instance_are_no_strangers(world: World) -> None:
    instance = world.launched(world.release())
    world.pids.append(int(ask(instance, "/fork")))
    assert [i.id for i in world.platform.inspect("shop", "production")] == [instance.id]


# The machine.


def test_a_full_disk_is_said_and_leaves_no_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.spec(world.release())
    world.platform.prepare(world.store.release(spec.release), lambda _: None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rebake.platforms.local.folders.write_record", full)
        with pytest.raises(Permanent) as refusal:
            world.platform.launch(spec)
    assert refusal.value.code == "disk-full"
    assert not world.folder(spec).root.exists()
    assert world.healthy(spec).pid


def test_the_doctor_says_what_this_machine_offers(world: World) -> None:
    found = {f.name: f for f in world.platform.doctor()}
    assert set(found) == {"landlock", "limits", "ports", "python", "node", "home", "disk"}
    assert found["landlock"].ok == bool(landlock.abi())
    assert found["python"].ok
    assert all(f.ok or f.remedy for f in found.values())


def test_the_doctor_warns_where_limits_cannot_be_held(world: World) -> None:
    found = {f.name: f for f in world.open(hierarchies=Hierarchies()).doctor()}
    assert not found["limits"].ok
    assert "processor time is not limited" in found["limits"].detail


def test_leftovers_of_a_killed_removal_go_when_the_next_agent_starts(world: World) -> None:
    (world.home.instances / ".gone-x" / "scratch").mkdir(parents=True)
    world.platform.observe("shop", "production")
    assert not (world.home.instances / ".gone-x").exists()


def test_an_agent_killed_while_it_makes_the_folder_of_an_instance_leaves_nothing_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would ever clear a folder without an intent: no look shows it."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    spec = world.spec(world.release())
    with monkeypatch.context() as patched:
        patched.setattr(folders, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            world.platform.launch(spec)
    assert not world.platform._layout.instance(spec.id).root.exists()
    again = world.open()
    again.observe("shop", "production")
    assert not list(world.home.instances.glob("*new*"))
    again.launch(spec)
    assert world.healthy(spec, again).pid


def test_an_exit_is_written_down_once(world: World) -> None:
    instance = world.launched(world.release())
    world.open().observe("shop", "production")  # a second watch over the same process
    os.kill(instance.pid or 0, signal.SIGKILL)
    exited = world.fleet.until(instance.id, lambda i: i.state == "exited")
    record = read_record(Ended, world.folder(instance).exit)
    assert record is not None
    assert exited.exit == record.text == "killed by SIGKILL"
