"""Replicas of the server as real containers: what the manifest says of them, on a Docker engine of our own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import save_base
from rebake.testing.registry_server import Certificate, RegistryServer
from tests.deploy.manifests import FOLDER, container, deployment
from tests.e2e.site import Done, until

ROOT = FOLDER.parents[1]
TOKEN = "5ec7e7" * 8
START_SECONDS = 60.0


def bake_image(folder: Path, registry: RegistryServer) -> str:
    """rebake's own image, baked and pushed as deploy/rebake.yaml says; the base is this machine's Python."""
    described = yaml.safe_load((ROOT / "deploy" / "rebake.yaml").read_text(encoding="utf-8"))
    described["bake"] |= {
        "source": str(ROOT),
        "base": save_base(folder / "base"),
        "repository": f"{registry.host}/team/rebake",
    }
    (folder / "rebake.yaml").write_text(yaml.safe_dump(described))
    done = command({"REBAKE_HOME": str(folder / "baker")}, folder, "bake", "--push", "--json")
    assert done.code == 0, done.err
    return str(done.doc["pushed"]["reference"])


def command(environ: Mapping[str, str], folder: Path, *words: str) -> Done:
    """One command line, as a member of the team types it."""
    done = subprocess.run(
        [sys.executable, "-m", "rebake.cli", *words],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Replicas:
    """Servers of one database.

    Attributes:
        secrets: folder with what the Secrets of the manifest hold, a folder for each of its volumes.
    """

    def __init__(self, folder: Path, engine: DockerEngine, image: str, database: str, socket: Path) -> None:
        """Args: socket: folder of the database's socket, which the containers see where it is here."""
        self.folder, self.engine, self.image = folder, engine, image
        self.secrets = folder / "secrets"
        self.tls = self._write_secrets()
        self._values = {("rebake-database", "url"): database}
        self._number, self._socket = 0, socket
        engine.docker("pull", "-q", image)

    def _write_secrets(self) -> Certificate:
        for name in ("tls", "tokens", "key", "registry"):
            (self.secrets / name).mkdir(parents=True)
        made = Certificate.make(self.folder)
        files = {"tls/tls.crt": made.file.read_text(), "tls/tls.key": made.key.read_text()}
        files |= {"tokens/tokens": f"ada {TOKEN}\n", "key/key": "k" * 64, "registry/config.json": "{}"}
        security = deployment()["spec"]["template"]["spec"]["securityContext"]
        for name, text in files.items():
            path = self.secrets / name
            path.write_text(text)
            path.chmod(0o440)
            os.chown(path, 0, security["fsGroup"])
        return made

    def start(self, mounts: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> Replica:
        """One more. Returns it once it is ready.

        Args:
            mounts: further files, from here to there; environ: further variables.
        """
        self._number += 1
        name = f"{self.folder.name}-{self._number}"
        wanted, security = container(), deployment()["spec"]["template"]["spec"]["securityContext"]
        words = ["run", "--detach", "--name", name, "--network", "host"]
        words += ["--user", f"{security['runAsUser']}:{security['runAsGroup']}", "--security-opt", "no-new-privileges"]
        assert wanted["securityContext"]["readOnlyRootFilesystem"]
        words += ["--read-only", *(f"--cap-drop={one}" for one in wanted["securityContext"]["capabilities"]["drop"])]
        for one in wanted["env"]:
            words += ["--env", f"{one['name']}={one.get('value') or self._from_secret(one)}"]
        for key, value in (environ or {}).items():
            words += ["--env", f"{key}={value}"]
        for place, source in self._mounts(wanted).items():
            words += ["--mount", f"type=bind,source={source},target={place},readonly"] if source else self._empty(place)
        for here, there in {str(self._socket): str(self._socket), **(mounts or {})}.items():
            words += ["--mount", f"type=bind,source={here},target={there},readonly"]
        words += ["--entrypoint", wanted["command"][0], self.image, *wanted["command"][1:]]
        # One network for both here: any free port, on loopback, instead of the pod's own.
        words += [re.sub(r"=0\.0\.0\.0:\d+$", "=127.0.0.1:0", word) for word in wanted["args"]]
        self.engine.docker(*words)
        return Replica(self, name, wanted)

    def _from_secret(self, one: dict[str, Any]) -> str:
        asked = one["valueFrom"]["secretKeyRef"]
        return self._values[asked["name"], asked["key"]]

    def _mounts(self, wanted: dict[str, Any]) -> dict[str, Path | None]:
        """Where each volume is seen; None for one that begins empty."""
        kinds = {one["name"]: one for one in deployment()["spec"]["template"]["spec"]["volumes"]}
        return {
            one["mountPath"]: self.secrets / one["name"] if "secret" in kinds[one["name"]] else None
            for one in wanted["volumeMounts"]
        }

    @staticmethod
    def _empty(place: str) -> list[str]:
        return ["--tmpfs", f"{place}:mode=1777"]


class Replica:
    """One running server, and how its team asks it."""

    def __init__(self, replicas: Replicas, name: str, wanted: dict[str, Any]) -> None:
        self._replicas, self.name = replicas, name
        self.api, self.probes = until(self._doors, START_SECONDS)
        until(lambda: self.probe(wanted["readinessProbe"]["httpGet"]["path"]) == 200, START_SECONDS)

    def _doors(self) -> list[str]:
        """Where it listens, once it does on both."""
        found = re.findall(r"listens on (http\S+)", self.log())
        assert self._replicas.engine.inspect(self.name)["State"]["Running"], self.log()
        return found if len(found) > 1 else []

    def log(self) -> str:
        done = subprocess.run(
            [*self._replicas.engine.command, "logs", self.name], capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    def probe(self, path: str) -> int:
        return httpx.get(self.probes + path, timeout=10).status_code

    def page(self, path: str) -> str:
        return httpx.get(self.probes + path, timeout=10).text

    def ask(self, folder: Path, *words: str) -> Done:
        """A command line that is told of this server."""
        environ = {
            "REBAKE_SERVER": self.api,
            "REBAKE_TOKEN": TOKEN,
            "SSL_CERT_FILE": str(self._replicas.tls.file),
            "REBAKE_HOME": str(self._replicas.folder / "laptop"),
        }
        return command(environ, folder, *words)

    def kill(self) -> None:
        self._replicas.engine.docker("kill", self.name)

    def finish(self) -> int:
        """As a supervisor ends it. Returns the exit code."""
        self._replicas.engine.docker("stop", "--time", "20", self.name)
        return int(self._replicas.engine.inspect(self.name)["State"]["ExitCode"])
