"""rebake's own image, baked by rebake, run as deploy/kubernetes says: two replicas on one real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.testing.docker_engine import DockerEngine
from rebake.testing.postgresql import PostgresqlServer
from rebake.testing.registry_server import RegistryServer
from tests.deploy.replicas import Replicas, bake_image
from tests.e2e.site import until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, registry: RegistryServer) -> str:
    return bake_image(tmp_path_factory.mktemp("image"), registry)


@pytest.fixture
def replicas(
    tmp_path: Path, docker_engine: DockerEngine, image: str, postgresql: PostgresqlServer, postgresql_url: str
) -> Iterator[Replicas]:
    if not docker_engine.answers():
        docker_engine.start()
    postgresql.folder.chmod(0o711)  # the server's socket is reached by the user of the containers
    yield Replicas(tmp_path, docker_engine, image, postgresql_url, postgresql.folder)
    docker_engine.clear()


def test_any_replica_answers_and_either_may_die(replicas: Replicas, tmp_path: Path) -> None:
    first, second = replicas.start(), replicas.start()
    frozen = first.ask(tmp_path, "freeze", "--all", "--reason", "the holidays", "--until", "1h", "--json")
    assert frozen.code == 0, frozen.err
    (seen,) = second.ask(tmp_path, "freeze", "--json").doc["freezes"]
    assert seen["reason"] == "the holidays"
    assert seen["by"].startswith("ada, who says ")
    assert "rebake_ledger_entries_total 1.0" in second.page("/metrics").replace("\n", " ")
    first.kill()
    lifted = second.ask(tmp_path, "freeze", "--all", "--lift", "--json")
    assert (lifted.code, lifted.doc["freezes"]) == (0, []), lifted.err
    assert second.ask(tmp_path, "ledger", "verify", "--json").doc["faults"] == []
    again = replicas.start()
    assert again.ask(tmp_path, "status", "--json").code == 0
    assert second.finish() == 0
    until(lambda: again.probe("/livez") == 200)
