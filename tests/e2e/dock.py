"""A site on platform `docker`: the same service, in containers of an engine of our own."""

from __future__ import annotations

from pathlib import Path

from rebake.core.home import Home
from rebake.platforms.docker.requests import HOME_LABEL, container_name
from rebake.release.manifest import Health, RunContract
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import ImageReleases
from tests.e2e.site import SERVER, Done, Site

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

    def describe(self, more: str, **changes: str) -> None:
        text = FILE.format(socket=self.engine.socket, port=self.port, more=more)
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        self.write("rebake.yaml", text)

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

    def serve(self) -> None:
        """The first release, promoted."""
        done = self.ship()
        assert done.code == 0, done.err

    def containers(self) -> list[str]:
        label = f"label={HOME_LABEL}={Home(self.home).tag}"
        return self.engine.docker("ps", "--filter", label, "--format", "{{.Names}}").split()

    def names(self) -> list[str]:
        return [str(i["id"]) for i in self.stable_instances() if i["healthy"]]

    def container(self, instance: str) -> str:
        return container_name(Home(self.home).tag, instance)
