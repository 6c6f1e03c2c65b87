"""Refusals of the API server: in its own words, by who must act."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebake.errors import PlatformError, Transient
from rebake.kubernetes.client import KubeClient
from rebake.kubernetes.faults import Stale, Taken, refusal
from rebake.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, HTTP_ROUTES, PODS, Json
from rebake.kubernetes.signin import sign_in
from rebake.testing.kubernetes import ApiError, Cluster, Fault
from rebake.testing.kubernetes.status import too_many_requests


def _settings(name: str = "settings", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _pod(**more: object) -> Json:
    spec = {"containers": [{"name": "web", "image": "r/web:1"}], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}


def test_one_that_is_taken_and_one_that_changed_meanwhile(client: KubeClient) -> None:
    made = client.create(CONFIG_MAPS, "default", _settings(a="1"))
    with pytest.raises(Taken, match="already exists"):
        client.create(CONFIG_MAPS, "default", _settings(a="1"))
    changed = client.apply(CONFIG_MAPS, "default", _settings(a="2"))
    old = made["metadata"]["resourceVersion"]
    with pytest.raises(Stale, match="the object has been modified"):
        client.apply(CONFIG_MAPS, "default", {**_settings(), "metadata": {"name": "settings", "resourceVersion": old}})
    with pytest.raises(Stale):
        client.replace(CONFIG_MAPS, "default", {**made, "data": {"a": "3"}})
    assert client.get(CONFIG_MAPS, "default", "settings") == changed


def test_a_patch_that_was_meant_for_another_object_of_that_name(client: KubeClient) -> None:
    """The server calls it invalid, which would be final: but who reads again finds the right one."""
    client.create(CONFIG_MAPS, "default", _settings(a="1"))
    with pytest.raises(Stale, match="field is immutable"):
        client.patch(CONFIG_MAPS, "default", "settings", {"metadata": {"uid": "another", "labels": {"a": "b"}}})


def test_what_is_not_there_is_none(client: KubeClient) -> None:
    assert client.get(CONFIG_MAPS, "default", "none") is None
    assert client.patch(CONFIG_MAPS, "default", "none", {"data": {"a": "1"}}) is None
    assert client.delete(CONFIG_MAPS, "default", "none") is None
    assert client.logs("default", "none", 5) == []


def test_a_permission_that_lacks_is_named_with_the_rule_for_the_role(cluster: Cluster, tmp_path: Path) -> None:
    path = cluster.write_kubeconfig(tmp_path / "lacking", token=cluster.token_of("default", "deployer"))
    lacking = KubeClient(sign_in(str(path), None, {}))
    with pytest.raises(PlatformError) as refused:
        lacking.create(DEPLOYMENTS, "default", {"metadata": {"name": "web"}})
    lacking.close()
    assert refused.value.code == "kubernetes-forbidden"
    said = 'cannot create resource "deployments" in API group "apps" in the namespace "default"'
    assert said in refused.value.problem
    assert refused.value.remedy == (
        'add this rule to the Role of "system:serviceaccount:default:deployer": '
        '{apiGroups: ["apps"], resources: [deployments], verbs: [create]}'
    )


def test_quota_policy_and_pod_security_say_their_own_sentence(cluster: Cluster, client: KubeClient) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    quotas = type(PODS)("", "v1", "resourcequotas", "ResourceQuota")
    client.create(quotas, "default", {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    cluster.settle()
    with pytest.raises(PlatformError, match="exceeded quota: small") as refused:
        client.create(PODS, "default", _pod())
    assert refused.value.code == "kubernetes-quota"
    client.delete(quotas, "default", "small")
    cluster.settle()
    cluster.webhooks["policy.example"] = lambda kind, _: "images must be signed" if kind.kind == "Pod" else ""
    with pytest.raises(PlatformError, match="images must be signed") as refused:
        client.create(PODS, "default", _pod())
    assert (refused.value.code, "policy.example" in (refused.value.remedy or "")) == ("kubernetes-policy", True)


def test_a_field_that_does_not_exist_and_a_namespace_that_is_not_there(client: KubeClient) -> None:
    with pytest.raises(PlatformError, match="privilegedd") as refused:
        client.create(PODS, "default", _pod(privilegedd=True))
    assert refused.value.code == "kubernetes-invalid"
    with pytest.raises(PlatformError, match='namespaces "nowhere" not found') as refused:
        client.create(CONFIG_MAPS, "nowhere", _settings())
    assert refused.value.code == "kubernetes-no-namespace"
    assert "kubectl create namespace nowhere" in (refused.value.remedy or "")


def test_a_busy_server_says_when_to_come_again(cluster: Cluster, client: KubeClient) -> None:
    cluster.faults.add(Fault(verb="get", answer=too_many_requests("too many", 7)))
    with pytest.raises(Transient, match="too many") as refused:
        client.get(CONFIG_MAPS, "default", "x")
    assert (refused.value.code, refused.value.retry_after_seconds) == ("kubernetes-busy", 7.0)
    cluster.faults.add(Fault(verb="get", answer=ApiError(500, "InternalError", "etcdserver: request timed out")))
    with pytest.raises(Transient, match="etcdserver") as refused:
        client.get(CONFIG_MAPS, "default", "x")
    assert refused.value.code == "kubernetes-failing"
    cluster.faults.add(Fault(verb="get"))
    with pytest.raises(Transient) as refused:
        client.get(CONFIG_MAPS, "default", "x")
    assert refused.value.code == "kubernetes-unreachable"
    with cluster.api_server_away(), pytest.raises(Transient, match="cannot be reached"):
        client.get(CONFIG_MAPS, "default", "x")
    assert client.get(CONFIG_MAPS, "default", "x") is None


def test_a_webhook_that_does_not_answer_may_answer_later() -> None:
    body = b'{"kind":"Status","message":"failed calling webhook \\"a.example\\": timeout","reason":"InternalError"}'
    error = refusal(500, body, "pods default/web")
    assert isinstance(error, Transient)
    assert (error.code, "a.example" in (error.remedy or "")) == ("kubernetes-webhook", True)
    assert refusal(502, b"<html>bad gateway</html>", "pods").code == "kubernetes-failing"


def test_a_policy_of_the_clusters_own_is_a_policy() -> None:
    said = (
        "deployments.apps \"web\" is forbidden: ValidatingAdmissionPolicy 'costs' with binding 'costs-of-shop' denied "
        "request: every Deployment names its cost-center"
    )
    error = refusal(
        422, json.dumps({"kind": "Status", "message": said, "reason": "Invalid"}).encode(), "deployments.apps"
    )
    assert (error.code, error.problem) == ("kubernetes-policy", said)
    assert "costs" in (error.remedy or "")


def test_what_the_cluster_serves_and_lets_us_do(client: KubeClient, tmp_path: Path) -> None:
    assert client.has(PODS)
    assert client.has(HTTP_ROUTES)
    assert client.version().startswith("v1.")
    assert client.may("create", DEPLOYMENTS, "default")
    with Cluster(gateway=False) as bare:
        path = bare.write_kubeconfig(tmp_path / "bare", token=bare.token_of("default", "deployer"))
        other = KubeClient(sign_in(str(path), None, {}))
        assert not other.has(HTTP_ROUTES)
        assert not other.may("create", DEPLOYMENTS, "default")
        other.close()
