"""The `docker` platform passes the suite that every platform passes: real images, a real engine, real containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers import Containers
from tests.servers import COMMAND, SERVER

from rebake.core.home import Home
from rebake.platforms.docker.platform import DockerPlatform
from rebake.platforms.docker.requests import container_name
from rebake.platforms.model import Instance
from rebake.release.manifest import Health, Release, RunContract
from rebake.testing.conformance.platform import Fleet, PlatformBench, PlatformConformance, get
from rebake.testing.docker_engine import DockerEngine, NoEngine, PodmanEngine


class DockerBench(Containers):
    """The suite's wishes over one home and the session's engine."""

    def sick_release(self) -> Release:
        return self.release("sick", 500)

    def damaged_release(self) -> Release:
        release = self.release("damaged")
        blob = self.releases.store.blob_path(release.layers[-1].digest)
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes().replace(b"damaged", b"DAMAGED"))
        return release

    def get(self, instance: Instance, path: str = "/") -> tuple[int, str]:
        return get(instance, path)

    def crash(self, instance: Instance) -> None:
        self.engine.docker("kill", container_name(self.home.tag, instance.id))


class DockerConformance(PlatformConformance):
    """What every platform does, and what only containers have."""

    def test_a_writable_folder_that_the_image_has_is_writable_to_whom_the_instance_runs_as(
        self, bench: DockerBench, fleet: Fleet
    ) -> None:
        bench.wished["writable"] = ["/var/cache/shop"]
        text = "open('/var/cache/shop/note', 'w').close()\n" + SERVER.format(marker="wrote", status=200)
        files = {"app/server.py": text, "var/cache/shop/seed": "the folder is there, and root's"}
        launched = fleet.launched(bench.releases.add(RunContract(COMMAND, 8000, Health(interval_ms=100)), files))
        assert bench.get(launched) == (200, "wrote")


@pytest.mark.real
class TestDockerPlatform(DockerConformance):
    @pytest.fixture
    def bench(self, docker_engine: DockerEngine, tmp_path: Path) -> Iterator[PlatformBench]:
        bench = DockerBench(tmp_path, docker_engine)
        yield bench
        bench.close()


@pytest.fixture(scope="module")
def podman_engine() -> Iterator[PodmanEngine]:
    try:
        engine = PodmanEngine()
    except NoEngine as absent:
        pytest.skip(str(absent))
    with engine:
        yield engine


@pytest.mark.real
class TestDockerPlatformOnPodman(DockerConformance):
    @pytest.fixture
    def bench(self, podman_engine: PodmanEngine, tmp_path: Path) -> Iterator[PlatformBench]:
        bench = DockerBench(tmp_path, podman_engine)
        yield bench
        bench.close()


def test_the_platform_needs_no_engine_to_be_made(tmp_path: Path) -> None:
    class Nothing:
        def secret(self, version: str) -> str:
            raise AssertionError(version)

    from rebake.release.store import Store

    platform = DockerPlatform(Home(tmp_path), Store(tmp_path / "store"), Nothing())
    assert list(platform.observe("shop", "production")) == []
    platform.close()
