"""Real Envoy passes the suite that every route passes, and what only a process of its own can get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.testing.conformance.router import RouterConformance
from rebake.traffic.envoy import EdgeSettings, EnvoyRouter

SETTINGS = EdgeSettings(concurrency=2, drain_seconds=1, handover_seconds=3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.mark.real
class TestEnvoyRouter(RouterConformance):
    @pytest.fixture
    def router(self, home: Home) -> Iterator[EnvoyRouter]:
        router = EnvoyRouter(home, SETTINGS)
        yield router
        router.stop()
        router.close()
