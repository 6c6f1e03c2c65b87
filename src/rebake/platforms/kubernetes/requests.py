"""From a fleet as wished to the objects of the cluster: pure data, compared whole in tests.

Rules:
- What runs is the image by its digest. The template never changes: another revision is another fleet.
- Settings and secrets are an immutable ConfigMap and Secret of the fleet: going back to it brings them back.
- Pods pass the Pod Security profile `restricted`: no root, no capability, no new privileges, the runtime's seccomp
  profile; and their root is read-only. What can be written is in memory or on the node, empty in each pod.
- Before a pod is told to end it goes on serving for `PRESTOP_SECONDS`, until every balancer knows that it leaves. The
  kubelet itself sleeps, so that an image needs no shell. Then it has the contract's drain time.
- Pods of a fleet are spread over zones and nodes where that can be; a disruption takes one of them at a time.
- A fleet owns all that goes with it, so that the cluster clears up after it.

Source: Kubernetes, "Pod Security Standards", "Container Lifecycle Hooks", "Pod Topology Spread Constraints",
"Specifying a Disruption Budget", "HorizontalPodAutoscaler Walkthrough".
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rebake.core.units import FULL
from rebake.kubernetes.names import (
    FLEET,
    INSTANCE,
    PORT,
    REVISION,
    SERVING,
    USERS,
    fleet_labels,
    fleet_name,
    label_value,
)
from rebake.kubernetes.resources import (
    AUTOSCALERS,
    BUDGETS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    Json,
    Kind,
)
from rebake.kubernetes.settings import KubernetesSettings
from rebake.platforms.command import expand
from rebake.platforms.kubernetes.quantities import quantity
from rebake.platforms.kubernetes.records import (
    COMPLETE,
    OWNER,
    PLACES,
    RECORD,
    REQUEST,
    TOKEN,
    FleetRecord,
    FleetState,
    Place,
    places_text,
    record_text,
)
from rebake.platforms.model import InstanceSpec

INSIDE_PORT = 8080
"""What a container listens on where the file names no port."""
CONTAINER = "main"
SCRATCH, DATA = "/tmp", "/rebake/data"
NOBODY = 65532
PRESTOP_SECONDS = 5
_NODE, _ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
"""Labels of nodes. Source: Kubernetes, "Well-Known Labels"."""
_MARGIN_SECONDS = 5
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_GIVEN_COST = "1000"
"""Who shrinks a fleet takes pods that were given to nobody first."""


def kind_of(settings: KubernetesSettings) -> Kind:
    return STATEFUL_SETS if settings.kind == "statefulset" else DEPLOYMENTS


def record_for(spec: InstanceSpec, settings: KubernetesSettings, image: str, user: int) -> FleetRecord:
    """Args: user: whom the pods run as. spec: without its id."""
    prestop = PRESTOP_SECONDS if spec.run.health.path else 0
    return FleetRecord(spec, replace(settings, user=user), image, prestop)


def user_of(settings: KubernetesSettings, image_user: str) -> int:
    """Whom pods run as: the file's word, else the image's own user if that is a number and not root."""
    named = image_user.partition(":")[0]
    if settings.user is not None:
        return settings.user
    return int(named) if named.isdigit() and int(named) > 0 else NOBODY


def inside_port(spec: InstanceSpec) -> int:
    return spec.run.port or INSIDE_PORT


def name_of(record: FleetRecord) -> str:
    spec = record.spec
    return fleet_name(spec.service, spec.environment, spec.revision, spec.fleet)


def labels_of(record: FleetRecord) -> dict[str, str]:
    """What everything of the fleet bears."""
    spec = record.spec
    own = fleet_labels(spec.service, spec.environment, spec.fleet)
    return {**own, REVISION: label_value(spec.revision)}


def selector_of(record: FleetRecord) -> dict[str, str]:
    spec = record.spec
    return fleet_labels(spec.service, spec.environment, spec.fleet)


# --- the fleet itself ------------------------------------------------------------------------------------------------


def fleet_request(record: FleetRecord, places: Sequence[Place], token: int, owner: str = "") -> Json:
    """A new fleet, which has no pods before all that they need is there. Args: owner: whose token it is."""
    name, template = name_of(record), template_of(record)
    notes = {
        RECORD: record_text(record),
        REQUEST: json.dumps(template["spec"], separators=(",", ":"), sort_keys=True),
        PLACES: places_text(places),
        TOKEN: str(token),
        **({OWNER: owner} if owner else {}),
    }
    metadata = {"name": name, "labels": labels_of(record), "annotations": notes}
    spec: Json = {"replicas": 0, "selector": {"matchLabels": selector_of(record)}, "template": template}
    kind = kind_of(record.settings)
    if kind == STATEFUL_SETS:
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel", "updateStrategy": {"type": "OnDelete"}}
    else:
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        spec["revisionHistoryLimit"] = 1
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec}


def template_of(record: FleetRecord) -> Json:
    """The pods' template."""
    spec, settings = record.spec, record.settings
    labels = {**settings.labels, **labels_of(record), SERVING: "true", USERS: label_value(spec.fleet)}
    return {"metadata": {"labels": labels}, "spec": _pod(spec, settings, record)}


def _pod(spec: InstanceSpec, settings: KubernetesSettings, record: FleetRecord) -> Json:
    grace = record.prestop + math.ceil(spec.run.drain_ms / 1000) + _MARGIN_SECONDS
    folders = (SCRATCH, DATA, *settings.writable)
    pod: Json = {
        "automountServiceAccountToken": settings.service_account is not None,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.user,
            "fsGroup": settings.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_spread(record),
        "containers": [_container(spec, record, folders)],
        "volumes": [
            {"name": f"writable-{n}", "emptyDir": {"sizeLimit": quantity(settings.scratch_bytes * 1000)}}
            for n in range(len(folders))
        ],
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.pull_secret:
        pod["imagePullSecrets"] = [{"name": settings.pull_secret}]
    return pod


def _spread(record: FleetRecord) -> Json:
    """Over nodes, and over zones where nodes have one.

    Not by two constraints: of a pod that has several the scheduler scores only nodes that have each one's label, so
    where no node has a zone nothing would be spread. Source: Kubernetes, scheduler's plugin PodTopologySpread.
    """
    chosen = {"matchLabels": selector_of(record)}
    by_node = {"maxSkew": 1, "topologyKey": _NODE, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": chosen}
    apart = {"weight": 100, "podAffinityTerm": {"topologyKey": _ZONE, "labelSelector": chosen}}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}
    return {"topologySpreadConstraints": [by_node], "affinity": {"podAntiAffinity": preferred}}


def _container(spec: InstanceSpec, record: FleetRecord, folders: Sequence[str]) -> Json:
    name, called = name_of(record), bool(spec.run.health.path)
    sources: list[Json] = [{"configMapRef": {"name": name}}]
    if spec.secrets:
        sources.append({"secretRef": {"name": name}})
    container: Json = {
        "name": CONTAINER,
        "image": record.image,
        "imagePullPolicy": "IfNotPresent",
        "envFrom": sources,
        "env": [{"name": "REBAKE_INSTANCE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": f"writable-{n}", "mountPath": folder} for n, folder in enumerate(folders)],
    }
    if spec.run.command:
        container["command"] = inside(spec, spec.run.command)
    if called:
        container["ports"] = [{"name": PORT, "containerPort": inside_port(spec)}]
    if limits := _limits(spec):
        container["resources"] = {"limits": limits, "requests": limits}
    if probe := _probe(spec):
        container["readinessProbe"] = probe
    if record.prestop:
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": record.prestop}}}
    return container


def inside(spec: InstanceSpec, command: Sequence[str]) -> list[str]:
    """A command with what is expanded in it; what the kubelet would expand is shielded from it."""
    values = settings_of(spec)
    names = {name: values[name] for name in ("PORT", "HOST", "TMPDIR", "REBAKE_DATA", *spec.run.env)}
    return [word.replace("$(", "$$(") for word in expand(command, names)]


def _limits(spec: InstanceSpec) -> dict[str, str]:
    found = {}
    if spec.run.resources.cpu_millis is not None:
        found["cpu"] = quantity(spec.run.resources.cpu_millis)
    if spec.run.resources.memory_bytes is not None:
        found["memory"] = quantity(spec.run.resources.memory_bytes * 1000)
    return found


def _probe(spec: InstanceSpec) -> Json | None:
    """The kubelet asks; it counts whole seconds. Without path and command who stays up is well."""
    health = spec.run.health
    if not health.path and not health.command:
        return None
    asked: Json = {"exec": {"command": inside(spec, health.command)}}
    if health.path:
        asked = {"httpGet": {"path": health.path, "port": PORT}}
    return {
        **asked,
        "periodSeconds": max(1, round(health.interval_ms / 1000)),
        "timeoutSeconds": max(1, math.ceil(health.timeout_ms / 1000)),
        "successThreshold": health.healthy_after,
        "failureThreshold": health.unhealthy_after,
    }


# --- what goes with it -----------------------------------------------------------------------------------------------


def settings_of(spec: InstanceSpec) -> dict[str, str]:
    """What is added to the image's own environment, without secrets."""
    own = {
        "PORT": str(inside_port(spec)),
        "HOST": "0.0.0.0",
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "REBAKE_SERVICE": spec.service,
        "REBAKE_ENVIRONMENT": spec.environment,
        "REBAKE_REVISION": spec.revision,
        "REBAKE_DATA": DATA,
    }
    return {**spec.run.env, **own}


def companions(fleet: FleetState, values: Mapping[str, str]) -> list[tuple[Kind, Json]]:
    """What a fleet's pods need, in the order in which it is made.

    Args:
        values: of the secrets, by name.
    """
    record = fleet.record
    made: list[tuple[Kind, Json]] = [(CONFIG_MAPS, {"immutable": True, "data": settings_of(record.spec)})]
    if values:
        data = {
            name: base64.b64encode(text.encode("utf-8", "surrogateescape")).decode() for name, text in values.items()
        }
        made.append((SECRETS, {"type": "Opaque", "immutable": True, "data": data}))
    if fleet.kind == STATEFUL_SETS:
        named: Json = {"clusterIP": "None", "selector": selector_of(record), "publishNotReadyAddresses": True}
        port = {"name": PORT, "port": inside_port(record.spec), "targetPort": inside_port(record.spec)}
        made.append((SERVICES, {"spec": {**named, "ports": [{**port, "protocol": "TCP"}]}}))
    budget = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector_of(record)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    made.append((BUDGETS, {"spec": budget}))
    return [(kind, {**_head(kind, fleet), **body}) for kind, body in made]


def autoscaler(fleet: FleetState, least: int) -> Json:
    """Grows the fleet with its load; never below its instances."""
    wished = fleet.record.settings.autoscale
    assert wished is not None
    target = {"type": "Utilization", "averageUtilization": max(1, round(wished.cpu_basis_points * 100 / FULL))}
    spec = {
        "scaleTargetRef": {"apiVersion": fleet.kind.api_version, "kind": fleet.kind.name, "name": fleet.name},
        "minReplicas": least,
        "maxReplicas": max(wished.max, least),
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    return {**_head(AUTOSCALERS, fleet), "spec": spec}


def _head(kind: Kind, fleet: FleetState) -> Json:
    owner = {"apiVersion": fleet.kind.api_version, "kind": fleet.kind.name, "name": fleet.name, "uid": fleet.uid}
    metadata = {"name": fleet.name, "labels": labels_of(fleet.record), "ownerReferences": [owner]}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}


# --- changes ---------------------------------------------------------------------------------------------------------


def change(fleet: FleetState, places: Sequence[Place], *, token: int, replicas: int | None, **notes: str) -> Json:
    """A merge patch of places, size and notes; refused if the fleet is another one by now."""
    annotations = {PLACES: places_text(places), TOKEN: str(max(token, fleet.token)), **notes}
    body: Json = {"metadata": {"resourceVersion": fleet.version, "annotations": annotations}}
    if replicas is not None:
        body["spec"] = {"replicas": replicas}
    return body


def completed(fleet: FleetState, replicas: int, **notes: str) -> Json:
    """The patch that lets a fleet's pods be raised."""
    annotations = {COMPLETE: "true", **notes}
    metadata = {"resourceVersion": fleet.version, "annotations": annotations}
    return {"metadata": metadata, "spec": {"replicas": replicas}}


def given(instance: str) -> Json:
    """The patch by which a pod says whose it is."""
    return {
        "metadata": {"labels": {INSTANCE: label_value(instance)}, "annotations": {DELETION_COST: _GIVEN_COST}},
    }


def restored(fleet: FleetState, template: Mapping[str, Any]) -> Json:
    """The template as it was asked for, to be applied over what somebody made of it."""
    head = {"apiVersion": fleet.kind.api_version, "kind": fleet.kind.name}
    metadata = {"name": fleet.name, "resourceVersion": fleet.version}
    spec = {"selector": {"matchLabels": selector_of(fleet.record)}, "template": dict(template)}
    return {**head, "metadata": metadata, "spec": spec}


def is_ours(pod: Json, record: FleetRecord) -> bool:
    """Whether a pod bears the fleet's label."""
    return (pod["metadata"].get("labels") or {}).get(FLEET) == label_value(record.spec.fleet)
