"""The platforms of this version, composed: what each needs, and what can be asked of all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rebake.app.registries import Publisher
from rebake.core.clock import Clock
from rebake.core.home import Home
from rebake.errors import UsageError
from rebake.kubernetes.clusters import Clusters
from rebake.kubernetes.owners import Whose, nobody
from rebake.platforms.docker.platform import DockerPlatform
from rebake.platforms.findings import Finding
from rebake.platforms.kubernetes.platform import KubernetesPlatform
from rebake.platforms.local.platform import LocalPlatform
from rebake.platforms.sources import SecretSource
from rebake.release.manifest import Release
from rebake.release.store import Store
from rebake.rollout.world import Place
from rebake.traffic.kubernetes.router import KubernetesRouter
from rebake.traffic.ports import TrafficRouter

AnyPlatform = LocalPlatform | DockerPlatform | KubernetesPlatform


class Plans(Protocol):
    """What the environments of a home wish for, as far as platforms must know."""

    def settings(self, platform: str, service: str, environment: str) -> Mapping[str, Any]:
        """The platform's own block of the plan under way, else of the one in service, else of one that leaves; empty
        when there is none."""
        ...

    def environments(self, platform: str, service: str) -> Sequence[str]:
        """The environments of a service that are on this platform."""
        ...


class NoPlans:
    """For looking and clearing up only: nothing is launched."""

    def settings(self, _platform: str, _service: str, _environment: str) -> Mapping[str, Any]:
        return {}

    def environments(self, _platform: str, _service: str) -> Sequence[str]:
        return ()


class _Wishes:
    """What is wished for on one platform."""

    def __init__(self, platform: str, plans: Plans) -> None:
        self._platform, self._plans = platform, plans

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        return self._plans.settings(self._platform, service, environment)

    def environments(self, service: str, /) -> Sequence[str]:
        return self._plans.environments(self._platform, service)


class Platforms:
    """Every platform over one home. `close` ends none of their instances.

    Args:
        clusters: shared with the routes of clusters; by default of this object alone.
        whose: tells which installation this is.
    Attributes:
        clusters: closed with it.
    """

    _CLUSTERS = "kubernetes"

    def __init__(
        self,
        home: Home,
        releases: Store,
        vault: SecretSource,
        plans: Plans,
        clock: Clock | None = None,
        *,
        clusters: Clusters | None = None,
        whose: Whose = nobody,
    ) -> None:
        def writable(service: str, environment: str) -> Sequence[Path]:
            return [Path(folder) for folder in plans.settings("local", service, environment).get("writable", ())]

        local = LocalPlatform(home, releases, vault, clock, writable=writable)
        docker = DockerPlatform(home, releases, vault, clock, wishes=_Wishes("docker", plans))
        self.clusters = clusters or Clusters()
        publisher, wishes = Publisher(releases, os.environ), _Wishes(self._CLUSTERS, plans)
        kubernetes = KubernetesPlatform(home, publisher, vault, self.clusters, clock, wishes=wishes, whose=whose)
        self.by_name: Mapping[str, AnyPlatform] = {"local": local, "docker": docker, self._CLUSTERS: kubernetes}
        self._cluster_router = KubernetesRouter(self.clusters, wishes, clock, whose=whose)

    def routers(self, edge: TrafficRouter) -> Mapping[str, TrafficRouter]:
        """Who moves the users of each platform's environments.

        Args:
            edge: of this machine.
        """
        return {name: self._cluster_router if name == self._CLUSTERS else edge for name in self.by_name}

    def places(self, home: Place) -> Mapping[str, Place]:
        """The platforms that act in a home; a cluster is the same from everywhere."""
        return {name: home for name in self.by_name if name != self._CLUSTERS}

    def tell(self, on_change: Callable[[str, str], None]) -> None:
        """Who is told (service, environment) when health or liveness changed."""
        for platform in self.by_name.values():
            platform.on_change = on_change
        self._cluster_router.on_change = on_change

    def forget(self, digest: str) -> int:
        """Remove what was made of a release that the store has removed. Returns: bytes freed, as far as known."""
        return sum(platform.forget(digest) for platform in self.by_name.values())

    def doctor(self) -> list[Finding]:
        return [finding for platform in self.by_name.values() for finding in platform.doctor()]

    def close(self) -> None:
        self._cluster_router.close()
        for platform in self.by_name.values():
            platform.close()
        self.clusters.close()


def refuse_base(platform: str, release: Release) -> None:
    """A release with a base of this machine runs on this machine only, and one with an image only in a container.

    Raises: UsageError `base-host`, `base-not-host`.
    """
    if platform != "local" and release.base == "host":
        raise UsageError(
            "base-host",
            f"expected a release with a base image for platform {platform}, found one on `base: host`: "
            "this machine's own runtime, which no container has",
            where="bake.base",
            remedy="set bake.base to an image reference (or scratch), or deploy to an environment on platform local",
        )
    if platform == "local" and any(layer.role == "base" for layer in release.layers):
        raise UsageError(
            "base-not-host",
            f"expected a release on `base: host` for platform local, found one on {release.base}",
            where="bake.base",
            remedy="set bake.base: host, or deploy to an environment on platform docker",
        )
