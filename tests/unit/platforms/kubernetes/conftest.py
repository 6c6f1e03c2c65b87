from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.testing.kubernetes import Cluster
from tests.unit.platforms.kubernetes.world import World, world_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Cluster() as cluster, world_of(tmp_path, cluster) as made:
        yield made
