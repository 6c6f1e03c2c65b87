"""From an instance as wished to what the engine is told: pure data, compared whole in tests.

Rules:
- What runs is the image by its ID, never by a name that could move.
- The root is read-only; what can be written is the scratch folder and the declared folders (empty and in memory for
  each instance), and `$REBAKE_DATA`.
- No capability, no new privileges, no root, limits on memory, processor and processes, a first process that reaps.
- Reached on a port of this machine's loopback only, and not at all if nobody asks it by HTTP; other containers of the
  network are no callers.
- Never started again by the engine: an instance that ended is replaced, under another name.
- Secrets are not in the request; one for an image without a shell gets them as it is sent (`docs/docker.md`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rebake.core.digest import digest_of
from rebake.platforms.command import expand
from rebake.platforms.docker.settings import DockerSettings
from rebake.platforms.model import HOST, InstanceSpec

INSIDE_PORT = 8080
"""What a container listens on where the file names no port."""
SCRATCH, DATA, SECRETS = "/tmp", "/rebake/data", "/rebake/secrets"
NOBODY = "65532:65532"
LABEL = "dev.rebake."
HOME_LABEL, INSTANCE_LABEL, REQUEST_LABEL = f"{LABEL}home", f"{LABEL}instance", f"{LABEL}request"
SERVICE_LABEL, ENVIRONMENT_LABEL = f"{LABEL}instance-service", f"{LABEL}instance-environment"
REVISION_LABEL = f"{LABEL}revision"
_LOG_OPTIONS = {"max-size": "10m", "max-file": "2"}
_EXPORT = f'. {SECRETS}/environment && exec "$@"'


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The image of a release as its config says.

    Attributes:
        id: digest of the config: what the engine calls the image.
        user: whom the image wants to run as; empty for root.
    """

    id: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one instance is put.

    Attributes:
        tag: names the home among others of the machine.
        port: on this machine's loopback.
        data: folder of this machine that is `$REBAKE_DATA` inside.
        secrets: folder of this machine with the secrets' values; None when there are none, or no shell reads them.
        user: `UID[:GID]` to run as.
        network: the network's name.
        init: whether the engine can put a first process before the command.
        podman: whether the engine is Podman, which has its own word for whose a folder in memory is.
    """

    tag: str
    port: int
    data: str
    user: str
    network: str
    secrets: str | None = None
    init: bool = True
    podman: bool = False


def container_name(tag: str, instance: str) -> str:
    return f"rebake-{tag}-{instance}"


def network_name(tag: str) -> str:
    return f"rebake-{tag}"


def network_request(tag: str) -> dict[str, Any]:
    """The home's own network: no container on it is a caller of another one."""
    options = {"com.docker.network.bridge.enable_icc": "false"}
    return {"Name": network_name(tag), "Driver": "bridge", "Options": options, "Labels": {HOME_LABEL: tag}}


def user_of(settings: DockerSettings, image: ImageFacts, agent: int) -> str:
    """Whom an instance runs as: the file's word, else the image's user, else the agent's, and never root unasked.

    Args:
        agent: user id of the agent.
    """
    named = image.user.partition(":")[0]
    if settings.user is not None:
        return settings.user
    if named not in ("", "0", "root"):
        return image.user
    return f"{agent}:{agent}" if agent else NOBODY


def inside_port(spec: InstanceSpec) -> int:
    return spec.run.port or INSIDE_PORT


def environment(spec: InstanceSpec) -> dict[str, str]:
    """What is added to the image's own environment, without secrets."""
    own = {
        "PORT": str(inside_port(spec)),
        "HOST": "0.0.0.0",
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "REBAKE_INSTANCE": spec.id,
        "REBAKE_SERVICE": spec.service,
        "REBAKE_ENVIRONMENT": spec.environment,
        "REBAKE_REVISION": spec.revision,
        "REBAKE_DATA": DATA,
    }
    return {**spec.run.env, **own}


def secrets_script(values: Mapping[str, str]) -> str:
    """What the shell of the image reads before it becomes the command."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(values.items()))


def container_request(spec: InstanceSpec, image: ImageFacts, settings: DockerSettings, place: Place) -> dict[str, Any]:
    """The body of `POST /containers/create`. Source: Docker Engine API v1.41, ContainerCreate."""
    env = environment(spec)
    port = f"{inside_port(spec)}/tcp" if spec.run.health.path else None
    request: dict[str, Any] = {
        "Image": image.id,
        "User": place.user,
        "Env": [f"{name}={value}" for name, value in sorted(env.items())],
        "ExposedPorts": {port: {}} if port else {},
        "StopSignal": "SIGTERM",
        "Entrypoint": _inside(spec, spec.run.command, shell=place.secrets is not None),
        "Labels": labels(spec, place.tag),
        "HostConfig": _host_config(spec, settings, place, port),
    }
    request["Labels"][REQUEST_LABEL] = digest_of(request)
    return request


def health_command(spec: InstanceSpec, request: Mapping[str, Any]) -> list[str]:
    """What is run in a container to see whether it is well: with the same environment, the secrets among it.

    Args:
        request: what made the container.
    """
    shell = list(request["Entrypoint"][:3]) == ["/bin/sh", "-c", _EXPORT]
    return _inside(spec, spec.run.health.command, shell=shell)


def _inside(spec: InstanceSpec, command: Sequence[str], *, shell: bool) -> list[str]:
    """A command of the run contract as the container is given it. Args: shell: the secrets are read by one, first."""
    env = environment(spec)
    names = {name: env[name] for name in ("PORT", "HOST", "TMPDIR", "REBAKE_DATA", *spec.run.env)}
    words = expand(command, names)
    return ["/bin/sh", "-c", _EXPORT, "sh", *words] if shell else list(words)


def labels(spec: InstanceSpec, tag: str) -> dict[str, str]:
    """How a container is known again: by home, environment and instance."""
    return {
        HOME_LABEL: tag,
        INSTANCE_LABEL: spec.id,
        SERVICE_LABEL: spec.service,
        ENVIRONMENT_LABEL: spec.environment,
        f"{LABEL}fleet": spec.fleet,
        REVISION_LABEL: spec.revision,
        f"{LABEL}instance-release": spec.release,
    }


def _owner(place: Place) -> str:
    """runc gives a folder in memory the mode of the image's folder below it, which often only its owner may write to.

    Source: docker-run(1), --tmpfs; podman-run(1), --tmpfs.
    """
    uid, _, gid = place.user.partition(":")
    if place.podman:
        return ",U"
    return "".join(f",{key}={number}" for key, number in (("uid", uid), ("gid", gid)) if number.isdigit())


def _host_config(spec: InstanceSpec, settings: DockerSettings, place: Place, port: str | None) -> dict[str, Any]:
    memory, cpu = spec.run.resources.memory_bytes, spec.run.resources.cpu_millis
    scratch = f"rw,nosuid,nodev,exec,mode=1777,size={settings.scratch_bytes}{_owner(place)}"
    mounts = [_bind(place.data, DATA, read_only=False)]
    if place.secrets:
        mounts.append(_bind(place.secrets, SECRETS, read_only=True))
    config: dict[str, Any] = {
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": settings.pids,
        "Tmpfs": dict.fromkeys((SCRATCH, *settings.writable), scratch),
        "Mounts": mounts,
        "NetworkMode": place.network,
        "PortBindings": {port: [{"HostIp": HOST, "HostPort": str(place.port)}]} if port else {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": dict(_LOG_OPTIONS)},
        "Init": place.init,
    }
    if memory is not None:
        config |= {"Memory": memory, "MemorySwap": memory}
    if cpu is not None:
        config["NanoCpus"] = cpu * 1_000_000
    return config


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
