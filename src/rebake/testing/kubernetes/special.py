"""What is below an object's path: scale, eviction, logs.

Source: Kubernetes, "API-initiated Eviction"; `pkg/registry/core/pod/storage/eviction.go`, `…/pod/strategy.go`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.deletion import Deleter, Deletion
from rebake.testing.kubernetes.patches import JSON_PATCH, MERGE_PATCH, json_patch, merge_patch
from rebake.testing.kubernetes.reader import Query
from rebake.testing.kubernetes.selectors import from_object
from rebake.testing.kubernetes.status import (
    ApiError,
    Json,
    bad_request,
    conflict,
    invalid,
    invalid_kind,
    too_many_requests,
    unsupported_media_type,
)
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Options, Place
from rebake.testing.kubernetes.writer import Writer

_BROKEN_BUDGET = "Cannot evict pod as it would violate the pod's disruption budget."


def scale_of(item: Json) -> Json:
    """An object's `Scale`."""
    metadata = {
        name: item["metadata"][name]
        for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if name in item["metadata"]
    }
    labels = item["spec"]["selector"].get("matchLabels", {})
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    status = {"replicas": item.get("status", {}).get("replicas", 0), "selector": selector}
    head = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata}
    return {**head, "spec": {"replicas": item["spec"]["replicas"]}, "status": status}


def change_scale(writer: Writer, at: Place, body: Any, media: str, options: Options) -> Json:
    """Put or patch an object's `Scale`; the number is then managed by whoever did. Raises: ApiError."""
    item = writer.current(at)
    before, wish = scale_of(item), body
    if media:
        if media == JSON_PATCH:
            wish = json_patch(before, body)
        elif media == MERGE_PATCH:
            wish = merge_patch(before, body)
        else:
            raise unsupported_media_type()
    version = wish.get("metadata", {}).get("resourceVersion")
    name = item["metadata"]["name"]
    if version not in {None, "", item["metadata"]["resourceVersion"]}:
        raise conflict(at.resource, name)
    replicas = wish.get("spec", {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        causes = [invalid("spec.replicas", replicas, "must be greater than or equal to 0")]
        raise invalid_kind("autoscaling", "Scale", name, causes)
    after = copy.deepcopy(item)
    after["spec"]["replicas"] = replicas
    return scale_of(writer.update(at, after, options).item)


def evict(store: Store, writer: Writer, deleter: Deleter, at: Place, body: Json) -> Json:
    """Delete a pod, unless its disruption budget is used up. Raises: ApiError 404, 429, 500."""
    options = dict(body.get("deleteOptions") or {})
    how = Deletion.read(options, {})
    with store.changed:
        pod = writer.current(at)
        phase = pod.get("status", {}).get("phase")
        exempt = phase in {"Succeeded", "Failed", "Pending"} or "deletionTimestamp" in pod["metadata"]
        budget = None if exempt else _budget(store, pod)
        if budget is not None:
            _take_one(writer, pod, budget, dry_run=how.dry_run)
        deleter.delete(kinds.PODS, at.namespace, at.name, how)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _budget(store: Store, pod: Json) -> Json | None:
    labels = pod["metadata"].get("labels", {})
    found = [
        one
        for one in store.all(kinds.BUDGETS, pod["metadata"]["namespace"])
        if one.get("spec", {}).get("selector") and from_object(one["spec"]["selector"])(labels)
    ]
    if len(found) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise ApiError(500, "", message)
    return found[0] if found else None


def is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _take_one(writer: Writer, pod: Json, budget: Json, *, dry_run: bool) -> None:
    name, status = budget["metadata"]["name"], budget.get("status", {})
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not is_ready(pod) and healthy >= desired > 0:
        return
    if status.get("observedGeneration", 0) < budget["metadata"]["generation"]:
        text = f"The disruption budget {name} is still being processed by the server."
        raise too_many_requests(_BROKEN_BUDGET, 10, [{"reason": "DisruptionBudget", "message": text}])
    if status.get("disruptionsAllowed", 0) <= 0:
        text = f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        raise too_many_requests(_BROKEN_BUDGET, 0, [{"reason": "DisruptionBudget", "message": text}])
    after = copy.deepcopy(budget)
    after["status"]["disruptionsAllowed"] -= 1
    after["status"].setdefault("disruptedPods", {})[pod["metadata"]["name"]] = writer.time()
    options = Options("kube-apiserver", dry_run=dry_run, system=True)
    writer.update(Place(kinds.BUDGETS, budget["metadata"]["namespace"], name, "status"), after, options)


@dataclass(slots=True)
class ContainerLog:
    """Attributes: lines: of the container that runs. previous: of the one before; None if there was none."""

    lines: list[str] = field(default_factory=list)
    previous: list[str] | None = None


Logs = dict[tuple[str, str], ContainerLog]
"""By a pod's uid and a container's name."""


def read_log(pod: Json, logs: Logs, query: Query) -> str:
    """What `GET …/log` answers. Raises: ApiError 400."""
    name, names = pod["metadata"]["name"], [one["name"] for one in pod["spec"]["containers"]]
    container = query.get("container", "")
    if not container and len(names) > 1:
        said = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
        raise bad_request(said)
    container = container or names[0]
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {name}")
    found = logs.get((pod["metadata"]["uid"], container))
    if query.get("previous") in {"true", "1"}:
        if found is None or found.previous is None:
            raise bad_request(f'previous terminated container "{container}" in pod "{name}" not found')
        lines = found.previous
    elif found is None:
        raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {_waits_for(pod, container)}')
    else:
        lines = found.lines
    if (tail := _number(query, "tailLines")) is not None:
        lines = lines[len(lines) - min(tail, len(lines)) :]
    return "".join(f"{line}\n" for line in lines)[: _number(query, "limitBytes")]


def _number(query: Query, name: str) -> int | None:
    text = query.get(name)
    if text is not None and not text.isdigit():
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return None if text is None else int(text)


def _waits_for(pod: Json, container: str) -> str:
    for one in pod.get("status", {}).get("containerStatuses", ()):
        if one["name"] == container and (waiting := one.get("state", {}).get("waiting")):
            reason = str(waiting.get("reason", ""))
            images = {"ImagePullBackOff": "trying and failing to pull image", "ErrImagePull": "image can't be pulled"}
            return images.get(reason, reason)
    return "ContainerCreating" if pod["spec"].get("nodeName") else f"no container of it is there: {_phase(pod)}"


def _phase(pod: Json) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))
