"""One container of a pod: pulled, started, ready, ended, started again after a growing pause.

Source: Kubernetes, "Pod Lifecycle" (container states, restart back-off of 10 s to 300 s), "Images" (ImagePullBackOff).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.status import Json
from rebake.testing.kubernetes.store import Store

if TYPE_CHECKING:
    from rebake.testing.kubernetes.controllers.kubelet import Behaviour

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Told:
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a container cannot be made: a setting that is not there. Attributes: volume: whether it is to be mounted."""

    message: str
    volume: str = ""


@dataclass(slots=True)
class Run:
    """What became of one container.

    Attributes:
        starts: how often it was started; all but the first are restarts.
        started_at, ended_at: of the newest start, seconds; ended_at is None while it runs.
        waits: why it does not run, and the sentence for it.
        logged: for how many starts the log was written.
    """

    name: str
    since: float
    starts: int = 0
    started_at: float = 0.0
    ended_at: float | None = None
    code: int = 0
    waits: tuple[str, str] = ("ContainerCreating", "")
    failed_pull_at: float | None = None
    logged: int = 0
    last: Json | None = None

    @property
    def running(self) -> bool:
        return self.starts > 0 and self.ended_at is None

    @property
    def pause(self) -> float:
        """Seconds until it is started again."""
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (self.starts - 1))

    def end(self, now: float, code: int) -> None:
        self.ended_at, self.code = now, code
        self.last = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        self.last |= {"startedAt": stamp(self.started_at), "finishedAt": stamp(now)}

    def step(self, now: float, container: Json, behaviour: Behaviour, problem: Problem | None) -> Iterator[Told]:
        """What happens to it now, and what is told of it."""
        if self.running:
            if behaviour.exits is not None and now >= self.started_at + behaviour.exits_after_seconds:
                self.end(now, behaviour.exits)
            elif "readinessProbe" in container and now >= self._first_probe(container, behaviour):
                status = probe_status(container, behaviour)
                if not 200 <= status < 400:
                    yield Told(
                        "Unhealthy", f"Readiness probe failed: HTTP probe failed with statuscode: {status}", True
                    )
        if self.ended_at is not None:
            if now < self.ended_at + self.pause:
                text = f"back-off {self.pause:g}s restarting failed container={self.name}"
                self.waits = ("CrashLoopBackOff", text)
                yield Told("BackOff", f"Back-off restarting failed container {self.name} in pod", True)
                return
        elif self.running:
            return
        yield from self._start(now, container, behaviour, problem)

    def _start(self, now: float, container: Json, behaviour: Behaviour, problem: Problem | None) -> Iterator[Told]:
        image = container["image"]
        if problem is not None:
            self.waits = (
                ("ContainerCreating", "") if problem.volume else ("CreateContainerConfigError", problem.message)
            )
            yield Told(
                "FailedMount" if problem.volume else "Failed", problem.volume or f"Error: {problem.message}", True
            )
            return
        if not behaviour.pulls:
            yield from self._cannot_pull(now, image, behaviour)
            return
        self.failed_pull_at = None
        self.starts, self.started_at, self.ended_at = self.starts + 1, now, None
        yield Told("Pulled", f'Container image "{image}" already present on machine')
        yield Told("Created", f"Container created: {self.name}")
        yield Told("Started", f"Container started: {self.name}")

    def _cannot_pull(self, now: float, image: str, behaviour: Behaviour) -> Iterator[Told]:
        text = f'failed to pull and unpack image "{image}": {behaviour.pull_error}'
        if self.failed_pull_at is None:
            self.failed_pull_at = now
            yield Told("Pulling", f'Pulling image "{image}"')
            yield Told("Failed", f'Failed to pull image "{image}": {text}', True)
            yield Told("Failed", "Error: ErrImagePull", True)
        if now < self.failed_pull_at + FIRST_PAUSE_SECONDS:
            self.waits = ("ErrImagePull", text)
            return
        self.waits = ("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {text}')
        yield Told("BackOff", f'Back-off pulling image "{image}"')
        yield Told("Failed", "Error: ImagePullBackOff", True)

    def _first_probe(self, container: Json, behaviour: Behaviour) -> float:
        delay = container["readinessProbe"].get("initialDelaySeconds", 0)
        return self.started_at + max(float(delay), behaviour.start_seconds)

    def is_ready(self, now: float, container: Json, behaviour: Behaviour) -> bool:
        """Without a readiness probe a container that runs is ready."""
        if not self.running or "readinessProbe" not in container:
            return self.running
        well = 200 <= probe_status(container, behaviour) < 400
        return well and now >= self._first_probe(container, behaviour)

    def due(self, behaviour: Behaviour, container: Json) -> float | None:
        """When something changes by itself."""
        if self.ended_at is not None:
            return self.ended_at + self.pause
        if self.running and behaviour.exits is not None:
            return self.started_at + behaviour.exits_after_seconds
        if self.running and "readinessProbe" in container:
            return self._first_probe(container, behaviour)
        return self.failed_pull_at + FIRST_PAUSE_SECONDS if self.failed_pull_at is not None else None


def probe_status(container: Json, behaviour: Behaviour) -> int:
    """What a container answers to the kubelet."""
    if not behaviour.ready:
        return 503
    return behaviour.answer(container["readinessProbe"].get("httpGet", {}).get("path", "/"))[0]


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def container_status(pod: Json, container: Json, run: Run, behaviour: Behaviour, now: float) -> Json:
    """One row of `containerStatuses`."""
    image = container["image"]
    row: Json = {"name": run.name, "image": image, "ready": run.is_ready(now, container, behaviour)}
    row |= {"started": run.running, "restartCount": max(0, run.starts - 1), "imageID": "", "lastState": {}}
    metadata = pod["metadata"]
    identity = "containerd://" + hashlib.sha256(f"{metadata['uid']}/{run.name}/{run.starts}".encode()).hexdigest()
    if run.starts:
        row |= {"imageID": _image_id(image, behaviour), "containerID": identity}
    if run.running:
        row["state"] = {"running": {"startedAt": stamp(run.started_at)}}
    else:
        reason, message = run.waits
        if reason == "CrashLoopBackOff":
            message += f" pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        row["state"] = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
    if run.last is not None:
        row["lastState"] = {"terminated": {**run.last, "containerID": identity}}
    return row


def _image_id(image: str, behaviour: Behaviour) -> str:
    name, _, digest = image.partition("@")
    path = name if ":" not in name.rsplit("/", 1)[-1] else name.rsplit(":", 1)[0]
    found = behaviour.digest or digest or "sha256:" + hashlib.sha256(image.encode()).hexdigest()
    return f"{path}@{found}"


def problem_with_settings(store: Store, pod: Json) -> Problem | None:
    """The first ConfigMap or Secret that a pod names and that is not there."""
    namespace = pod["metadata"]["namespace"]
    for volume in pod["spec"].get("volumes", ()):
        for resource, field, key in ((kinds.CONFIGMAPS, "configMap", "name"), (kinds.SECRETS, "secret", "secretName")):
            wanted = volume.get(field, {})
            if wanted and not wanted.get("optional") and store.get(resource, namespace, wanted.get(key, "")) is None:
                text = f'{field.lower()} "{wanted.get(key, "")}" not found'
                return Problem(text, f'MountVolume.SetUp failed for volume "{volume["name"]}" : {text}')
    for container in pod["spec"]["containers"]:
        for source in (*container.get("envFrom", ()), *(one.get("valueFrom", {}) for one in container.get("env", ()))):
            for resource, names in (
                (kinds.CONFIGMAPS, ("configMapRef", "configMapKeyRef")),
                (kinds.SECRETS, ("secretRef", "secretKeyRef")),
            ):
                if (problem := _unset(store, namespace, resource, source, names)) is not None:
                    return problem
    return None


def _unset(
    store: Store, namespace: str, resource: kinds.Resource, source: Json, names: tuple[str, str]
) -> Problem | None:
    for name in names:
        wanted = source.get(name)
        if not wanted or wanted.get("optional"):
            continue
        held = store.get(resource, namespace, wanted["name"])
        if held is None:
            return Problem(f'{resource.kind.lower()} "{wanted["name"]}" not found')
        if "key" in wanted and wanted["key"] not in held.get("data", {}):
            return Problem(f"couldn't find key {wanted['key']} in {resource.kind} {namespace}/{wanted['name']}")
    return None


def stop_seconds(container: Json) -> float:
    """How long a container's preStop takes: `sleep`, or a command that is one."""
    hook = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command = hook.get("exec", {}).get("command", [])
    return float(command[1]) if len(command) == 2 and command[0].endswith("sleep") else 0.0
