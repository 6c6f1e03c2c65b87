"""What a fleet is made of: whole objects, and what the cluster makes of them."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import pytest

from rebake.kubernetes.settings import KubernetesSettings
from rebake.platforms.kubernetes.records import general
from rebake.platforms.kubernetes.requests import inside, name_of, record_for, settings_of, template_of, user_of
from rebake.release.manifest import Health, Resources
from rebake.testing.kubernetes import Cluster
from rebake.testing.kubernetes.resources import BUILT_IN
from tests.unit.platforms.kubernetes.world import APPS, CORE, POLICY, SCALING, World, world_of


def test_a_pod_is_restricted_pinned_probed_drained_and_spread(world: World) -> None:
    spec = world.spec(1, resources=Resources(memory_bytes=64 << 20, cpu_millis=500), drain_ms=10_000)
    settings = KubernetesSettings(pull_secret="pull", writable=("/cache",), labels={"team": "shop"})
    record = record_for(general(spec), settings, f"r.example/shop@{spec.release}", 1000)
    template = template_of(record)
    name, limits = name_of(record), {"cpu": "500m", "memory": str(64 << 20)}
    fleet = {
        "app.kubernetes.io/managed-by": "rebake",
        "app.kubernetes.io/name": "shop",
        "rebake.dev/service": "shop",
        "rebake.dev/environment": "production",
        "rebake.dev/fleet": "f1",
    }
    assert template["metadata"]["labels"].items() >= {**fleet, "team": "shop", "rebake.dev/serving": "true"}.items()
    chosen = {"labelSelector": {"matchLabels": fleet}}
    nodes = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "topologyKey": "kubernetes.io/hostname", **chosen}
    zones = {"topologyKey": "topology.kubernetes.io/zone", **chosen}
    preferred = [{"weight": 100, "podAffinityTerm": zones}]
    assert template["spec"] == {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 20,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [nodes],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}},
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": f"writable-{n}", "emptyDir": {"sizeLimit": str(256 << 20)}} for n in range(3)],
        "containers": [
            {
                "name": "main",
                "image": f"r.example/shop@{spec.release}",
                "imagePullPolicy": "IfNotPresent",
                "command": ["serve", "8000", "$$(keep)"],
                "envFrom": [{"configMapRef": {"name": name}}],
                "env": [{"name": "REBAKE_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "ports": [{"name": "http", "containerPort": 8000}],
                "resources": {"limits": limits, "requests": limits},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "readinessProbe": {
                    "httpGet": {"path": "/healthz", "port": "http"},
                    "periodSeconds": 1,
                    "timeoutSeconds": 2,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "volumeMounts": [
                    {"name": "writable-0", "mountPath": "/tmp"},
                    {"name": "writable-1", "mountPath": "/rebake/data"},
                    {"name": "writable-2", "mountPath": "/cache"},
                ],
            }
        ],
    }


def test_a_worker_has_no_port_and_nothing_waits_for_balancers(world: World) -> None:
    health = Health(path="", command=("check", "$PORT"), interval_ms=5000)
    record = record_for(general(world.spec(1, health=health)), KubernetesSettings(), "r/shop@x", 1000)
    (container,) = template_of(record)["spec"]["containers"]
    assert container["readinessProbe"]["exec"] == {"command": ["check", "8000"]}
    assert container["readinessProbe"]["periodSeconds"] == 5
    assert "ports" not in container
    assert "lifecycle" not in container
    silent = record_for(general(world.spec(1, health=Health(path=""))), KubernetesSettings(), "r/shop@x", 1000)
    assert "readinessProbe" not in template_of(silent)["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("named", "wished", "user"),
    [
        ("", None, 65532),
        ("root", None, 65532),
        ("0", None, 65532),
        ("app", None, 65532),
        ("10:20", None, 10),
        ("10", 7, 7),
    ],
)
def test_nobody_runs_as_root(named: str, wished: int | None, user: int) -> None:
    assert user_of(KubernetesSettings(user=wished), named) == user


def test_the_kubelet_expands_nothing_by_itself(world: World) -> None:
    spec = world.spec(1, env={"GREETING": "$(PATH)"})
    assert inside(spec, ["$GREETING", "$$(HOME)", "${PORT}"]) == ["$$(PATH)", "$$(HOME)", "8000"]
    assert settings_of(spec)["GREETING"] == "$(PATH)"


def test_a_fleet_comes_up_where_pods_must_be_restricted_and_all_its_objects_fit(tmp_path: Path) -> None:
    with Cluster() as cluster, world_of(tmp_path, cluster) as world:
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
        world.merge("/api/v1/namespaces/default", {"metadata": {"labels": labels}})
        world.raised(world.with_secret(1), world.with_secret(2))
        (deployment,) = world.deployments()
        assert deployment["spec"]["replicas"] == 2
        (settings,) = [one for one in world.items(f"{CORE}/configmaps") if one.get("immutable")]
        (secret,) = world.items(f"{CORE}/secrets")
        (budget,) = world.items(f"{POLICY}/poddisruptionbudgets")
        assert settings["data"]["GREETING"] == "hello"
        assert base64.b64decode(secret["data"]["TOKEN"]) == b"s3cret"
        assert secret["immutable"] is True
        assert budget["status"]["disruptionsAllowed"] == 1
        owners = {one["metadata"]["ownerReferences"][0]["uid"] for one in (settings, secret, budget)}
        assert owners == {deployment["metadata"]["uid"]}
        for resource in BUILT_IN:
            for item in cluster.store.all(resource):
                kubernetes_validate.validate(item, "1.36", strict=True)
        assert "s3cret" not in str(deployment)


def test_with_the_last_instance_everything_of_the_fleet_goes(world: World) -> None:
    world.raised(world.with_secret(1), world.with_secret(2))
    world.gone("f1-1")
    assert len(world.deployments()) == 1
    world.gone("f1-2")
    owned = (f"{APPS}/replicasets", f"{CORE}/pods", f"{CORE}/secrets", f"{POLICY}/poddisruptionbudgets")
    assert world.deployments() == []
    world.until(lambda: not any(world.items(path) for path in owned))
    assert [one for one in world.items(f"{CORE}/configmaps") if one.get("immutable")] == []


def test_another_revision_is_another_fleet_with_settings_of_its_own(world: World) -> None:
    world.raised(world.spec(1))
    other = world.spec(1, fleet="f2", env={"GREETING": "good day"})
    world.raised(other)
    greetings = {one["data"]["GREETING"] for one in world.items(f"{CORE}/configmaps") if one.get("immutable")}
    assert greetings == {"hello", "good day"}
    world.gone("f2-1")
    assert [one["spec"]["template"]["metadata"]["labels"]["rebake.dev/fleet"] for one in world.deployments()] == ["f1"]


def test_a_stateful_fleet_has_pods_with_names_that_stay(world: World) -> None:
    world.wished["kind"] = "statefulset"
    world.raised(world.spec(1), world.spec(2), world.spec(3))
    (fleet,) = world.items(f"{APPS}/statefulsets")
    names = sorted(one["metadata"]["name"] for one in world.pods())
    assert names == [f"{fleet['metadata']['name']}-{n}" for n in range(3)]
    assert [one["spec"]["clusterIP"] for one in world.items(f"{CORE}/services")] == ["None"]
    first = world.pod_of("f1-1")["metadata"]["name"]
    world.gone("f1-1")
    kept = {world.pod_of(one)["metadata"]["uid"] for one in ("f1-2", "f1-3")}
    world.raised(world.spec(4))
    assert world.pod_of("f1-4")["metadata"]["name"] == first
    assert {world.pod_of(one)["metadata"]["uid"] for one in ("f1-2", "f1-3")} == kept
    for number in (2, 3, 4):
        world.gone(f"f1-{number}")
    assert world.items(f"{APPS}/statefulsets") == []


def test_a_fleet_begins_as_large_as_the_autoscaler_made_the_one_whose_users_it_is_to_take_over(world: World) -> None:
    world.wished["autoscale"] = {"max": 5}
    cpu = Resources(cpu_millis=500)
    world.raised(world.spec(1, resources=cpu))
    world.cluster.autoscale("default", world.deployments()[0]["metadata"]["name"], 4)
    world.until(lambda: len(world.pods()) == 4)
    world.raised(world.spec(1, fleet="f2", resources=cpu))
    assert [one["spec"]["replicas"] for one in world.deployments()] == [4, 4]
    scalers = world.items(f"{SCALING}/horizontalpodautoscalers")
    assert [one["spec"]["minReplicas"] for one in scalers] == [1, 1], "and may become smaller"
    world.cluster.autoscale("default", world.deployments()[1]["metadata"]["name"], 2)
    world.raised(world.spec(2, fleet="f2", resources=cpu))
    assert world.deployments()[1]["spec"]["replicas"] == 2, "only at its begin"


def test_an_autoscaler_keeps_its_number(world: World) -> None:
    world.wished["autoscale"] = {"max": 5}
    spec = replace(world.spec(1), run=replace(world.spec(1).run, resources=Resources(cpu_millis=500)))
    others = [replace(spec, id=f"f1-{n}") for n in (2, 3)]
    world.raised(spec, others[0])
    (deployment,), (scaler,) = world.deployments(), world.items(f"{SCALING}/horizontalpodautoscalers")
    name = deployment["metadata"]["name"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    assert scaler["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}
    world.cluster.autoscale("default", name, 4)
    world.until(lambda: sum(one["status"]["phase"] == "Running" for one in world.pods()) == 4)
    assert sorted(one.id for one in world.all()) == ["f1-1", "f1-2"]
    world.raised(others[1])
    assert world.deployments()[0]["spec"]["replicas"] == 4
    world.gone("f1-1")
    world.until(lambda: world.items(f"{SCALING}/horizontalpodautoscalers")[0]["spec"]["minReplicas"] == 2)
    assert world.deployments()[0]["spec"]["replicas"] == 4
    managers = {
        one["manager"]
        for one in world.deployments()[0]["metadata"]["managedFields"]
        if "f:replicas" in str(one["fieldsV1"].get("f:spec", {}))
    }
    assert managers == {"kube-controller-manager"}
    world.gone("f1-2")
    world.gone("f1-3")
    world.until(lambda: not world.deployments() and not world.items(f"{SCALING}/horizontalpodautoscalers"))
