"""EndpointSlices behind Services, and what disruption budgets allow.

Source: Kubernetes, "EndpointSlices" (conditions), "Specifying a Disruption Budget"; `pkg/controller/disruption`.
"""

from __future__ import annotations

import copy

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.deployments import of
from rebake.testing.kubernetes.controllers.world import World, owner_reference, with_condition
from rebake.testing.kubernetes.selectors import from_object
from rebake.testing.kubernetes.special import is_ready
from rebake.testing.kubernetes.status import Json

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY, SLICE_CONTROLLER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"


class EndpointSlices:
    """One slice for each Service with a selector, with the Service's labels; real ones are split at a hundred
    endpoints.

    Source: Kubernetes, `pkg/controller/endpointslice/reconciler.go`, `setEndpointSliceLabels`.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        for one in self._world.store.all(kinds.SERVICES):
            if one["spec"].get("selector") and "deletionTimestamp" not in one["metadata"]:
                self._one(one)

    def _one(self, service: Json) -> None:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        pods = [
            one
            for one in self._world.store.labelled(kinds.PODS, namespace, service["spec"]["selector"])
            if one.get("status", {}).get("podIP") and one["status"]["phase"] not in {"Succeeded", "Failed"}
        ]
        wish = {"endpoints": [_endpoint(service, one) for one in pods], "ports": _ports(service, pods)}
        held = next(iter(self._world.owned(kinds.ENDPOINT_SLICES, service)), None)
        labels = {**service["metadata"].get("labels", {}), SERVICE_NAME: name, MANAGED_BY: SLICE_CONTROLLER}
        if held is None:
            metadata = {"generateName": f"{name}-", "labels": labels, "ownerReferences": [owner_reference(service)]}
            item = {"metadata": metadata, "addressType": "IPv4", **wish}
            self._world.create(kinds.ENDPOINT_SLICES, namespace, item)
        elif {one: held.get(one) for one in wish} != wish or held["metadata"]["labels"] != labels:
            changed = {**copy.deepcopy(held), **wish}
            changed["metadata"]["labels"] = labels
            self._world.update(kinds.ENDPOINT_SLICES, changed)


def _endpoint(service: Json, pod: Json) -> Json:
    ending, serving = "deletionTimestamp" in pod["metadata"], is_ready(pod)
    ready = (serving and not ending) or bool(service["spec"].get("publishNotReadyAddresses"))
    target = {"kind": "Pod", **{one: pod["metadata"][one] for one in ("namespace", "name", "uid")}}
    conditions = {"ready": ready, "serving": serving, "terminating": ending}
    where = {"addresses": [pod["status"]["podIP"]], "conditions": conditions, "targetRef": target}
    return {**where, "nodeName": pod["spec"]["nodeName"]}


def _ports(service: Json, pods: list[Json]) -> list[Json]:
    """The ports on the pods; one that is named is looked up in the first pod."""
    rows = []
    for port in service["spec"].get("ports", ()):
        target = port["targetPort"]
        if isinstance(target, str):
            named = [
                held["containerPort"]
                for pod in pods[:1]
                for container in pod["spec"]["containers"]
                for held in container.get("ports", ())
                if held.get("name") == target
            ]
            if not named:
                continue
            target = named[0]
        rows.append({"name": port.get("name", ""), "port": target, "protocol": port["protocol"]})
    return rows


class Budgets:
    """Writes how many pods each PodDisruptionBudget lets go."""

    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        for one in self._world.store.all(kinds.BUDGETS):
            self._one(one)

    def _one(self, item: Json) -> None:
        spec, namespace = item.get("spec", {}), item["metadata"]["namespace"]
        matches = from_object(spec.get("selector"))
        fitting = self._world.store.labelled(
            kinds.PODS, namespace, (spec.get("selector") or {}).get("matchLabels") or {}
        )
        pods = [one for one in fitting if matches(one["metadata"].get("labels", {}))]
        expected = self._expected(pods)
        if "maxUnavailable" in spec:
            desired = max(0, expected - of(spec["maxUnavailable"], expected, up=True))
        else:
            desired = of(spec.get("minAvailable", 1), expected, up=True)
        disrupted = {
            name: at
            for name, at in item.get("status", {}).get("disruptedPods", {}).items()
            if any(one["metadata"]["name"] == name and "deletionTimestamp" not in one["metadata"] for one in pods)
        }
        healthy = sum(
            is_ready(one) and "deletionTimestamp" not in one["metadata"] and one["metadata"]["name"] not in disrupted
            for one in pods
        )
        allowed = max(0, healthy - desired) if expected else 0
        reason = "SufficientPods" if allowed else "InsufficientPods"
        conditions = with_condition(
            item.get("status", {}).get("conditions", []),
            "DisruptionAllowed",
            ("True" if allowed else "False", reason, ""),
            self._world.writer.time(),
            observedGeneration=item["metadata"]["generation"],
        )
        status: Json = {"currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected}
        status |= {"disruptionsAllowed": allowed, "observedGeneration": item["metadata"]["generation"]}
        status["conditions"] = [{"message": "", **one} for one in conditions]
        if disrupted:
            status["disruptedPods"] = disrupted
        self._world.put_status(kinds.BUDGETS, item, status)

    def _expected(self, pods: list[Json]) -> int:
        """What the pods' owners wish for; a pod without one counts for itself."""
        wished: dict[str, int] = {}
        for pod in pods:
            owners = [one for one in pod["metadata"].get("ownerReferences", ()) if one.get("controller")]
            for owner in owners:
                resource = {"ReplicaSet": kinds.REPLICASETS, "StatefulSet": kinds.STATEFULSETS}.get(owner["kind"])
                held = (
                    self._world.store.get(resource, pod["metadata"]["namespace"], owner["name"]) if resource else None
                )
                wished[owner["uid"]] = held["spec"]["replicas"] if held else 1
            if not owners:
                wished[pod["metadata"]["uid"]] = 1
        return sum(wished.values())
