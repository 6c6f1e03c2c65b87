"""One emulated cluster for each test, and our client to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.kubernetes.client import KubeClient
from rebake.kubernetes.signin import sign_in
from rebake.testing.kubernetes import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path) -> Iterator[KubeClient]:
    path = cluster.write_kubeconfig(tmp_path / "config")
    made = KubeClient(sign_in(str(path), None, {}))
    yield made
    made.close()
