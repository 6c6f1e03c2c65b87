"""Who one is to a registry, as Docker's own configuration says: `auths`, `credsStore`, `credHelpers`.

Rules:
- A helper for the registry is asked first, then the store of all, then what the file itself holds.
- A helper that knows nothing of a registry means: nobody. One that is missing or fails is an error: to go on without
  would end in a refusal that names the wrong cause.

Source: docker-cli, config.json; docker-credential-helpers, "Usage".
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.errors import Permanent
from rebake.release.reference import DOCKER_HUB

_HUB_KEY = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"
_HELPER_SECONDS = 60
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token that is exchanged for others. Never shown."""

    user: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"


class DockerConfig:
    """The configuration of the one who runs this program.

    Args:
        environ: `DOCKER_CONFIG` names the folder, else it is `.docker` of the home; helpers are looked up on `PATH`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        folder = environ.get("DOCKER_CONFIG")
        self._environ = environ
        self.path = (Path(folder) if folder else Path(environ.get("HOME") or "/", ".docker")) / "config.json"

    def credentials(self, registry: str) -> Credentials | None:
        """What is known for a registry. Raises: Permanent `docker-config-unreadable`, `credential-helper-failed`."""
        config = self._read()
        key = _HUB_KEY if registry == DOCKER_HUB else registry
        helper = _entry(config.get("credHelpers"), registry) or config.get("credsStore")
        if helper:
            found = self._ask(str(helper), key)
            if found is not None:
                return found
        return self._kept(_entry(config.get("auths"), registry))

    def _read(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self.path.read_bytes())
            if isinstance(found, dict):
                return found
            problem = "it holds no mapping"
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            problem = str(error)
        raise self._unreadable(problem)

    def _kept(self, entry: Any) -> Credentials | None:
        if not isinstance(entry, Mapping):
            return None
        if entry.get("identitytoken"):
            return Credentials(identity_token=str(entry["identitytoken"]))
        user, password = str(entry.get("username", "")), str(entry.get("password", ""))
        if entry.get("auth"):
            try:
                user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
            except ValueError as error:
                raise self._unreadable("an `auth` in it is not base64") from error
        return Credentials(user, password.rstrip("\0")) if user else None

    def _ask(self, helper: str, key: str) -> Credentials | None:
        program = f"docker-credential-{helper}"
        try:
            done = subprocess.run(
                [program, "get"],
                input=key.encode(),
                capture_output=True,
                check=False,
                timeout=_HELPER_SECONDS,
                env=dict(self._environ),
            )
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            if done.returncode == 0:
                doc = json.loads(done.stdout)
                user, secret = str(doc["Username"]), str(doc["Secret"])
                return Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user, secret)
            if _NOT_FOUND in said:
                return None
            problem = f"ended with {done.returncode}: {said[:200]}"
        except FileNotFoundError:
            problem = "is not on PATH"
        except subprocess.TimeoutExpired:
            problem = f"gave no answer within {_HELPER_SECONDS}s"
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"gave no credentials ({type(error).__name__})"  # never what it printed: that holds a password
        raise Permanent(
            "credential-helper-failed",
            f"expected credentials for {key} from {program}, which {problem}",
            where=str(self.path),
            remedy=f"make `echo {key} | {program} get` work, or remove the helper from that file and `docker login`",
        )

    def _unreadable(self, problem: str) -> Permanent:
        return Permanent(
            "docker-config-unreadable",
            f"Docker's configuration cannot be used: {problem}",
            where=str(self.path),
            remedy="correct the file, or set DOCKER_CONFIG to the folder of another one",
        )


def _entry(table: Any, registry: str) -> Any:
    """The entry of a registry; older files name it with a scheme, or with a path behind it."""
    if not isinstance(table, Mapping):
        return None
    names = (registry, "index.docker.io") if registry == DOCKER_HUB else (registry,)
    for key, value in table.items():
        if str(key).removeprefix("https://").removeprefix("http://").partition("/")[0] in names:
            return value
    return None
