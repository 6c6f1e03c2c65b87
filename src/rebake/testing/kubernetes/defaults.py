"""What a real API server fills in where a built-in object says nothing.

Source: Kubernetes 1.36, `pkg/apis/core/v1/defaults.go`, `pkg/apis/apps/v1/defaults.go`, `pkg/apis/autoscaling/v2`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.decode import fill_in
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.schema import named
from rebake.testing.kubernetes.status import Json


def set_defaults(resource: Resource, item: Json) -> None:
    """In place."""
    if resource.custom:
        fill_in(named(resource.definition), item)
    elif resource in _BY_RESOURCE:
        _BY_RESOURCE[resource](item)


def _fill(item: Json, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        item.setdefault(name, value)


def _probe(probe: Json) -> None:
    _fill(probe, {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    if "httpGet" in probe:
        _fill(probe["httpGet"], {"path": "/", "scheme": "HTTP"})


def _container(container: Json) -> None:
    image = container.get("image", "")
    tagged = "@" in image or ":" in image.rsplit("/", 1)[-1]
    latest = image.endswith(":latest") or not tagged
    _fill(container, {"imagePullPolicy": "Always" if latest else "IfNotPresent", "resources": {}})
    _fill(container, {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            _probe(container[probe])
    for hook in container.get("lifecycle", {}).values():
        if "httpGet" in hook:
            _fill(hook["httpGet"], {"path": "/", "scheme": "HTTP"})
    for one in container.get("env", ()):
        if "fieldRef" in one.get("valueFrom", {}):
            one["valueFrom"]["fieldRef"].setdefault("apiVersion", "v1")


def pod_spec(spec: Json) -> None:
    """Of a pod or of a template."""
    _fill(spec, {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"})
    _fill(spec, {"securityContext": {}, "schedulerName": "default-scheduler"})
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        _container(container)
    for volume in spec.get("volumes", ()):
        for source in ("configMap", "secret", "downwardAPI", "projected"):
            if source in volume:
                volume[source].setdefault("defaultMode", 420)
        if len(volume) == 1:
            volume["emptyDir"] = {}


def _template(template: Json) -> None:
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))


def _pod(item: Json) -> None:
    spec = item.setdefault("spec", {})
    pod_spec(spec)
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        if limits := container["resources"].get("limits"):  # of pods only: a template stays as it was written
            _fill(container["resources"].setdefault("requests", {}), limits)
    _fill(spec, {"enableServiceLinks": True, "serviceAccountName": "default", "serviceAccount": "default"})
    _fill(spec, {"preemptionPolicy": "PreemptLowerPriority", "priority": 0})
    item.setdefault("status", {}).setdefault("phase", "Pending")


def _deployment(item: Json) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy.setdefault("rollingUpdate", {}), {"maxSurge": "25%", "maxUnavailable": "25%"})
    _template(spec.setdefault("template", {}))


def _replica_set(item: Json) -> None:
    spec = item.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _template(spec.setdefault("template", {}))


def _stateful_set(item: Json) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady"})
    _fill(spec, {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}})
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy.setdefault("rollingUpdate", {}), {"partition": 0})
    _template(spec.setdefault("template", {}))


def _service(item: Json) -> None:
    spec = item.setdefault("spec", {})
    _fill(spec, {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"})
    _fill(spec, {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
    for port in spec.get("ports", ()):
        _fill(port, {"protocol": "TCP", "targetPort": port.get("port")})


def _secret(item: Json) -> None:
    item.setdefault("type", "Opaque")
    for name, text in item.pop("stringData", {}).items():
        item.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _autoscaler(item: Json) -> None:
    item.setdefault("spec", {}).setdefault("minReplicas", 1)


def _namespace(item: Json) -> None:
    item.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    item.setdefault("status", {}).setdefault("phase", "Active")
    item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = item["metadata"].get("name", "")


def _binding(item: Json) -> None:
    for subject in item.get("subjects", ()):
        group = "" if subject.get("kind") == "ServiceAccount" else "rbac.authorization.k8s.io"
        subject.setdefault("apiGroup", group)
        if not subject["apiGroup"]:
            del subject["apiGroup"]


_BY_RESOURCE: Mapping[Resource, Callable[[Json], None]] = {
    kinds.PODS: _pod,
    kinds.DEPLOYMENTS: _deployment,
    kinds.REPLICASETS: _replica_set,
    kinds.STATEFULSETS: _stateful_set,
    kinds.SERVICES: _service,
    kinds.SECRETS: _secret,
    kinds.AUTOSCALERS: _autoscaler,
    kinds.NAMESPACES: _namespace,
    kinds.ROLE_BINDINGS: _binding,
    kinds.CLUSTER_ROLE_BINDINGS: _binding,
}
