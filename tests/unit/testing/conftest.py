"""One emulated cluster for each test, and a bench to speak to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rebake.testing.kubernetes import Cluster
from tests.unit.testing.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Cluster() as cluster, Bench(cluster) as made:
        yield made
