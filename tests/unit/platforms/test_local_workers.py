"""Instances that answer no HTTP: their health by a command in their place, or by staying up."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rebake.platforms.model import InstanceSpec
from rebake.release.manifest import Health, RunContract
from rebake.testing.conformance.platform import eventually
from rebake.testing.releases import tar_of
from tests.unit.platforms.conftest import World

pytestmark = pytest.mark.real

WORKER = """
import os, signal, sys, time
def finish(*_):
    print("finished", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("works", flush=True)
while True:
    time.sleep(0.05)
"""
ASKED = """
import json, os, sys, time
open(os.environ["REBAKE_DATA"] + "/asked", "w").write(json.dumps([dict(os.environ), os.getcwd(), os.getpid()]))
verdict = os.environ["TMPDIR"] + "/verdict"
word = open(verdict).read() if os.path.exists(verdict) else "0"
if word == "hang":
    time.sleep(60)
print("asked", file=sys.stderr)
sys.exit(int(word))
"""


def spec_of(world: World, health: Health, **secrets: Any) -> InstanceSpec:
    run = RunContract(("python", "work.py"), health=health, drain_ms=3000, env={"GREETING": "hello"})
    release = world.store.add(run, tar_of({"app/work.py": WORKER, "app/asked.py": ASKED}))
    return world.spec(release, **secrets)


def by_command(**changes: int) -> Health:
    times = {"interval_ms": 100, "timeout_ms": 5000, "unhealthy_after": 1, **changes}
    return Health(path="", command=("python", "asked.py", "$GREETING"), **times)


def test_one_without_a_health_check_is_healthy_when_it_stays_up(world: World) -> None:
    instance = world.healthy(spec_of(world, Health(path="", interval_ms=200)))
    assert instance.state == "running"
    assert instance.detail is None


def test_one_that_ends_before_it_stayed_up_was_never_healthy(world: World) -> None:
    spec = spec_of(world, Health(path="", interval_ms=60_000))
    world.platform.launch(replace(spec, run=replace(spec.run, command=("python", "-c", "raise SystemExit(7)"))))
    found = world.fleet.until(spec.id, lambda i: i.state == "exited", world.platform)
    assert (found.exit, found.was_healthy) == ("exit 7", False)


def test_a_health_command_runs_in_the_place_of_its_instance(world: World) -> None:
    spec = spec_of(world, by_command(), TOKEN="v1")
    instance = world.healthy(spec)
    env, where, pid = json.loads((world.layout.data("shop", "production") / "asked").read_text())
    assert env["REBAKE_INSTANCE"] == instance.id
    assert (env["GREETING"], env["TOKEN"]) == ("hello", "value-of-v1")
    assert where == str(Path(f"/proc/{instance.pid}/cwd").readlink())
    assert pid != instance.pid
    assert "asked" in world.platform.logs(instance.id, 50), "what it complains of stands in the log"


def test_a_health_command_that_fails_names_its_exit_code_and_recovery_is_seen(world: World) -> None:
    spec = spec_of(world, by_command())
    world.healthy(spec)
    verdict = world.folder(spec).scratch / "verdict"
    verdict.write_text("3")
    found = world.fleet.until(spec.id, lambda i: i.healthy is False, world.platform)
    assert found.detail == "health command: exit 3"
    assert found.state == "running"
    verdict.write_text("0")
    world.fleet.until(spec.id, lambda i: i.healthy is True, world.platform)


def test_a_health_command_that_hangs_is_ended_and_counts_as_failed(world: World) -> None:
    spec = spec_of(world, by_command(timeout_ms=700))
    world.healthy(spec)
    (world.folder(spec).scratch / "verdict").write_text("hang")
    found = world.fleet.until(spec.id, lambda i: i.healthy is False, world.platform)
    assert found.detail == "health command: not done within 0.7s"


def test_a_health_command_that_cannot_be_run_says_so(world: World) -> None:
    spec = spec_of(world, replace(by_command(), command=("no-such-program",)))
    world.platform.launch(spec)
    found = world.fleet.until(spec.id, lambda i: "127" in (i.detail or ""), world.platform)
    assert found.healthy is False
    assert any("cannot execute no-such-program" in line for line in world.platform.logs(spec.id, 50))


def test_a_health_command_under_way_is_no_stranger(world: World) -> None:
    spec = spec_of(world, by_command(timeout_ms=20_000))
    world.healthy(spec)
    (world.folder(spec).scratch / "verdict").write_text("hang")
    asked = world.layout.data("shop", "production") / "asked"
    before = asked.stat().st_mtime_ns
    eventually(lambda: asked.stat().st_mtime_ns > before, lambda: "it is not asked again")
    world.platform._strangers.look()
    assert [i.id for i in world.platform.observe("shop", "production")] == [spec.id]


def test_an_adopted_worker_is_healthy_at_once(world: World) -> None:
    spec = spec_of(world, Health(path="", interval_ms=200))
    instance = world.healthy(spec)
    world.platform.close()
    second = world.open()
    found = world.fleet.until(spec.id, lambda i: i.healthy is True, second)
    assert (found.pid, found.was_healthy) == (instance.pid, True)


def test_a_retired_worker_is_told_to_finish_and_its_command_goes_with_it(world: World) -> None:
    spec = spec_of(world, by_command(timeout_ms=20_000))
    instance = world.healthy(spec)
    (world.folder(spec).scratch / "verdict").write_text("hang")
    asked = world.layout.data("shop", "production") / "asked"
    before = asked.stat().st_mtime_ns
    eventually(lambda: asked.stat().st_mtime_ns > before, lambda: "it is not asked again")
    pid = json.loads(asked.read_text())[2]

    def gone() -> bool:
        world.platform.retire(spec.id, 5000)
        return not world.platform.observe("shop", "production")

    eventually(gone, lambda: "it is still there")
    assert "finished" in world.platform.logs(instance.id, 50)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), lambda: "the health command is still there")


def test_a_worker_killed_by_a_signal_says_which(world: World) -> None:
    instance = world.healthy(spec_of(world, Health(path="", interval_ms=100)))
    assert instance.pid is not None
    os.kill(instance.pid, signal.SIGSEGV)
    found = world.fleet.until(instance.id, lambda i: i.state == "exited", world.platform)
    assert found.exit == "killed by SIGSEGV"
