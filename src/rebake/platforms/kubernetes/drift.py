"""Differences between what runs and what was asked for: pure comparison of what was read.

Rules:
- What was asked for is the measure; a field it does not name is the cluster's (defaults, what admission adds).
- Containers beside ours are the cluster's (a service mesh adds its own to every pod as it is made). An ephemeral one is
  somebody's session: it can only be added to a pod that runs.
- Values of secrets are never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rebake.kubernetes.names import INSTANCE, SERVING
from rebake.kubernetes.resources import Json
from rebake.platforms.kubernetes.fleets import holds
from rebake.platforms.kubernetes.reasons import main_status
from rebake.platforms.kubernetes.records import FleetState
from rebake.platforms.kubernetes.requests import CONTAINER, labels_of, settings_of
from rebake.platforms.model import Drift, DriftKind

_KINDS: Mapping[str, DriftKind] = {
    "command": "command",
    "args": "command",
    "env": "environment",
    "envFrom": "environment",
    "resources": "limits",
    "volumeMounts": "mounts",
    "ports": "network",
}


def pod_drift(instance: str, fleet: FleetState, pod: Json, asked: Mapping[str, Any]) -> Iterator[Drift]:
    """Image, command, environment, limits, safety, mounts and sessions of one pod.

    Args:
        asked: the pod's spec as it was asked for.
    """
    wanted, found = asked["containers"][0], _container(pod)
    if found is None:
        yield Drift("configuration", f"{instance}: containers", CONTAINER, "none of that name")
        return
    yield from _image(instance, fleet, pod, found)
    for field, value in wanted.items():
        if field not in ("name", "image") and not _same(field, found.get(field), value):
            yield Drift(
                _KINDS.get(field, "configuration"), f"{instance}: {field}", _shown(value), _shown(found.get(field))
            )
    for field, value in asked.items():
        if field not in ("containers", "volumes") and not holds(pod["spec"].get(field), value):
            yield Drift("configuration", f"{instance}: {field}", _shown(value), _shown(pod["spec"].get(field)))
    for one in pod["spec"].get("ephemeralContainers") or ():
        yield Drift("session", f"{instance}: ephemeral container {one['name']}", "", _shown(one.get("image", "")))
    labels = pod["metadata"].get("labels") or {}
    for name, value in labels_of(fleet.record).items():
        if labels.get(name) != value and name not in (INSTANCE, SERVING):
            yield Drift("configuration", f"{instance}: label {name}", value, labels.get(name, ""))


def _container(pod: Json) -> Json | None:
    return next((one for one in pod["spec"]["containers"] if one["name"] == CONTAINER), None)


def _image(instance: str, fleet: FleetState, pod: Json, container: Json) -> Iterator[Drift]:
    """What the pod names, and what its node says that it runs."""
    wanted = fleet.record.image
    if container.get("image") != wanted:
        yield Drift("image", instance, wanted, str(container.get("image")))
        return
    running = str(main_status(pod).get("imageID") or "")
    digest = running.rpartition("@")[2] if "@" in running else ""
    if digest and digest != wanted.rpartition("@")[2]:
        yield Drift("image", f"{instance}: as its node says", wanted.rpartition("@")[2], digest)


def _same(field: str, found: object, wanted: object) -> bool:
    """Lists that admission may lengthen (mounts, variables) must hold what was asked for, by name."""
    if field in ("env", "volumeMounts", "envFrom") and isinstance(wanted, list) and isinstance(found, list):
        return all(any(holds(one, each) for one in found) for each in wanted)
    return holds(found, wanted)


def _shown(value: object) -> str:
    return str(value)[:200] if value not in (None, [], {}) else ""


def settings_drift(fleet: FleetState, found: Json | None) -> Iterator[Drift]:
    """The fleet's ConfigMap. Args: found: as it is; None where it is gone."""
    where = f"ConfigMap {fleet.name}"
    if found is None:
        yield Drift("environment", where, "there", "")
        return
    wanted, data = settings_of(fleet.record.spec), found.get("data") or {}
    for name in sorted(wanted.keys() | data.keys()):
        if wanted.get(name) != data.get(name):
            yield Drift("environment", f"{where}: {name}", wanted.get(name, ""), data.get(name, ""))


def secrets_drift(fleet: FleetState, found: Json | None, wanted: Mapping[str, str]) -> Iterator[Drift]:
    """The fleet's Secret. Args: wanted: as it would be made, encoded."""
    where = f"Secret {fleet.name}"
    if found is None:
        yield Drift("environment", where, "there", "")
        return
    data = found.get("data") or {}
    for name in sorted(wanted.keys() | data.keys()):
        if wanted.get(name) != data.get(name):
            yield Drift("environment", f"{where}: {name}", "the value of this revision", "another one")


def object_drift(fleet: FleetState, asked: Mapping[str, Any]) -> Iterator[Drift]:
    """The template that new pods are made from."""
    if not holds(fleet.item["spec"]["template"]["spec"], asked):
        yield Drift("configuration", f"{fleet.kind.name} {fleet.name}: template", "as it was released", "another one")
