"""An emulated cluster whose time a test holds, and platforms over it: no registry, no files, nothing that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from rebake.core.home import Home
from rebake.errors import PlatformError
from rebake.kubernetes.clusters import Clusters
from rebake.kubernetes.owners import Whose, nobody
from rebake.kubernetes.resources import Json
from rebake.ledger.ports import Fence
from rebake.platforms.kubernetes.platform import KubernetesPlatform
from rebake.platforms.kubernetes.ports import Published
from rebake.platforms.model import Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.release.manifest import Health, Resources, RunContract, SecretVersion
from rebake.testing.kubernetes import ADMIN_TOKEN, Behaviour, Cluster

NAMESPACE = "default"
DEADLINE_SECONDS = 60.0
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
POLICY = f"/apis/policy/v1/namespaces/{NAMESPACE}"
SCALING = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}"
RUN = RunContract(
    ("serve", "$PORT", "$(keep)"), 8000, Health(interval_ms=1000), env={"GREETING": "hello"}, resources=Resources()
)


def digest(marker: str) -> str:
    """A release's digest: what is not asked of a store here."""
    return "sha256:" + (marker.encode().hex() * 64)[:64]


class World:
    """One namespace.

    Attributes:
        wished: `kubernetes: {…}` of every environment.
        values: secrets by version.
        user: the image's own.
    """

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.cluster, self._root, self.home = cluster, root, Home(root / "home")
        self.http = httpx.Client(base_url=cluster.url, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=60)
        path = cluster.write_kubeconfig(root / "kubeconfig")
        self.wished: dict[str, Any] = {"kubeconfig": str(path), "registry": "registry.example/shop", "instances": 2}
        self.values: dict[str, str] = {"hmac:1": "s3cret"}
        self.user = ""
        self.published: list[str] = []
        self._open: list[tuple[KubernetesPlatform, Clusters]] = []

    # What a platform asks for.

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        return self.wished if (service, environment) == ("shop", "production") else {}

    def environments(self, service: str, /) -> Sequence[str]:
        return ("production",)

    def secret(self, version: str) -> str:
        return self.values[version]

    def publish(self, digest: str, repository: str, progress: Progress, /) -> Published:
        self.published.append(digest)
        return Published(f"{repository}@{digest}", self.user)

    # Platforms.

    @property
    def platform(self) -> KubernetesPlatform:
        return self._open[-1][0] if self._open else self.again()

    def again(
        self, home: Home | None = None, kubeconfig: str | None = None, whose: Whose = nobody
    ) -> KubernetesPlatform:
        """Another one over the same world."""
        clusters = Clusters({})
        wishes = self if kubeconfig is None else _Elsewhere(self, kubeconfig)
        here, clock = home or self.home, self.cluster.clock
        made = KubernetesPlatform(here, self, self, clusters, clock, wishes=wishes, whose=whose)
        self._open.append((made, clusters))
        return made

    def kill(self) -> None:
        """End the newest platform and its connections, as a process that is killed."""
        platform, clusters = self._open.pop()
        clusters.close()
        platform.close()

    def close(self) -> None:
        while self._open:
            self.kill()
        self.http.close()

    # Instances.

    def spec(self, number: int, marker: str = "good", fleet: str = "f1", **run: Any) -> InstanceSpec:
        contract = replace(RUN, **run)
        revision = digest(marker + fleet)
        return InstanceSpec(f"{fleet}-{number}", "shop", "production", fleet, revision, digest(marker), contract)

    def with_secret(self, number: int, marker: str = "good") -> InstanceSpec:
        return replace(self.spec(number, marker), secrets={"TOKEN": SecretVersion("env:TOKEN", "hmac:1")})

    def raised(self, *specs: InstanceSpec, fence: Fence | None = None) -> list[Instance]:
        """Launch them and wait until they are healthy."""
        for spec in specs:
            self.platform.launch(spec, fence=fence)
        return [self.until_instance(spec.id, lambda i: i.healthy is True) for spec in specs]

    def all(self) -> list[Instance]:
        return list(self.platform.observe("shop", "production"))

    def one(self, instance: str) -> Instance | None:
        return next((one for one in self.all() if one.id == instance), None)

    def until(self, holds: Callable[[], Any], otherwise: Callable[[], object] = lambda: "") -> Any:
        """Let time pass in the cluster, and the platform's threads work, until something is true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            found = holds()
            if found:
                return found
            self.cluster.advance(0.25)
            self._let_work()
        raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {otherwise()}")

    def _let_work(self) -> None:
        """Hold the cluster's time until the platforms have done what they heard of, however slow this machine is."""
        for _ in range(200):
            threading.Event().wait(0.005)
            if all(platform._keeper.idle for platform, _ in self._open):
                return

    def until_instance(self, instance: str, holds: Callable[[Instance], object]) -> Instance:
        def look() -> Instance | None:
            try:
                found = self.one(instance)
            except PlatformError:
                return None
            return found if found is not None and holds(found) else None

        found: Instance = self.until(look, lambda: self.one(instance))
        return found

    def gone(self, instance: str, grace_ms: int = 1000) -> None:
        def retired() -> bool:
            self.platform.retire(instance, grace_ms)
            return self.one(instance) is None

        self.until(retired, lambda: self.one(instance))

    # The cluster.

    def items(self, path: str, **query: str) -> list[Json]:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["items"]
        return found

    def deployments(self) -> list[Json]:
        return self.items(f"{APPS}/deployments")

    def pods(self) -> list[Json]:
        return self.items(f"{CORE}/pods")

    def pod_of(self, instance: str) -> Json:
        """The pod that says it is this instance's."""
        found: Json = self.until(
            lambda: next(
                (one for one in self.pods() if one["metadata"]["labels"].get("rebake.dev/instance") == instance), None
            )
        )
        return found

    def behave(self, marker: str, behaviour: Behaviour) -> None:
        self.cluster.behave(digest(marker), behaviour)

    def merge(self, path: str, body: Json) -> httpx.Response:
        return self.http.patch(path, json=body, headers={"Content-Type": "application/merge-patch+json"})

    def make(self, path: str, body: Json) -> None:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 201, answer.text


class _Elsewhere:
    """The same wishes by another kubeconfig."""

    def __init__(self, world: World, kubeconfig: str) -> None:
        self._world, self._kubeconfig = world, kubeconfig

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        block = self._world.settings(service, environment)
        return {**block, "kubeconfig": self._kubeconfig} if block else {}

    def environments(self, service: str, /) -> Sequence[str]:
        return self._world.environments(service)


@contextmanager
def world_of(root: Path, cluster: Cluster) -> Iterator[World]:
    made = World(root, cluster)
    try:
        yield made
    finally:
        made.close()
