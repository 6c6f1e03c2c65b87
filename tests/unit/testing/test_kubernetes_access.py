"""Who may do what in the emulated cluster, over HTTP and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rebake.testing.kubernetes import Cluster, Identity, NoOpenssl
from rebake.testing.kubernetes.target import connect
from tests.unit.testing.bench import APPS, CORE, RBAC, Bench, deployment

ACCOUNT = "system:serviceaccount:default:robot"


@pytest.fixture
def robot(bench: Bench) -> Iterator[Bench]:
    """A client with a service account's token, which may do nothing yet."""
    with Bench(bench.cluster, bench.cluster.token_of("default", "robot")) as made:
        yield made


def _grant(bench: Bench, *rules: dict[str, list[str]]) -> None:
    bench.make(f"{RBAC}/roles", {"metadata": {"name": "deployer"}, "rules": list(rules)})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"}
    subjects = [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]
    bench.make(f"{RBAC}/rolebindings", {"metadata": {"name": "deployer"}, "roleRef": reference, "subjects": subjects})


def test_without_a_role_nothing_is_allowed_and_the_refusal_says_what(robot: Bench) -> None:
    body = robot.http.get(f"{APPS}/deployments/web").json()
    assert (body["code"], body["reason"]) == (403, "Forbidden")
    assert body["message"] == (
        f'deployments.apps "web" is forbidden: User "{ACCOUNT}" cannot get resource "deployments" in API group "apps" '
        'in the namespace "default"'
    )
    assert body["details"] == {"name": "web", "group": "apps", "kind": "deployments"}
    body = robot.http.get("/api/v1/pods").json()
    assert body["message"] == (
        f'pods is forbidden: User "{ACCOUNT}" cannot list resource "pods" in API group "" at the cluster scope'
    )


def test_a_role_allows_its_verbs_on_its_resources_and_no_others(bench: Bench, robot: Bench) -> None:
    _grant(
        bench,
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["mine"]},
    )
    assert robot.http.get(f"{APPS}/deployments/web").status_code == 404
    refused = robot.apply(f"{APPS}/deployments/web", deployment())
    assert 'cannot create resource "deployments"' in refused.json()["message"], "an apply that creates needs both"
    bench.make(f"{APPS}/deployments", deployment())
    assert robot.apply(f"{APPS}/deployments/web", deployment(), force="true").status_code == 200
    assert robot.http.delete(f"{APPS}/deployments/web").status_code == 403
    scale = robot.http.get(f"{APPS}/deployments/web/scale").json()
    assert 'cannot get resource "deployments/scale"' in scale["message"]
    assert robot.http.get(f"{CORE}/configmaps/mine").status_code == 404
    assert robot.http.get(f"{CORE}/configmaps/other").status_code == 403


def test_one_can_ask_what_one_may_do(bench: Bench, robot: Bench) -> None:
    _grant(bench, {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"]})
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    def may(**asked: str) -> bool:
        answer = robot.make(path, {"spec": {"resourceAttributes": {"namespace": "default", "group": "apps", **asked}}})
        return bool(answer["status"]["allowed"])

    assert may(verb="patch", resource="deployments")
    assert not may(verb="delete", resource="deployments")
    assert not may(verb="patch", resource="deployments", subresource="scale")
    assert not may(verb="patch", resource="deployments", namespace="kube-system")


def test_who_shows_nothing_is_anonymous_and_who_shows_something_wrong_is_nobody(bench: Bench) -> None:
    with Bench(bench.cluster, "") as nobody:
        assert 'User "system:anonymous" cannot list' in nobody.http.get(f"{CORE}/pods").json()["message"]
        assert nobody.http.get("/version").status_code == 200
        assert (
            nobody.http.get("/apis").json()["message"] == 'forbidden: User "system:anonymous" cannot get path "/apis"'
        )
    with Bench(bench.cluster, "wrong") as wrong:
        answer = wrong.http.get(f"{CORE}/pods")
        assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")


def test_a_client_certificate_is_a_user_and_groups(tmp_path: Path) -> None:
    try:
        authority = Identity.authority(tmp_path)
    except NoOpenssl as error:
        pytest.skip(str(error))
    with Cluster(certificate=authority) as cluster:
        with connect(cluster.kubeconfig(client=authority.client(tmp_path, "root", "system:masters"))) as client:
            assert client.get(f"{CORE}/pods").status_code == 200
        with connect(cluster.kubeconfig(client=authority.client(tmp_path, "anna"))) as client:
            assert 'User "anna" cannot list' in client.get(f"{CORE}/pods").json()["message"]
        with connect(cluster.kubeconfig()) as client:
            assert client.get(f"{CORE}/pods").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{cluster.url}/version")


def test_a_namespace_on_its_way_out_takes_nothing_new(bench: Bench) -> None:
    bench.make("/api/v1/namespaces", {"metadata": {"name": "old"}})
    bench.cluster.settle()
    place = "/api/v1/namespaces/old"
    bench.make(f"{place}/configmaps", {"metadata": {"name": "held", "finalizers": ["example.org/hold"]}})
    assert bench.http.delete(place).json()["status"]["phase"] == "Terminating"
    refused = bench.http.post(f"{place}/configmaps", json={"metadata": {"name": "late"}}).json()
    assert refused["message"] == (
        'configmaps "late" is forbidden: unable to create new content in namespace old because it is being terminated'
    )
    assert refused["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    bench.cluster.settle()
    assert bench.http.get(place).status_code == 200
    bench.merge(f"{place}/configmaps/held", {"metadata": {"finalizers": None}})
    bench.cluster.settle()
    assert bench.http.get(place).status_code == 404
