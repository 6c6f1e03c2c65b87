"""ReplicaSets: as many pods as are wished for.

Source: Kubernetes, "ReplicaSet"; `pkg/controller/replicaset`.
"""

from __future__ import annotations

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.pods import count, delete_pod, expendable_first, is_active, make_pod
from rebake.testing.kubernetes.controllers.world import World, with_condition
from rebake.testing.kubernetes.status import Json


class ReplicaSets:
    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        for one in self._world.store.all(kinds.REPLICASETS):
            self._one(one)

    def _one(self, item: Json) -> None:
        pods = [pod for pod in self._world.owned(kinds.PODS, item) if is_active(pod)]
        why = "" if "deletionTimestamp" in item["metadata"] else self._scale(item, pods)
        self._report(item, [pod for pod in self._world.owned(kinds.PODS, item) if is_active(pod)], why)

    def _scale(self, item: Json, pods: list[Json]) -> str:
        wished = item["spec"]["replicas"]
        for _ in range(wished - len(pods)):
            if why := make_pod(self._world, item):
                return why
        for pod in sorted(pods, key=expendable_first)[: max(0, len(pods) - wished)]:
            delete_pod(self._world, item, pod)
        return ""

    def _report(self, item: Json, pods: list[Json], why: str) -> None:
        found = count(self._world, pods, item["spec"].get("minReadySeconds", 0))
        status: Json = {"replicas": found.replicas, "observedGeneration": item["metadata"]["generation"]}
        numbers = {"fullyLabeledReplicas": found.replicas, "readyReplicas": found.ready}
        numbers["availableReplicas"] = found.available
        status |= {name: number for name, number in numbers.items() if number}
        conditions = item.get("status", {}).get("conditions", [])
        if why:
            said = ("True", "FailedCreate", why)
            conditions = with_condition(conditions, "ReplicaFailure", said, self._world.writer.time())
        elif found.replicas >= item["spec"]["replicas"]:
            conditions = [one for one in conditions if one["type"] != "ReplicaFailure"]
        if conditions:
            status["conditions"] = conditions
        self._world.put_status(kinds.REPLICASETS, item, status)
