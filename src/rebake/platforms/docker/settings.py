"""`docker: {…}` of an environment as a value, and where the engine's socket is looked for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.errors import Permanent

SYSTEM_SOCKET = "/var/run/docker.sock"
SCRATCH_BYTES = 256 << 20
PIDS = 512


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """What one environment asks of the engine.

    Attributes:
        socket: path of the engine's Unix socket; None for the one of this machine.
        network: an existing network of the engine; None for the home's own.
        user: `UID[:GID]` or a name of the image; None for the image's own, if that is not root.
        writable: folders in the container that are empty and writable in each instance.
        scratch_bytes: the most that each of those, and the scratch folder, holds.
        pids: the most processes and threads of an instance.
        exec: whether an exec session of a person makes an instance drift.
    """

    socket: str | None = None
    network: str | None = None
    user: str | None = None
    writable: tuple[str, ...] = ()
    scratch_bytes: int = SCRATCH_BYTES
    pids: int = PIDS
    exec: str = "replace"


def settings_from(doc: Mapping[str, Any]) -> DockerSettings:
    """From the environment's block, as the plan carries it; unknown keys are left to the file's own model."""
    return DockerSettings(
        socket=doc.get("socket"),
        network=doc.get("network"),
        user=doc.get("user"),
        writable=tuple(doc.get("writable", ())),
        scratch_bytes=int(doc.get("scratch") or SCRATCH_BYTES),
        pids=int(doc.get("pids", PIDS)),
        exec=str(doc.get("exec", "replace")),
    )


def socket_of(settings: DockerSettings, environ: Mapping[str, str], exists: Callable[[Path], bool]) -> str:
    """The socket to talk to: the file's, else `DOCKER_HOST`, else the system's, else a rootless one of this user.

    Raises: Permanent `docker-elsewhere` when DOCKER_HOST names another machine: instances are reached on this one's
        loopback.
    Source: docker(1), DOCKER_HOST; podman-system-service(1) for its sockets.
    """
    if settings.socket is not None:
        return settings.socket
    told = environ.get("DOCKER_HOST", "")
    if told and not told.startswith("unix://"):
        raise Permanent(
            "docker-elsewhere",
            f"expected an engine of this machine (unix://…), found DOCKER_HOST={told}",
            where="DOCKER_HOST",
            remedy="unset DOCKER_HOST for the agent, or name the socket in the file: docker: {socket: /path}",
        )
    if told:
        return told.removeprefix("unix://")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    rootless = [f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"] if runtime else []
    places = [SYSTEM_SOCKET, *rootless, "/run/podman/podman.sock"]
    return next((place for place in places if exists(Path(place))), SYSTEM_SOCKET)
