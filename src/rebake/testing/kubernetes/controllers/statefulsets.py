"""StatefulSets: pods with names of their own, one after the other.

Source: Kubernetes, "StatefulSets" (ordered and parallel management, rolling updates with a partition).
"""

from __future__ import annotations

import copy

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.pods import count, delete_pod, make_pod, template_hash
from rebake.testing.kubernetes.controllers.world import World
from rebake.testing.kubernetes.special import is_ready
from rebake.testing.kubernetes.status import Json

REVISION = "controller-revision-hash"


class StatefulSets:
    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        for one in self._world.store.all(kinds.STATEFULSETS):
            if "deletionTimestamp" not in one["metadata"] and self._scale(one):
                self._update(one)
            self._report(one)

    def _pods(self, item: Json) -> dict[int, Json]:
        """By ordinal."""
        return {int(one["metadata"]["name"].rsplit("-", 1)[1]): one for one in self._world.owned(kinds.PODS, item)}

    @staticmethod
    def _revision(item: Json) -> str:
        return f"{item['metadata']['name']}-{template_hash(item['spec']['template'])}"

    def _scale(self, item: Json) -> bool:
        """One step towards the wished pods; whether updates may go on.

        In order, everything waits for a pod that is not well, a repaired template too: a real controller does not
        replace it by itself either ("Forced rollback" in the manual).
        """
        pods, wished = self._pods(item), item["spec"]["replicas"]
        ordered = item["spec"]["podManagementPolicy"] == "OrderedReady"
        for ordinal in range(wished):
            pod = pods.get(ordinal)
            if pod is None and self._make(item, ordinal):
                return False
            if ordered and (pod is None or "deletionTimestamp" in pod["metadata"] or not is_ready(pod)):
                return False
        for ordinal in sorted((one for one in pods if one >= wished), reverse=True):
            if "deletionTimestamp" not in pods[ordinal]["metadata"]:
                delete_pod(self._world, item, pods[ordinal])
            if ordered:
                return False
        return True

    def _make(self, item: Json, ordinal: int) -> str:
        name = f"{item['metadata']['name']}-{ordinal}"
        partition = item["spec"]["updateStrategy"].get("rollingUpdate", {}).get("partition", 0)
        before = item.get("status", {}).get("currentRevision")
        revision = self._revision(item) if ordinal >= partition or before is None else before
        labels = {REVISION: revision, "statefulset.kubernetes.io/pod-name": name}
        labels["apps.kubernetes.io/pod-index"] = str(ordinal)
        spec = {"hostname": name}
        if "serviceName" in item["spec"]:
            spec["subdomain"] = item["spec"]["serviceName"]
        return make_pod(self._world, item, name, labels, spec)

    def _update(self, item: Json) -> None:
        """From the highest ordinal down, one at a time, and only while all are well."""
        if item["spec"]["updateStrategy"]["type"] != "RollingUpdate":
            return
        pods, wanted = self._pods(item), self._revision(item)
        partition = item["spec"]["updateStrategy"].get("rollingUpdate", {}).get("partition", 0)
        for ordinal in sorted(pods, reverse=True):
            pod = pods[ordinal]
            if ordinal < partition or "deletionTimestamp" in pod["metadata"]:
                return
            if pod["metadata"]["labels"].get(REVISION) != wanted:
                delete_pod(self._world, item, pod)
                return
            if not is_ready(pod):
                return

    def _report(self, item: Json) -> None:
        pods, wanted = list(self._pods(item).values()), self._revision(item)
        found = count(self._world, pods, item["spec"].get("minReadySeconds", 0))
        updated = sum(one["metadata"]["labels"].get(REVISION) == wanted for one in pods)
        before = copy.deepcopy(item.get("status", {}))
        current = before.get("currentRevision", wanted)
        if updated == found.replicas == found.ready == item["spec"]["replicas"]:
            current = wanted
        status: Json = {"observedGeneration": item["metadata"]["generation"], "replicas": found.replicas}
        status |= {"currentRevision": current, "updateRevision": wanted, "collisionCount": 0}
        numbers = {"readyReplicas": found.ready, "updatedReplicas": updated}
        numbers["currentReplicas"] = sum(one["metadata"]["labels"].get(REVISION) == current for one in pods)
        status |= {name: number for name, number in numbers.items() if number}
        status["availableReplicas"] = found.available
        self._world.put_status(kinds.STATEFULSETS, item, status)
