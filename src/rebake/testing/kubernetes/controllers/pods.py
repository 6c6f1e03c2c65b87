"""Pods of a workload: made from its template, counted, and which of them go first."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.world import World, condition, owner_reference, seconds
from rebake.testing.kubernetes.special import is_ready
from rebake.testing.kubernetes.status import ApiError, Json

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Json) -> str:
    """Ten letters that name a template."""
    number = int(hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest(), 16)
    found = ""
    for _ in range(10):
        number, rest = divmod(number, len(_LETTERS))
        found += _LETTERS[rest]
    return found


def is_active(pod: Json) -> bool:
    """Neither ended nor on its way out."""
    phase = pod.get("status", {}).get("phase")
    return "deletionTimestamp" not in pod["metadata"] and phase not in {"Succeeded", "Failed"}


@dataclass(frozen=True, slots=True)
class Count:
    """Active pods of a workload."""

    replicas: int
    ready: int
    available: int


def count(world: World, pods: list[Json], min_ready_seconds: int) -> Count:
    """Available is what has been ready for long enough; when more will be is noted."""
    ready = [one for one in pods if is_ready(one)]
    available = 0
    for pod in ready:
        since = seconds((condition(pod, "Ready") or {})["lastTransitionTime"])
        if since + min_ready_seconds <= world.now():
            available += 1
        else:
            world.wake(since + min_ready_seconds)
    return Count(len(pods), len(ready), available)


def make_pod(world: World, owner: Json, name: str = "", labels: Json | None = None, spec: Json | None = None) -> str:
    """A pod from a workload's template; says why if it is refused, after telling it in an event."""
    template = copy.deepcopy(owner["spec"]["template"])
    metadata = {
        "labels": {**template["metadata"].get("labels", {}), **(labels or {})},
        "annotations": template["metadata"].get("annotations", {}),
        "ownerReferences": [owner_reference(owner)],
    }
    metadata |= {"name": name} if name else {"generateName": f"{owner['metadata']['name']}-"}
    pod = {"metadata": metadata, "spec": {**template["spec"], **(spec or {})}}
    try:
        made = world.create(kinds.PODS, owner["metadata"]["namespace"], pod)
    except ApiError as error:
        world.event(owner, "FailedCreate", f"Error creating: {error}", warning=True)
        return str(error)
    world.event(owner, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
    return ""


def delete_pod(world: World, owner: Json, pod: Json) -> None:
    world.delete(kinds.PODS, pod)
    world.event(owner, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")


def expendable_first(pod: Json) -> tuple[bool, bool, float]:
    """Order in which pods are given up: unscheduled, then not ready, then the youngest."""
    return (
        bool(pod["spec"].get("nodeName")),
        is_ready(pod),
        -seconds(pod["metadata"]["creationTimestamp"]),
    )
