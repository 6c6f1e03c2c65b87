"""Why a pod does not serve, as a person reads it, and whether waiting will cure it. Pure.

Rules:
- A container that ended is an ended instance, however often the kubelet starts it again: restarts hide what is wrong.
- What somebody must change first (an image that is not there, a setting that is missing, a quota, a policy) ends the
  instance at once, with the cluster's own sentence: a rollout stops then, instead of at its deadline.
- What may pass by itself (a registry that does not answer, a node that is slow, no room while one is brought) is
  waited for.

Source: Kubernetes, "Pod Lifecycle", "Images" (ImagePullBackOff), "Disruptions" (pod disruption conditions).
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from rebake.core.units import describe_size
from rebake.kubernetes.resources import Json, condition, is_true, seconds_of
from rebake.platforms.kubernetes.records import FleetRecord

UNSCHEDULABLE_SECONDS = 10.0
"""How long a pod may find no node before that ends its instance; longer while an autoscaler says it brings one."""
_SIGNALLED = 128
_FATAL = {
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CreatePodSandboxError",
}
_PULL = {"ErrImagePull", "ImagePullBackOff"}
_NOT_THERE = re.compile(
    r"not ?found|manifest unknown|denied|unauthorized|authentication required|forbidden|no such|invalid reference"
    r"|no match for platform|name unknown",
    re.IGNORECASE,
)
_PASSES = re.compile(
    r"timeout|timed out|deadline exceeded|connection refused|connection reset|temporary|EOF|5\d\d |too many"
    r"|failed to sync \w+ cache|is reserved for|no endpoints available",
    re.IGNORECASE,
)
"""A registry, a node, a webhook or the API server that is slow or away just now: the cluster tries again."""
_BY_WHOM = {
    "EvictionByEvictionAPI": "evicted (a node is drained, or its pods are moved)",
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "evicted from a node that takes it no more",
    "DeletionByPodGC": "removed with a node that is gone",
    "TerminationByKubelet": "ended by its node",
}


def main_status(pod: Json) -> Json:
    """The status of the release's own container; empty before there is one."""
    rows = (pod.get("status") or {}).get("containerStatuses") or ()
    name = pod["spec"]["containers"][0]["name"]
    return next((row for row in rows if row.get("name") == name), {})


def is_ready(pod: Json) -> bool:
    return is_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]


def runs(pod: Json) -> bool:
    """Whether its container runs, so that somebody can ask how it is."""
    return "running" in (main_status(pod).get("state") or {})


def end_of(pod: Json, record: FleetRecord) -> str | None:
    """How an instance ended whose pod this is; None while it has not. One that we deleted is not asked about."""
    status = main_status(pod)
    last = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
    if last and (status.get("restartCount") or "terminated" in (status.get("state") or {}) or _waits(status)):
        return _exit(last, record)
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Failed", "Succeeded"):
        said = pod["status"]
        return _sentence(str(said.get("reason") or f"its pod {phase.lower()}"), said.get("message"))
    if "deletionTimestamp" in pod["metadata"]:
        return by_whom(pod)
    return None


def _waits(status: Json) -> bool:
    return ((status.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"


def by_whom(pod: Json) -> str:
    """Who ended a pod that we did not."""
    found = condition(pod, "DisruptionTarget")
    if found is None:
        return "its pod was deleted by somebody else"
    told = _BY_WHOM.get(str(found.get("reason")), str(found.get("reason", "disrupted")))
    return _sentence(f"its pod was {told}", found.get("message"))


def _exit(last: Json, record: FleetRecord) -> str:
    code = int(last.get("exitCode") or 0)
    if last.get("reason") == "OOMKilled":
        limit = record.spec.run.resources.memory_bytes
        return f"killed by SIGKILL (memory limit{f' {describe_size(limit)}' if limit else ''})"
    if last.get("reason") in ("ContainerCannotRun", "StartError"):
        return _sentence("could not run", last.get("message"))
    if code > _SIGNALLED and code - _SIGNALLED in set(signal.Signals):
        return f"killed by {signal.Signals(code - _SIGNALLED).name}"
    return f"exit {code}"


def hindrance(pod: Json, age_seconds: float, *, patient: bool = False) -> tuple[str, bool] | None:
    """What keeps a pod from running, and whether it ends the instance; None when nothing does.

    Args:
        age_seconds: since the instance was asked for.
        patient: an autoscaler has said that it brings a node.
    """
    waiting = (main_status(pod).get("state") or {}).get("waiting") or {}
    reason, said = str(waiting.get("reason", "")), waiting.get("message")
    if reason in _FATAL:
        return _sentence(reason, said), not passes(str(said or ""))
    if reason in _PULL:
        text = str(said or "")
        lacking = bool(_NOT_THERE.search(text)) and not passes(text)
        return _sentence(reason, said), lacking
    scheduled = condition(pod, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        told = _sentence(str(scheduled.get("reason", "Unschedulable")), scheduled.get("message"))
        return told, age_seconds >= UNSCHEDULABLE_SECONDS and not patient
    return None


def passes(why: str) -> bool:
    """Whether what keeps the cluster from making a pod may pass by itself, such as a webhook that does not answer."""
    return bool(_PASSES.search(why))


def refused(item: Json) -> str | None:
    """Why the cluster makes no pods for a fleet: a quota, a policy, a permission; None when it does, or has not looked
    at the fleet since it was changed."""
    found = condition(item, "ReplicaFailure")
    looked = (item.get("status") or {}).get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if found is None or found.get("status") != "True" or not looked:
        return None
    return _sentence(str(found.get("reason", "FailedCreate")), found.get("message"))


def _sentence(reason: str, said: object) -> str:
    text = " ".join(str(said or "").split())
    return f"{reason}: {text}"[:900] if text else reason


_PROBE = re.compile(r"statuscode: (\d{3})")
_STILL_THERE = re.compile(r"already exists|being deleted")
_CALM = {"Scheduled", "Pulled", "Created", "Started", "Killing", "Pulling", "BackOff"}


def last_word(events: list[Json], path: str) -> str | None:
    """What the newest warning among a pod's events says; None where there is none.

    Args:
        path: that the kubelet asks for.
    """
    warnings = [one for one in events if one.get("type") == "Warning" and one.get("reason") not in _CALM]
    if not warnings:
        return None
    newest = max(warnings, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    said = " ".join(str(newest.get("message", "")).split())
    if newest.get("reason") == "Unhealthy":
        if status := _PROBE.search(said):
            return f"GET {path} answered {status[1]}"
        return said.removeprefix("Readiness probe failed: ")[:500]
    return _sentence(str(newest.get("reason", "")), said)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Attributes: at: seconds since the epoch, by the cluster's clock and in whole ones."""

    at: float
    text: str


def last_refusal(events: list[Json]) -> Refusal | None:
    """The newest time that a controller could not make a pod, as its owner's events say: a StatefulSet has no condition
    for that. A pod that is still there under the name is waited for.

    Source: Kubernetes, `pkg/controller/statefulset/stateful_pod_control.go`, `recordPodEvent`.
    """
    refused = [
        one
        for one in events
        if one.get("reason") == "FailedCreate" and not _STILL_THERE.search(str(one.get("message", "")))
    ]
    newest = max(refused, key=_time_of, default=None)
    if newest is None:
        return None
    return Refusal(_time_of(newest), _sentence("FailedCreate", newest.get("message")))


def _time_of(event: Json) -> float:
    said = str(event.get("lastTimestamp") or event.get("eventTime") or "")
    try:
        return seconds_of(said)
    except ValueError:
        return 0.0


def brings_a_node(events: list[Json]) -> bool:
    """Whether an autoscaler said so. Source: cluster-autoscaler FAQ (TriggeredScaleUp); Karpenter (Nominated)."""
    return any(one.get("reason") in ("TriggeredScaleUp", "Nominated") for one in events)
