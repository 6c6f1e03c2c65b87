"""Containers that answer no HTTP: their health by a command inside, or by staying up; and that this is no drift."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers import Containers

from rebake.platforms.model import Instance, InstanceSpec
from rebake.release.manifest import Health, Release, RunContract, SecretVersion
from rebake.testing.conformance.platform import eventually
from rebake.testing.docker_engine import DockerEngine

pytestmark = pytest.mark.real

WORKER = "import time\nprint('works', flush=True)\nwhile True:\n    time.sleep(0.05)\n"
ASKED = """
import os, sys
open(os.environ["REBAKE_DATA"] + "/asked", "a").write(" ".join([*sys.argv[1:], os.environ.get("TOKEN", "")]) + "\\n")
verdict = os.environ["REBAKE_DATA"] + "/verdict"
word = open(verdict).read() if os.path.exists(verdict) else "0"
sys.exit(int(word))
"""


class Workers(Containers):
    def worker(self, health: Health) -> Release:
        run = RunContract(("python", "work.py"), health=health, env={"GREETING": "hello"})
        return self.releases.add(run, {"app/work.py": WORKER, "app/asked.py": ASKED})

    def launched(self, health: Health, **secrets: SecretVersion) -> str:
        release = self.worker(health)
        self.platform.prepare(release, lambda _: None)
        spec = InstanceSpec("w-1", "shop", "production", "f", "r", release.digest, release.run, secrets)
        self.platform.launch(spec)
        return spec.id

    def look(self) -> Instance:
        (found,) = self.platform.observe("shop", "production")
        return found

    def until(self, **wanted: object) -> Instance:
        def fits() -> bool:
            found = self.look()
            return all(getattr(found, name) == value for name, value in wanted.items())

        eventually(fits, lambda: f"{wanted} of {self.look()}")
        return self.look()

    def drift(self) -> list[str]:
        (found,) = self.platform.inspect("shop", "production")
        return [one.kind for one in found.drift]

    @property
    def data(self) -> Path:
        return self.home.data / "shop" / "production"

    def say(self, word: str) -> None:
        (self.data / "verdict").write_text(word)
        (self.data / "verdict").chmod(0o644)


@pytest.fixture
def workers(docker_engine: DockerEngine, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path, docker_engine)
    yield made
    made.close()


def by_command(**changes: int) -> Health:
    times = {"interval_ms": 200, "timeout_ms": 10_000, "unhealthy_after": 1, **changes}
    return Health(path="", command=("python", "asked.py", "$GREETING"), **times)


def test_one_without_a_health_check_is_healthy_when_it_stays_up_and_is_published_nowhere(workers: Workers) -> None:
    instance = workers.launched(Health(path="", interval_ms=200))
    assert workers.until(state="running", healthy=True).detail is None
    ports = workers.engine.inspect(workers.container(instance))["HostConfig"]["PortBindings"]
    assert not ports


def test_a_command_inside_says_whether_it_is_well_with_its_environment_and_secrets(workers: Workers) -> None:
    workers.values["v1"] = "s3cret"
    instance = workers.launched(by_command(), TOKEN=SecretVersion("env:TOKEN", "v1"))
    workers.until(state="running", healthy=True)
    assert (workers.data / "asked").read_text().splitlines()[0] == "hello s3cret"
    workers.say("3")
    assert workers.until(healthy=False).detail == "health command: exit 3"
    workers.say("0")
    workers.until(healthy=True)
    assert workers.drift() == [], "asking is no drift"
    workers.engine.docker("exec", workers.container(instance), "/bin/sh", "-c", "true")
    eventually(lambda: workers.drift() == ["session"], lambda: str(workers.drift()))
