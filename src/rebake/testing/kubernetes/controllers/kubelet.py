"""Scheduler and kubelet: from a pod that is wished for to one that serves, or to the reason why it does not.

What containers do is said by a `Behaviour`, looked up anew in every step, so that a test can change its mind: a pod
that was ready becomes unready, an image that could not be pulled can.

Source: Kubernetes, "Pod Lifecycle", "Container Lifecycle Hooks"; the texts are the real kubelet's.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.container import Run, container_status, problem_with_settings, stop_seconds
from rebake.testing.kubernetes.controllers.world import World, seconds, with_condition
from rebake.testing.kubernetes.special import ContainerLog
from rebake.testing.kubernetes.status import Json

_UNSCHEDULABLE = (
    "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: "
    "3 No preemption victims found for incoming pod."
)
NODES = 3


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What becomes of a pod's containers.

    Attributes:
        schedulable: whether a node has room; `unschedulable` is the scheduler's sentence if not.
        pulls: whether the image can be had; `pull_error` is the registry's sentence if not.
        start_seconds: from a container's start to the first answer that says it is well.
        ready: whether it ever says so, or still does.
        exits: the code it ends with after `exits_after_seconds`; None if it goes on.
        log: what it writes when it starts.
        stop_seconds: from the end of preStop to its end.
        digest: of the image that really runs; by default the one that the image names, or one made of its name.
        answers: status and body by path, to the kubelet's probe and to who asks through the API server; 200 and nothing
            for others.
    """

    schedulable: bool = True
    unschedulable: str = _UNSCHEDULABLE
    pulls: bool = True
    pull_error: str = "not found"
    start_seconds: float = 1.0
    ready: bool = True
    exits: int | None = None
    exits_after_seconds: float = 0.5
    log: tuple[str, ...] = ("listening",)
    stop_seconds: float = 0.5
    digest: str = ""
    answers: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, str]:
        return self.answers.get(path, (200, ""))


Chooses = Callable[[Json], bool]


@dataclass(slots=True)
class _Place:
    """What the kubelet remembers of one pod.

    Attributes:
        runs: by container.
        signalled_at, stops_at: when it is told to end, after preStop, and when it will have ended; 0 while it may stay.
    """

    address: str
    runs: dict[str, Run] = field(default_factory=dict)
    signalled_at: float = 0.0
    stops_at: float = 0.0


class Kubelet:
    """All nodes' kubelets, and the scheduler before them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._places: dict[str, _Place] = {}
        self._behaviours: list[tuple[Chooses, Behaviour]] = []
        self._scheduled = 0

    def behave(self, chooses: Chooses, behaviour: Behaviour) -> None:
        """From now on pods so chosen behave so; what was said last holds."""
        self._behaviours.insert(0, (chooses, behaviour))

    def behaviour(self, pod: Json) -> Behaviour:
        return next((one for chooses, one in self._behaviours if chooses(pod)), Behaviour())

    def step(self) -> None:
        pods = self._world.store.all(kinds.PODS)
        for pod in pods:
            if pod["status"]["phase"] in {"Succeeded", "Failed"} and "deletionTimestamp" not in pod["metadata"]:
                continue
            if not pod["spec"].get("nodeName"):
                if "deletionTimestamp" not in pod["metadata"]:
                    self._schedule(pod)
            elif "deletionTimestamp" in pod["metadata"]:
                self._stop(pod)
            else:
                self._run(pod)
        alive = {pod["metadata"]["uid"] for pod in pods}
        self._places = {uid: place for uid, place in self._places.items() if uid in alive}

    def crash(self, pod: Json, code: int, *lines: str) -> None:
        """End a pod's containers now, as if by themselves; they are started again as their kubelet does."""
        for run in self._places[pod["metadata"]["uid"]].runs.values():
            run.end(self._world.now(), code)
            self._log(pod, run.name).lines.extend(lines)
        self._run(pod)

    def accepts(self, uid: str) -> bool:
        """Whether a pod takes requests: it runs, and was not yet told to end."""
        place = self._places.get(uid)
        if place is None or not all(run.running for run in place.runs.values()):
            return False
        return not place.signalled_at or self._world.now() < place.signalled_at

    def answer(self, pod: Json, path: str) -> tuple[int, str] | None:
        """What a pod answers to GET; None where nobody listens."""
        return self.behaviour(pod).answer(path) if self.accepts(pod["metadata"]["uid"]) else None

    def _schedule(self, pod: Json) -> None:
        behaviour, now = self.behaviour(pod), self._world.writer.time()
        if not behaviour.schedulable:
            said = ("False", "Unschedulable", behaviour.unschedulable)
            status = {**pod["status"], "conditions": with_condition(_conditions(pod), "PodScheduled", said, now)}
            self._world.put_status(kinds.PODS, pod, status, "kube-scheduler")
            self._tell(pod, "FailedScheduling", behaviour.unschedulable, warning=True, source="default-scheduler")
            return
        node = f"node-{self._scheduled % NODES + 1}"
        self._scheduled += 1
        after = copy.deepcopy(pod)
        after["spec"]["nodeName"] = node
        bound = self._world.update(kinds.PODS, after, "kube-scheduler")
        status = {
            **bound["status"],
            "conditions": with_condition(_conditions(bound), "PodScheduled", ("True", "", ""), now),
        }
        bound = self._world.put_status(kinds.PODS, bound, status, "kube-scheduler")
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._tell(bound, "Scheduled", f"Successfully assigned {name} to {node}", source="default-scheduler")

    def _place(self, pod: Json) -> _Place:
        uid = pod["metadata"]["uid"]
        if uid not in self._places:
            number = int(hashlib.sha256(uid.encode()).hexdigest()[:6], 16)
            self._places[uid] = _Place(f"10.244.{number // 250 % 250}.{number % 250 + 1}")
        return self._places[uid]

    def _run(self, pod: Json) -> None:
        behaviour, place = self.behaviour(pod), self._place(pod)
        problem = problem_with_settings(self._world.store, pod)
        for container in pod["spec"]["containers"]:
            run = place.runs.setdefault(container["name"], Run(container["name"], self._world.now()))
            for event in run.step(self._world.now(), container, behaviour, problem):
                self._tell(pod, event.reason, event.message, warning=event.warning)
            self._write_log(pod, run, behaviour)
            if (due := run.due(behaviour, container)) is not None:
                self._world.wake(due)
        self._report(pod, place, behaviour)

    def _log(self, pod: Json, container: str) -> ContainerLog:
        return self._world.logs.setdefault((pod["metadata"]["uid"], container), ContainerLog())

    def _write_log(self, pod: Json, run: Run, behaviour: Behaviour) -> None:
        """A container that was started again writes from the beginning; what it wrote before can still be read."""
        if not run.starts:
            return
        log = self._log(pod, run.name)
        while run.logged < run.starts:
            if run.logged:
                log.previous = log.lines
            log.lines = list(behaviour.log)
            run.logged += 1
        if run.ended_at is not None:
            log.previous = log.lines

    def _report(self, pod: Json, place: _Place, behaviour: Behaviour) -> None:
        now = self._world.writer.time()
        rows = [
            container_status(pod, one, place.runs[one["name"]], behaviour, self._world.now())
            for one in pod["spec"]["containers"]
        ]
        ready, started = all(one["ready"] for one in rows), any("running" in one["state"] for one in rows)
        names = " ".join(one["name"] for one in rows if not one["ready"])
        unready = ("False", "ContainersNotReady", f"containers with unready status: [{names}]")
        conditions = _conditions(pod)
        had_sandbox = "True" if place.runs and started else "False"
        for kind, said in (
            ("PodReadyToStartContainers", (had_sandbox, "", "")),
            ("Initialized", ("True", "", "")),
            ("ContainersReady", ("True", "", "") if ready else unready),
            ("Ready", ("True", "", "") if ready else unready),
        ):
            conditions = with_condition(conditions, kind, said, now)
        began = any(run.starts for run in place.runs.values())
        status: Json = {"phase": "Running" if began else "Pending", "conditions": conditions}
        status |= {"containerStatuses": rows, "qosClass": "Burstable", "hostIP": "192.168.1.1"}
        status["startTime"] = pod["status"].get("startTime", now)
        status["observedGeneration"] = pod["metadata"]["generation"]
        if began:
            status |= {"podIP": place.address, "podIPs": [{"ip": place.address}]}
        kept = {one: pod["status"][one] for one in ("ephemeralContainerStatuses",) if one in pod["status"]}
        self._world.put_status(kinds.PODS, pod, {**kept, **status}, "kubelet")

    def _stop(self, pod: Json) -> None:
        """First what preStop says, then the signal; it is gone when it ends, or when its grace does."""
        place, behaviour = self._place(pod), self.behaviour(pod)
        now = self._world.now()
        if not place.stops_at:
            grace = float(pod["metadata"]["deletionGracePeriodSeconds"])
            longest = max(stop_seconds(one) for one in pod["spec"]["containers"])
            place.signalled_at = now + min(grace, longest)
            place.stops_at = now + min(grace, longest + behaviour.stop_seconds)
            for one in pod["spec"]["containers"]:
                self._tell(pod, "Killing", f"Stopping container {one['name']}")
        end = min(place.stops_at, seconds(pod["metadata"]["deletionTimestamp"]) + 1)
        if now >= end or not place.runs:
            self._world.deleter.remove(kinds.PODS, pod)
            return
        self._world.wake(end)

    def _tell(self, pod: Json, reason: str, text: str, *, warning: bool = False, source: str = "kubelet") -> None:
        self._world.event(pod, reason, text, warning=warning, source=source)


def _conditions(pod: Json) -> list[Json]:
    return list(pod["status"].get("conditions", []))
