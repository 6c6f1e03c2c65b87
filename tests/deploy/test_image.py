"""rebake's own image, baked by rebake, run as deploy/kubernetes says: two replicas on one real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.testing.docker_engine import DockerEngine
from rebake.testing.kubernetes import Cluster
from rebake.testing.kubernetes.certificates import Identity
from rebake.testing.postgresql import PostgresqlServer
from rebake.testing.registry_server import RegistryServer
from tests.deploy.manifests import rights
from tests.deploy.replicas import Replicas, bake_image
from tests.e2e.site import until
from tests.unit.testing.bench import Bench

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


SHOP = """\
service: shop
bake: {{builder: files, base: scratch, repository: "{host}/team/shop"}}
run: {{command: [./serve], port: 8000, health: {{path: /healthz, interval: 200ms}}, drain: 1s}}
environments:
  production:
    platform: kubernetes
    kubernetes: {{namespace: shops}}
    strategy: blue-green
    soak: 5m
"""
SPEED = 5.0
"""How fast the emulated cluster's time passes."""
SHOPS = "shops"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "authority"
    folder.mkdir()
    with Cluster(certificate=Identity.authority(folder)) as made, made.in_real_time(SPEED):
        yield made


def in_cluster(cluster: Cluster, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What the kubelet gives a pod of an account that may do what the documented Role says: mounts and variables."""
    folder.mkdir()
    (folder / "ca.crt").write_bytes((folder.parent / "authority" / "ca.crt").read_bytes())
    (folder / "token").write_text(cluster.token_of("rebake", "rebake"))
    with Bench(cluster, authority=folder / "ca.crt") as admin:
        admin.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOPS}})
        for item in rights():
            place = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SHOPS}/{item['kind'].lower()}s"
            admin.make(place, item)
    (folder / "namespace").write_text("rebake")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    return {str(folder): ACCOUNT}, {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}


def test_a_deploy_to_the_cluster_goes_on_where_its_replica_died(
    replicas: Replicas, tmp_path: Path, registry: RegistryServer, cluster: Cluster
) -> None:
    mounts, environ = in_cluster(cluster, tmp_path / "account")
    first, second = replicas.start(mounts, environ), replicas.start(mounts, environ)
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "rebake.yaml").write_text(SHOP.format(host=registry.host))
    (shop / "serve").write_text("one")
    done = first.ask(shop, "deploy", "production", "--json")
    assert done.code == 0, done.err + first.log()
    assert second.ask(shop, "status", "production", "--json").doc["stable"]["healthy"] == 2
    (shop / "serve").write_text("two")
    assert first.ask(shop, "deploy", "production", "--detach").code == 0
    first.kill()
    until(lambda: second.ask(shop, "status", "production", "--json").doc["rollout"]["outcome"] == "promoted", 60)
    undone = second.ask(shop, "undo", "production", "--json")
    assert undone.code == 0, undone.err
    assert second.ask(shop, "ledger", "verify").code == 0


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
    assert second.finish() == 0, second.log()
    until(lambda: again.probe("/livez") == 200)
