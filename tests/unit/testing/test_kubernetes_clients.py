"""The emulated cluster as others see it: a real client library, and the schemas themselves."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import lightkube
import pytest
from lightkube.core.exceptions import ApiError
from lightkube.models.apps_v1 import DeploymentSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap, Pod

from rebake.testing.kubernetes.resources import BUILT_IN
from rebake.testing.kubernetes.target import target
from tests.unit.testing.bench import APPS, CORE, POLICY, Bench, deployment, service


@pytest.fixture
def client(bench: Bench, tmp_path: Path) -> lightkube.Client:
    path = bench.cluster.write_kubeconfig(tmp_path / "config")
    return lightkube.Client(lightkube.KubeConfig.from_file(path), field_manager="rebake")


def _deployment(replicas: int) -> Deployment:
    labels = {"app": "web"}
    pod = PodTemplateSpec(
        metadata=ObjectMeta(labels=labels), spec=PodSpec(containers=[Container(name="web", image="r/web:1")])
    )
    spec = DeploymentSpec(selector=LabelSelector(matchLabels=labels), template=pod, replicas=replicas)
    return Deployment(metadata=ObjectMeta(name="web", namespace="default"), spec=spec)


def test_lightkube_creates_applies_conflicts_and_watches(bench: Bench, client: lightkube.Client) -> None:
    made = client.create(ConfigMap(metadata=ObjectMeta(name="settings", namespace="default"), data={"a": "1"}))
    assert made.metadata is not None
    assert client.get(ConfigMap, "settings").data == {"a": "1"}
    applied = client.apply(_deployment(2))
    assert applied.spec is not None
    assert applied.spec.replicas == 2
    with pytest.raises(ApiError) as refused:
        client.apply(_deployment(3), field_manager="rival")
    assert refused.value.status.code == 409
    assert 'conflict with "rebake": .spec.replicas' in str(refused.value)
    assert client.apply(_deployment(3), field_manager="rival", force=True).spec.replicas == 3
    bench.cluster.advance(5)
    assert {one.status.phase for one in client.list(Pod, labels={"app": "web"}) if one.status} == {"Running"}
    client.wait(Deployment, "web", for_conditions=["Available"])
    for kind, item in client.watch(ConfigMap, fields={"metadata.name": "settings"}):
        assert (kind, item.data) == ("ADDED", {"a": "1"})
        break


def test_everything_the_cluster_holds_fits_the_schemas(bench: Bench) -> None:
    """The emulator's own objects are held to the rules that it holds others to, by another's reading of them."""
    bench.make(f"{CORE}/services", service())
    bench.make(f"{APPS}/deployments", deployment())
    stateful = deployment("db")
    stateful["spec"]["serviceName"] = "db"
    bench.make(f"{APPS}/statefulsets", {**stateful, "kind": "StatefulSet"})
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    bench.make(f"{POLICY}/poddisruptionbudgets", {"metadata": {"name": "web"}, "spec": budget})
    bench.cluster.advance(30)
    seen = set()
    for resource in BUILT_IN:
        for item in bench.cluster.store.all(resource):
            kubernetes_validate.validate(item, "1.36", strict=True)
            seen.add(resource.kind)
    assert {"Deployment", "ReplicaSet", "StatefulSet", "Pod", "EndpointSlice", "PodDisruptionBudget", "Event"} <= seen


def test_the_target_of_a_kubeconfig_is_that_cluster_and_is_left_clean(bench: Bench, tmp_path: Path) -> None:
    """The way that the conformance tests go to a real cluster, gone to this one."""
    path = bench.cluster.write_kubeconfig(tmp_path / "config")
    with bench.cluster.in_real_time(speed=20):
        with target({"KUBECONFIG": str(path)}) as at:
            assert at.emulated is None
            assert bench.http.post(at.of("apps/v1", "deployments"), json=deployment(replicas=1)).status_code == 201
            at.until(lambda: [one["status"]["phase"] for one in bench.items(at.core("pods"))] == ["Running"])
        namespace = f"/api/v1/namespaces/{at.namespace}"
        at.until(lambda: bench.http.get(namespace).status_code == 404)
