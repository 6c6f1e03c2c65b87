"""A namespace of a cluster, releases in a registry, and `kubernetes` platforms over both, for tests.

Without `KUBECONFIG` the cluster is the emulated one. With it, it is the one it names; `REBAKE_TEST_REGISTRY` is then
a repository that this machine can push to and its nodes can pull from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rebake.app.registries import Publisher
from rebake.core.home import Home
from rebake.kubernetes.clusters import Clusters
from rebake.platforms.kubernetes.platform import KubernetesPlatform
from rebake.platforms.model import Instance
from rebake.release.manifest import Health, Release, RunContract
from rebake.testing.images import ImageReleases
from rebake.testing.kubernetes import Behaviour
from rebake.testing.kubernetes.target import Target, target
from tests.servers import COMMAND, SERVER

SPEED = 20.0
"""How fast the emulated cluster's time passes."""
ANYBODY = {"HOME": "/nonexistent", "PATH": ""}
"""An environment without any configuration of Docker."""


class Pods:
    """Makes releases and platforms over one namespace.

    Attributes:
        values: secrets by version.
        wished: `kubernetes: {…}` of every environment.
        clusters: of each platform that was made.
    """

    def __init__(self, root: Path, at: Target, kubeconfig: Path, repository: str) -> None:
        self.at, self.home, self.kubeconfig = at, Home(root / "home"), kubeconfig
        self.releases = ImageReleases(self.home.store)
        self.values: dict[str, str] = {}
        self.wished: dict[str, Any] = {
            "kubeconfig": str(kubeconfig),
            "namespace": at.namespace,
            "registry": repository,
            "instances": 2,
        }
        self._platforms: list[KubernetesPlatform] = []
        self.clusters: list[Clusters] = []

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        return self.wished

    def environments(self, service: str, /) -> Sequence[str]:
        return ("production",)

    def secret(self, version: str) -> str:
        return self.values[version]

    @property
    def platform(self) -> KubernetesPlatform:
        return self._platforms[0] if self._platforms else self.again()

    def again(self) -> KubernetesPlatform:
        """Another platform over the same world, as a restarted agent makes it."""
        clusters, publisher = Clusters({}), Publisher(self.releases.store, ANYBODY)
        self.clusters.append(clusters)
        self._platforms.append(KubernetesPlatform(self.home, publisher, self, clusters, wishes=self))
        return self._platforms[-1]

    def release(self, marker: str, status: int = 200, *, service: str = "shop", **contract: Any) -> Release:
        run = RunContract(COMMAND, 8000, Health(interval_ms=1000), **contract)
        made = self.releases.add(run, {"app/server.py": SERVER.format(marker=marker, status=status)}, service=service)
        answers = {"/": (200, marker), "/healthz": (status, marker)}
        self.behave(made, Behaviour(answers=answers, log=(f"serving {marker}",)))
        return made

    def short_lived_release(self) -> Release:
        source = "import sys; print('cannot start', file=sys.stderr); sys.exit(3)"
        made = self.releases.add(RunContract(("python", "main.py")), {"app/main.py": source})
        self.behave(made, Behaviour(exits=3, log=("cannot start",)))
        return made

    def behave(self, release: Release, behaviour: Behaviour) -> None:
        """What the emulated pods of a release do; real ones do what their files say."""
        if self.at.emulated is not None:
            self.at.emulated.behave(release.digest, behaviour)

    def pods(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.at.client.get(self.at.core("pods")).json()["items"]
        return found

    def pod_of(self, instance: Instance) -> dict[str, Any] | None:
        """The pod at an instance's address."""
        address = (instance.address or "").rpartition(":")[0]
        return next((one for one in self.pods() if one.get("status", {}).get("podIP") == address), None)

    def close(self) -> None:
        for platform in self._platforms:
            platform.close()
        for clusters in self.clusters:
            clusters.close()


@contextmanager
def pods(root: Path, registry: str) -> Iterator[Pods]:
    """Args: registry: `HOST:PORT` of one that this machine reaches."""
    with ExitStack() as stack:
        at = stack.enter_context(target(os.environ))
        if at.emulated is not None:
            path = at.emulated.write_kubeconfig(root / "kubeconfig", namespace=at.namespace)
            repository = f"{registry}/{at.namespace}"
            stack.enter_context(at.emulated.in_real_time(SPEED))
        else:
            path = Path(os.environ["KUBECONFIG"])
            repository = os.environ["REBAKE_TEST_REGISTRY"]
        made = Pods(root, at, path, repository)
        stack.callback(made.close)
        yield made


def shown(item: Any) -> str:
    """For the sentence of a failing test."""
    return json.dumps(item, indent=1)[:2000]
