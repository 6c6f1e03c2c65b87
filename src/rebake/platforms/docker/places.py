"""Where a container is put on this machine: its folders, its user, and its secrets on their way in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.core.atomic import write_atomic
from rebake.core.home import Home
from rebake.platforms.docker.engines import Engine
from rebake.platforms.docker.records import ContainerFolder, Intent
from rebake.platforms.docker.requests import (
    ImageFacts,
    Place,
    container_request,
    network_name,
    secrets_script,
    user_of,
)
from rebake.platforms.docker.settings import DockerSettings
from rebake.platforms.model import InstanceSpec
from rebake.platforms.sources import SecretSource


@dataclass(frozen=True, slots=True)
class Job:
    """One instance on its way into an engine."""

    engine: Engine
    folder: ContainerFolder
    spec: InstanceSpec
    settings: DockerSettings


class Places:
    """The places of one home."""

    def __init__(self, home: Home, secrets: SecretSource) -> None:
        self._home, self._secrets = home, secrets

    def intend(self, job: Job, image: ImageFacts, *, port: int, shell: bool, now: float) -> Intent:
        """What will be asked of the engine, without any secret's value.

        Args:
            port: on this machine's loopback.
            shell: the image has one, which can read the secrets from a file.
        """
        spec, settings, facts = job.spec, job.settings, job.engine.facts()
        place = Place(
            tag=self._home.tag,
            port=port,
            data=str(self._data(spec)),
            user=user_of(settings, image, os.getuid()),
            network=settings.network or network_name(self._home.tag),
            secrets=str(job.folder.secrets) if spec.secrets and shell else None,
            init=facts.init,
            podman=facts.podman,
        )
        request = container_request(spec, image, settings, place)
        exposed = () if shell else tuple(sorted(spec.secrets))
        return Intent(spec, job.engine.client.socket, request, port, now, exposed)

    def make(self, folder: ContainerFolder, intent: Intent) -> None:
        """Make the folders that are mounted. Raises: OSError."""
        self._make_data(self._data(intent.spec), str(intent.request["User"]))
        if intent.spec.secrets and not intent.exposed:
            folder.secrets.mkdir(mode=0o755, exist_ok=True)
            # Readable inside by whoever the command runs as; outside nobody passes the folder of the home.
            values = self._values(intent)
            write_atomic(folder.secrets / "environment", secrets_script(values).encode("utf-8", "surrogateescape"))
            for name, value in values.items():
                write_atomic(folder.secrets / name, value.encode("utf-8", "surrogateescape"))

    def with_secrets(self, intent: Intent) -> Mapping[str, Any]:
        """The request as it is sent: an image without a shell gets its secrets with it."""
        values = self._values(intent) if intent.exposed else {}
        return {**intent.request, "Env": [*intent.request["Env"], *(f"{n}={v}" for n, v in values.items())]}

    def _values(self, intent: Intent) -> dict[str, str]:
        return {name: self._secrets.secret(one.version) for name, one in sorted(intent.spec.secrets.items())}

    def _data(self, spec: InstanceSpec) -> Path:
        return self._home.data / spec.service / spec.environment

    @staticmethod
    def _make_data(data: Path, user: str) -> None:
        """The service's own folder, which its containers can write to, whoever they run as."""
        data.mkdir(parents=True, exist_ok=True)
        uid, _, gid = user.partition(":")
        if uid.isdigit() and data.stat().st_uid == int(uid):
            return
        if os.getuid() == 0 and uid.isdigit():
            os.chown(data, int(uid), int(gid) if gid.isdigit() else -1)
        else:
            with suppress(PermissionError):  # it is another user's who may write there
                data.chmod(0o1777)
