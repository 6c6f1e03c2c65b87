"""The main job on platform `docker`: real command line, agent, Envoy, engine and containers, under load."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rebake.core.home import Home
from rebake.platforms.docker.requests import HOME_LABEL, container_name
from rebake.release.manifest import Health, RunContract
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import ImageReleases
from tests.e2e.site import SERVER, Done, Site, until

pytestmark = pytest.mark.real

FILE = """\
service: shop
bake: {{builder: files}}
run:
  command: [python, -u, server.py]
  port: 8000
  health: {{path: /healthz, interval: 200ms, start_timeout: 30s}}
  drain: 2s
environments:
  production:
    platform: docker
    docker: {{socket: {socket}}}
    instances: 2
    listen: 127.0.0.1:{port}
    drift_interval: 1s
{more}
"""
BLUE_GREEN = "    strategy: blue-green\n    soak: 5m\n"
CANARY = "    strategy: {canary: {steps: [20%, 50%], hold: 1s}}\n    soak: 5m\n"


class Dock(Site):
    """A site whose fleets are containers of an engine of our own. Releases are sealed by the test, on a base image."""

    def __init__(self, root: Path, engine: DockerEngine) -> None:
        self.engine = engine
        super().__init__(root)
        self.releases = ImageReleases(Home(self.home).store)

    def describe(self, more: str, **_: str) -> None:
        self.write("rebake.yaml", FILE.format(socket=self.engine.socket, port=self.port, more=more))

    def seal(self, **changes: str) -> str:
        """A release of the site's service with other words in it."""
        text = SERVER
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        run = RunContract(
            ("python", "-u", "server.py"), 8000, Health(interval_ms=200, start_timeout_ms=30_000), drain_ms=2000
        )
        return self.releases.add(run, {"app/server.py": text}).digest

    def ship(self, text: str = "one", **changes: str) -> Done:
        return self.deploy("--release", self.seal(**{'TEXT = "one"': f'TEXT = "{text}"'}, **changes))

    def containers(self) -> list[str]:
        label = f"label={HOME_LABEL}={Home(self.home).tag}"
        return self.engine.docker("ps", "--filter", label, "--format", "{{.Names}}").split()

    def names(self) -> list[str]:
        return [str(i["id"]) for i in self.stable_instances() if i["healthy"]]

    def container(self, instance: str) -> str:
        return container_name(Home(self.home).tag, instance)


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
    until(lambda: dock.get()[1].startswith("one"))


def test_what_somebody_does_to_a_container_is_found_and_the_container_is_replaced(dock: Dock) -> None:
    assert dock.ship().code == 0
    first, second = until(lambda: len(found := dock.names()) == 2 and found)
    with dock.load(rate=40.0) as load:
        dock.engine.docker("exec", dock.container(first), "/bin/sh", "-c", "echo x > /tmp/x")
        until(lambda: first not in dock.names() and len(dock.names()) == 2)
        report = load.stop()
    assert report.lost == 0, report.reasons
    dock.engine.docker("rm", "-f", dock.container(second))
    until(lambda: second not in dock.names() and len(dock.names()) == 2)
    drift = [e for e in dock.rebake("ledger", "show", "--json").doc["entries"] if e["kind"] == "drift"]
    assert "session" in str(drift)


def test_an_agent_killed_in_the_middle_is_followed_by_one_that_finishes_with_the_same_containers(dock: Dock) -> None:
    assert dock.ship().code == 0
    before = set(dock.names())
    waiting = dock.popen("deploy", "production", "--json", "--release", dock.seal(**{'TEXT = "one"': 'TEXT = "two"'}))
    until(lambda: len(dock.containers()) > 2)
    os.kill(dock.agent, signal.SIGKILL)
    assert dock.get()[0] == 200
    waiting.communicate(timeout=120)
    until(lambda: dock.get()[1].startswith("two"), 60)
    until(lambda: len(dock.names()) == 2 and not before & set(dock.names()))
    assert len(dock.containers()) == 4  # stable is warm, nothing else is there


def test_containers_that_ended_with_the_engine_are_replaced_when_it_is_back(dock: Dock) -> None:
    assert dock.ship().code == 0
    before = set(until(lambda: len(found := dock.names()) == 2 and found))
    dock.engine.stop()
    until(lambda: "cannot be observed" in dock.rebake("status", "production").out)
    dock.engine.start()
    until(lambda: dock.get()[0] == 200, 60)
    until(lambda: len(dock.names()) == 2 and not before & set(dock.names()))
