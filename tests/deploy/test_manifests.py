"""The files under deploy/kubernetes: a strict API server takes them, and their pods may run and become ready."""

from __future__ import annotations

import re
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml

from rebake.testing.kubernetes import Behaviour, Cluster
from tests.deploy.manifests import FOLDER, IMAGE, NAMESPACE, SECRETS, container, manifests, rights
from tests.unit.testing.bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Cluster() as cluster, Bench(cluster) as made:
        yield made


def _place(item: dict[str, object]) -> str:
    kinds = {
        "Namespace": "/api/v1/namespaces",
        "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
        "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
        "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments",
        "PodDisruptionBudget": f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets",
        "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
        "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
    }
    return kinds[str(item["kind"])]


def test_every_file_has_the_schema_of_its_kind() -> None:
    for item in (*manifests(), *rights()):
        kubernetes_validate.validate(item, "1.36", strict=True)


def test_a_strict_server_takes_them_as_they_are_and_two_replicas_become_ready(bench: Bench) -> None:
    for item in manifests():
        made = bench.apply(f"{_place(item)}/{item['metadata']['name']}", item, fieldValidation="Strict")
        assert made.status_code in (200, 201), made.text
        assert "warning" not in made.headers, made.headers["warning"]
    for name, data in SECRETS.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        bench.make(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
    bench.cluster.behave(IMAGE, Behaviour(start_seconds=2.0))
    bench.cluster.settle()
    bench.cluster.advance(10)
    pods = bench.items(f"/api/v1/namespaces/{NAMESPACE}/pods")
    ready = [one for one in pods for condition in one["status"]["conditions"] if condition["type"] == "Ready"]
    assert len(pods) == len(ready) == 2, [one["status"] for one in pods]
    slices = bench.items(f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
    assert sum(len(one["endpoints"]) for one in slices) == 2
    budget = bench.get(f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/rebake")
    assert budget["status"]["disruptionsAllowed"] == 1


def test_the_rights_are_those_of_the_manual() -> None:
    text = (FOLDER.parents[1] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    shown = [doc for block in blocks for doc in yaml.safe_load_all(block) if doc.get("kind") == "Role"]
    assert {one["metadata"]["name"]: one["rules"] for one in shown} == {
        one["metadata"]["name"]: one["rules"] for one in rights() if one["kind"] == "Role"
    }


def test_secrets_come_from_secrets_and_every_one_is_told_of() -> None:
    text = (FOLDER.parents[1] / "docs" / "server.md").read_text(encoding="utf-8")
    for name in SECRETS:
        assert f"`{name}`" in text or f" {name} " in text, name
    assert all("value" not in one or one["name"] != "REBAKE_DATABASE" for one in container()["env"])
