"""ReplicaSets: as many pods as are wished for.

Source: Kubernetes, "ReplicaSet"; `pkg/controller/replicaset`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.pods import count, delete_pod, expendable_first, is_active, make_pod
from rebake.testing.kubernetes.controllers.world import Rest, World, with_condition
from rebake.testing.kubernetes.status import Json

_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Refused:
    """Attributes: again_at: when the next pod is tried, seconds. tries: so far. why: the last refusal."""

    again_at: float
    tries: int
    why: str


class ReplicaSets:
    """After a refusal it tries again after a pause that doubles."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._refused: dict[str, _Refused] = {}
        self._rest = Rest(world, self._one)

    def step(self) -> None:
        self._rest.step(self._world.store.all(kinds.REPLICASETS))

    def _one(self, item: Json) -> None:
        pods = [pod for pod in self._world.owned(kinds.PODS, item) if is_active(pod)]
        why = "" if "deletionTimestamp" in item["metadata"] else self._scale(item, pods)
        self._report(item, [pod for pod in self._world.owned(kinds.PODS, item) if is_active(pod)], why)

    def _scale(self, item: Json, pods: list[Json]) -> str:
        wished, uid = item["spec"]["replicas"], item["metadata"]["uid"]
        held = self._refused.get(uid)
        if held is not None and wished > len(pods) and self._world.now() < held.again_at:
            self._world.wake(held.again_at)
            return held.why
        self._refused.pop(uid, None)
        for _ in range(wished - len(pods)):
            if why := make_pod(self._world, item):
                tries = held.tries + 1 if held is not None else 1
                again_at = self._world.now() + min(_LONGEST_PAUSE_SECONDS, 2.0 ** (tries - 1))
                self._refused[uid] = _Refused(again_at, tries, why)
                self._world.wake(again_at)
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
