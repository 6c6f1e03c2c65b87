"""Deployments: one ReplicaSet for each template, and the rules by which pods move from one to the next.

Source: Kubernetes, "Deployments"; `pkg/controller/deployment` (`rolling.go`, `recreate.go`, `progress.go`).
"""

from __future__ import annotations

import copy
import math

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.pods import template_hash
from rebake.testing.kubernetes.controllers.world import Rest, World, condition, owner_reference, seconds, with_condition
from rebake.testing.kubernetes.status import Json

HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"
_ENOUGH = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
_DONE, _TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
_TOO_FEW = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")


class Deployments:
    def __init__(self, world: World) -> None:
        self._world = world
        self._made: set[str] = set()  # names of new ReplicaSets that no status tells of yet
        self._rest = Rest(world, self._one)

    def step(self) -> None:
        self._rest.step(self._world.store.all(kinds.DEPLOYMENTS))

    def _one(self, item: Json) -> None:
        sets = self._world.owned(kinds.REPLICASETS, item)
        if "deletionTimestamp" in item["metadata"]:
            self._report(item, sets)
            return
        wanted = template_hash(item["spec"]["template"])
        current = next((one for one in sets if one["metadata"]["labels"].get(HASH) == wanted), None)
        old = [one for one in sets if one["metadata"]["labels"].get(HASH) != wanted]
        if not item["spec"].get("paused"):
            current = self._current(item, current, old, wanted)
            recreate = item["spec"]["strategy"]["type"] == "Recreate"
            (self._recreate if recreate else self._roll)(item, current, old)
        elif current is not None:
            self._scale(item, current, item["spec"]["replicas"] - _wished(old))
        self._report(item, self._world.owned(kinds.REPLICASETS, item))
        self._clean(item, old)

    def _current(self, item: Json, found: Json | None, old: list[Json], name: str) -> Json:
        """The ReplicaSet of the template, made if there is none, with the number of this revision."""
        newest = max((int(one["metadata"].get("annotations", {}).get(_REVISION, 0)) for one in old), default=0)
        if found is None:
            template = copy.deepcopy(item["spec"]["template"])
            template["metadata"].setdefault("labels", {})[HASH] = name
            selector = copy.deepcopy(item["spec"]["selector"])
            selector.setdefault("matchLabels", {})[HASH] = name
            spec: Json = {"replicas": 0, "selector": selector, "template": template}
            if "minReadySeconds" in item["spec"]:
                spec["minReadySeconds"] = item["spec"]["minReadySeconds"]
            metadata = {"name": f"{item['metadata']['name']}-{name}", "labels": template["metadata"]["labels"]}
            metadata |= {"ownerReferences": [owner_reference(item)], "annotations": {_REVISION: str(newest + 1)}}
            where = item["metadata"]["namespace"]
            self._made.add(str(metadata["name"]))
            found = self._world.create(kinds.REPLICASETS, where, {"metadata": metadata, "spec": spec})
        mine = int(found["metadata"]["annotations"].get(_REVISION, 0))
        if mine <= newest and old:
            after = copy.deepcopy(found)
            after["metadata"]["annotations"][_REVISION] = str(newest + 1)
            found = self._world.update(kinds.REPLICASETS, after)
        number = found["metadata"]["annotations"][_REVISION]
        if item["metadata"].get("annotations", {}).get(_REVISION) != number:
            after = copy.deepcopy(item)
            after["metadata"].setdefault("annotations", {})[_REVISION] = number
            item["metadata"] = self._world.update(kinds.DEPLOYMENTS, after)["metadata"]
        return found

    def _roll(self, item: Json, current: Json, old: list[Json]) -> None:
        """Source: `rolling.go`: new ones up within the surge, then old ones down to what must stay available."""
        wished, (surge, unavailable) = item["spec"]["replicas"], bounds(item)
        if not _wished(old) and current["spec"]["replicas"] > wished:
            self._scale(item, current, wished)
            return
        room = wished + surge - _wished([current, *old])
        more = min(max(0, room), max(0, wished - current["spec"]["replicas"]))
        current = self._scale(item, current, current["spec"]["replicas"] + more)
        if current["spec"]["replicas"] > wished:
            current = self._scale(item, current, wished)
        least = wished - unavailable
        pending = current["spec"]["replicas"] - current.get("status", {}).get("availableReplicas", 0)
        spare = _wished([current, *old]) - least - pending
        spare = self._clean_unhealthy(item, old, spare)
        available = sum(one.get("status", {}).get("availableReplicas", 0) for one in [current, *old])
        spare = min(spare, available - least)
        for one in sorted(old, key=lambda one: one["metadata"]["creationTimestamp"]):
            one = self._fresh(one)
            down = min(max(0, spare), one["spec"]["replicas"])
            self._scale(item, one, one["spec"]["replicas"] - down)
            spare -= down

    def _clean_unhealthy(self, item: Json, old: list[Json], spare: int) -> int:
        """Give up old pods that are not available first: nobody misses them."""
        for one in old:
            unhealthy = one["spec"]["replicas"] - one.get("status", {}).get("availableReplicas", 0)
            down = min(max(0, spare), max(0, unhealthy))
            self._scale(item, one, one["spec"]["replicas"] - down)
            spare -= down
        return spare

    def _recreate(self, item: Json, current: Json, old: list[Json]) -> None:
        for one in old:
            self._scale(item, one, 0)
        if not any(self._world.owned(kinds.PODS, one) for one in old):
            self._scale(item, current, item["spec"]["replicas"])

    def _fresh(self, item: Json) -> Json:
        return self._world.current(kinds.REPLICASETS, item)

    def _scale(self, item: Json, replica_set: Json, replicas: int) -> Json:
        replica_set = self._fresh(replica_set)
        before = replica_set["spec"]["replicas"]
        if before == replicas or replicas < 0:
            return replica_set
        after = copy.deepcopy(replica_set)
        after["spec"]["replicas"] = replicas
        name, way = replica_set["metadata"]["name"], "up" if replicas > before else "down"
        text = f"Scaled {way} replica set {name} from {before} to {replicas}"
        self._world.event(item, "ScalingReplicaSet", text)
        return self._world.update(kinds.REPLICASETS, after)

    def _clean(self, item: Json, old: list[Json]) -> None:
        """Forget the oldest ReplicaSets that nothing runs of, beyond the history's limit."""
        idle = [one for one in map(self._fresh, old) if not one["spec"]["replicas"]]
        idle = [one for one in idle if not one.get("status", {}).get("replicas")]
        idle.sort(key=lambda one: int(one["metadata"].get("annotations", {}).get(_REVISION, 0)))
        for one in idle[: max(0, len(idle) - item["spec"]["revisionHistoryLimit"])]:
            self._world.delete(kinds.REPLICASETS, one)

    def _report(self, item: Json, sets: list[Json]) -> None:
        item = self._world.current(kinds.DEPLOYMENTS, item)
        wanted = template_hash(item["spec"]["template"])
        current = next((one for one in sets if one["metadata"]["labels"].get(HASH) == wanted), None)

        def total(name: str) -> int:
            return sum(int(one.get("status", {}).get(name, 0)) for one in sets)

        wished, before = item["spec"]["replicas"], item.get("status", {})
        numbers = {
            "replicas": total("replicas"),
            "updatedReplicas": (current or {}).get("status", {}).get("replicas", 0),
            "readyReplicas": total("readyReplicas"),
            "availableReplicas": total("availableReplicas"),
        }
        numbers["unavailableReplicas"] = max(0, max(wished, numbers["replicas"]) - numbers["availableReplicas"])
        status: Json = {"observedGeneration": item["metadata"]["generation"]}
        status |= {name: number for name, number in numbers.items() if number}
        now = self._world.writer.time()
        enough = numbers["availableReplicas"] >= wished - bounds(item)[1]
        conditions = with_condition(
            before.get("conditions", []),
            "Available",
            _ENOUGH if enough else _TOO_FEW,
            now,
        )
        conditions = self._failure(conditions, sets, now)
        if not item["spec"].get("paused"):
            conditions = self._progress(item, current, numbers, conditions)
        status["conditions"] = _stamped(before.get("conditions", []), conditions, now)
        self._world.put_status(kinds.DEPLOYMENTS, item, status)

    @staticmethod
    def _failure(conditions: list[Json], sets: list[Json], now: str) -> list[Json]:
        for one in sets:
            failed = condition(one, "ReplicaFailure")
            if failed is not None:
                said = ("True", failed["reason"], failed["message"])
                return with_condition(conditions, "ReplicaFailure", said, now)
        return [one for one in conditions if one["type"] != "ReplicaFailure"]

    def _progress(
        self, item: Json, current: Json | None, numbers: dict[str, int], conditions: list[Json]
    ) -> list[Json]:
        """Source: `progress.go`: a rollout is complete, moving, or timed out since it last moved; one that was complete
        is not judged again, whatever becomes of its pods, until another template makes it a new one."""
        now, name = self._world.writer.time(), (current or {}).get("metadata", {}).get("name", "")
        found = next((one for one in conditions if one["type"] == "Progressing"), None)
        reason = found["reason"] if found is not None else ""
        if name in self._made:
            self._made.discard(name)
            text = f'Created new replica set "{name}"'
            return _progressing(conditions, ("True", "NewReplicaSetCreated", text), now)
        if reason == _DONE and numbers["replicas"] == numbers["updatedReplicas"]:
            return conditions
        if (
            numbers["updatedReplicas"]
            == numbers["replicas"]
            == numbers["availableReplicas"]
            == item["spec"]["replicas"]
        ):
            text = f'ReplicaSet "{name}" has successfully progressed.'
            return _progressing(conditions, ("True", _DONE, text), now)
        if _moved(item.get("status", {}), numbers):
            text = f'ReplicaSet "{name}" is progressing.'
            return _progressing(conditions, ("True", "ReplicaSetUpdated", text), now)
        if found is None or reason in {_DONE, _TIMED_OUT}:
            return conditions
        deadline = seconds(found["lastUpdateTime"]) + item["spec"]["progressDeadlineSeconds"]
        if self._world.now() >= deadline:
            text = f'ReplicaSet "{name}" has timed out progressing.'
            return _progressing(conditions, ("False", _TIMED_OUT, text), now)
        self._world.wake(deadline)
        return conditions


def _moved(before: Json, numbers: dict[str, int]) -> bool:
    """Whether there are more pods of the new template, more that serve, or fewer of others."""
    more = ("updatedReplicas", "readyReplicas", "availableReplicas")
    others = before.get("replicas", 0) - before.get("updatedReplicas", 0)
    fewer = numbers["replicas"] - numbers["updatedReplicas"] < others
    return fewer or any(numbers[one] > before.get(one, 0) for one in more)


def _progressing(conditions: list[Json], said: tuple[str, str, str], now: str) -> list[Json]:
    return with_condition(conditions, "Progressing", said, now, lastUpdateTime=now)


def _stamped(before: list[Json], after: list[Json], now: str) -> list[Json]:
    """Every condition of a deployment says when it was last written."""
    known = {one["type"]: one for one in before}
    rows = []
    for one in after:
        held = known.get(one["type"])
        same = held is not None and all(held.get(k) == one.get(k) for k in ("status", "reason", "message"))
        rows.append(
            {**one, "lastUpdateTime": one.get("lastUpdateTime") or (held["lastUpdateTime"] if held and same else now)}
        )
    return rows


def _wished(sets: list[Json]) -> int:
    return sum(int(one["spec"]["replicas"]) for one in sets)


def bounds(item: Json) -> tuple[int, int]:
    """How many pods more, and how many available ones fewer, than wished there may be."""
    rolling = item["spec"]["strategy"].get("rollingUpdate")
    if rolling is None:
        return 0, item["spec"]["replicas"]
    wished = item["spec"]["replicas"]
    surge, unavailable = of(rolling["maxSurge"], wished, up=True), of(rolling["maxUnavailable"], wished, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def of(share: int | str, whole: int, *, up: bool) -> int:
    """A number, or a percentage of a whole, rounded as Kubernetes rounds it here."""
    if isinstance(share, int):
        return share
    exact = int(share.rstrip("%")) * whole / 100
    return math.ceil(exact) if up else math.floor(exact)
