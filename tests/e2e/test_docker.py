"""The main job on platform `docker`: real command line, agent, Envoy, engine and containers, under load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebake.release.manifest import Health, RunContract
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import base_layer
from tests.e2e.dock import BLUE_GREEN, CANARY, Dock
from tests.e2e.site import Done, until

pytestmark = pytest.mark.real

LONG = 90.0
"""Seconds: an engine on a machine that is busy takes a while for each container."""


@pytest.fixture
def dock(tmp_path: Path, docker_engine: DockerEngine) -> Iterator[Dock]:
    """A service nobody deployed yet. At the end neither a process nor a container of it may be left."""
    if not docker_engine.answers():
        docker_engine.start()
    built = Dock(tmp_path, docker_engine)
    yield built
    left: list[Any] = [*built.clear(), *built.containers()]
    assert not left, f"left running: {left}"


def test_a_good_release_is_promoted_under_load_a_bad_one_taken_back_and_an_undo_restores(dock: Dock) -> None:
    assert dock.ship("one").doc["outcome"] == "promoted"
    dock.describe(CANARY)
    with dock.load(rate=60.0) as load:
        good = dock.ship("two")
        bad = dock.ship("bad", **{"FAIL_EVERY = 0": "FAIL_EVERY = 2"})
        report = load.stop()
    assert good.doc["outcome"] == "promoted", good.err
    assert (bad.code, bad.doc["outcome"]) == (3, "rolled-back"), bad.err
    assert report.lost == 0, report.reasons
    undone = dock.rebake("undo", "production", "--json")
    assert undone.code == 0, undone.err
    until(lambda: dock.get()[1].startswith("one"), LONG)


def test_what_somebody_does_to_a_container_is_found_and_the_container_is_replaced(dock: Dock) -> None:
    dock.serve()
    first, second = until(lambda: len(found := dock.names()) == 2 and found, LONG)
    with dock.load(rate=40.0) as load:
        dock.engine.docker("exec", dock.container(first), "/bin/sh", "-c", "echo x > /tmp/x")
        until(lambda: first not in dock.names() and len(dock.names()) == 2, LONG)
        report = load.stop()
    assert report.lost == 0, report.reasons
    dock.engine.docker("rm", "-f", dock.container(second))
    until(lambda: second not in dock.names() and len(dock.names()) == 2, LONG)
    drift = [e for e in dock.rebake("ledger", "show", "--json").doc["entries"] if e["kind"] == "drift"]
    assert "session" in str(drift)


def test_containers_that_ended_with_the_engine_are_replaced_when_it_is_back(dock: Dock) -> None:
    dock.serve()
    before = set(until(lambda: len(found := dock.names()) == 2 and found, LONG))
    dock.engine.stop()
    until(lambda: "cannot be observed" in dock.rebake("status", "production").out, LONG)
    dock.engine.start()
    until(lambda: dock.get()[0] == 200, LONG)
    until(lambda: len(dock.names()) == 2 and not before & set(dock.names()), LONG)


def test_a_dockerfile_that_nobody_here_wrote_becomes_a_service_and_its_change_a_release(dock: Dock) -> None:
    """Its image runs as root, listens on a port of its own and says itself what to run."""
    dock.engine.import_image("tests/python:1", base_layer())
    dock.environ |= {"DOCKER_HOST": dock.engine.host, "PATH": dock.engine.environ["PATH"]}
    recipe = (
        'FROM tests/python:1\nWORKDIR /srv\nCOPY . .\nENV GREETING=there\nEXPOSE 8000\nCMD ["python", "server.py"]\n'
    )
    dock.write("Dockerfile", recipe)
    dock.describe(
        BLUE_GREEN,
        **{"{builder: files}": "{builder: dockerfile}", "  command: [python, -u, server.py]\n  port: 8000\n": ""},
    )
    done = dock.deploy()
    assert done.code == 0, done.err
    until(lambda: dock.get()[1] == "one there", LONG)
    dock.edit('TEXT = "one"', 'TEXT = "two"')
    assert dock.deploy().doc["outcome"] == "promoted"
    until(lambda: dock.get()[1] == "two there", LONG)


JOB = {
    "command: [python, -u, server.py]\n  port: 8000\n  health: {path: /healthz, interval: 200ms, start_timeout: 30s}": (
        "kind: job\n  command: [python, -u, job.py]"
    ),
    "    instances: 2\n": "    schedule: {every: 2s, timeout: 1m}\n",
}


def test_a_scheduled_job_runs_in_containers_that_go_with_their_runs(dock: Dock) -> None:
    def ship(code: int) -> Done:
        run = RunContract(("python", "-u", "job.py"), health=Health(path=""), drain_ms=2000)
        digest = dock.releases.add(run, {"app/job.py": f"raise SystemExit({code})\n"}).digest
        return dock.deploy("--release", digest)

    def outcomes() -> list[str]:
        return [run["outcome"] for run in dock.status()["runs"] if run["ended"]]

    listen = f"    listen: 127.0.0.1:{dock.port}\n"
    dock.describe("    strategy: {canary: {steps: [90%], hold: 10m}}\n", **JOB, **{listen: ""})
    first = ship(0)
    assert first.code == 0, first.err
    until(lambda: outcomes().count("done") >= 2, LONG)
    bad = ship(3)
    assert bad.code == 3, bad.err
    assert "exit 3" in bad.doc["reason"]
    until(lambda: outcomes()[-1:] == ["done"], LONG)
    assert dock.rebake("down", "production", "--yes").code == 0
    until(lambda: not dock.containers(), LONG)


def test_the_agent_killed_in_the_middle_of_a_deploy_loses_no_request_and_leaves_no_container(dock: Dock) -> None:
    dock.describe(CANARY)
    dock.serve()
    with dock.load(rate=60.0) as load:
        digest = dock.seal(**{'TEXT = "one"': 'TEXT = "two"'})
        assert dock.deploy("--release", digest, "--detach").code == 0
        until(
            lambda: dock.containers() and len(dock.containers()) > 2, LONG
        )  # a candidate's container is being started
        dock.kill_agent()
        joined = dock.deploy("--release", digest)
        report = load.stop()
    assert joined.doc["outcome"] == "promoted", joined.err
    assert report.lost == report.errors == 0, report.reasons
    assert len(dock.containers()) == 4, "two of each fleet, and none beside them"
    assert dock.rebake("ledger", "verify").code == 0
