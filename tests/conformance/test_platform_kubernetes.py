"""The `kubernetes` platform passes the suite that every platform passes: on the emulated cluster, or on a real one
where `KUBECONFIG` and `REBAKE_TEST_REGISTRY` name one. Releases go to a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clusters import Pods, pods

from rebake.platforms.model import Instance
from rebake.release.manifest import Release
from rebake.testing.conformance.platform import PlatformBench, PlatformConformance
from rebake.testing.registry_server import RegistryServer


class KubernetesBench:
    """The suite's wishes over one namespace."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods
        self.platform, self.again, self.release = pods.platform, pods.again, pods.release
        self.short_lived_release = pods.short_lived_release

    def sick_release(self) -> Release:
        return self._pods.release("sick", 500)

    def damaged_release(self) -> Release:
        release = self._pods.release("damaged")
        blob = self._pods.releases.store.blob_path(release.layers[-1].digest)
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes().replace(b"damaged", b"DAMAGED"))
        return release

    def crash(self, instance: Instance) -> None:
        pod = self._pods.pod_of(instance)
        assert pod is not None
        at = self._pods.at
        answer = at.client.delete(at.core("pods", pod["metadata"]["name"]), params={"gracePeriodSeconds": "0"})
        answer.raise_for_status()

    def get(self, instance: Instance, path: str = "/") -> tuple[int, str]:
        """Through the API server, since nobody here need be able to reach a pod's own address."""
        pod = self._pods.pod_of(instance)
        if pod is None:
            raise ConnectionRefusedError(instance.address)
        at, port = self._pods.at, (instance.address or "").rpartition(":")[2]
        answer = at.client.get(at.core("pods", f"{pod['metadata']['name']}:{port}", "proxy") + path)
        if answer.status_code in (404, 502, 503):
            raise ConnectionRefusedError(answer.text)
        return answer.status_code, answer.text


@pytest.mark.real
class TestKubernetesPlatform(PlatformConformance):
    @pytest.fixture
    def bench(self, registry: RegistryServer, tmp_path: Path) -> Iterator[PlatformBench]:
        with pods(tmp_path, registry.host) as made:
            yield KubernetesBench(made)
