"""A home, a store and `docker` platforms over an engine of our own, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rebake.core.home import Home
from rebake.platforms.docker.platform import DockerPlatform
from rebake.platforms.docker.requests import HOME_LABEL, container_name
from rebake.release.manifest import Health, Release, RunContract
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import ImageReleases
from tests.servers import COMMAND, SERVER


class Containers:
    """Makes releases and platforms over one home.

    Attributes:
        values: secrets by version.
        wished: `docker: {…}` of every environment.
    """

    def __init__(self, root: Path, engine: DockerEngine) -> None:
        self.engine, self.home = engine, Home(root / "home")
        self.releases = ImageReleases(self.home.store)
        self.values: dict[str, str] = {}
        self.wished: dict[str, Any] = {"socket": str(engine.socket)}
        self._platforms: list[DockerPlatform] = []

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        return self.wished

    def environments(self, service: str, /) -> Sequence[str]:
        return ("production",)

    def secret(self, version: str) -> str:
        return self.values[version]

    @property
    def platform(self) -> DockerPlatform:
        return self._platforms[0] if self._platforms else self.again()

    def again(self) -> DockerPlatform:
        """Another platform over the same world, as a restarted agent makes it."""
        self._platforms.append(DockerPlatform(self.home, self.releases.store, self, wishes=self))
        return self._platforms[-1]

    def release(self, marker: str, status: int = 200, **contract: Any) -> Release:
        health = Health(interval_ms=100)
        run = RunContract(COMMAND, 8000, health, **contract)
        return self.releases.add(run, {"app/server.py": SERVER.format(marker=marker, status=status)})

    def short_lived_release(self) -> Release:
        source = "import sys; print('cannot start', file=sys.stderr); sys.exit(3)"
        return self.releases.add(RunContract(("python", "main.py")), {"app/main.py": source})

    def container(self, instance: str) -> str:
        return container_name(self.home.tag, instance)

    def containers(self) -> list[str]:
        """Every container of this home, by name."""
        label = f"label={HOME_LABEL}={self.home.tag}"
        return self.engine.docker("ps", "-a", "--filter", label, "--format", "{{.Names}}").split()

    def close(self) -> None:
        """Leave no container behind, whatever the test did."""
        for platform in self._platforms:
            platform.close()
        if self.engine.answers():
            if found := self.containers():
                self.engine.docker("rm", "-f", "-v", *found, check=False)
            self.engine.docker("network", "prune", "-f", check=False)
