"""The cluster that tests run against: the emulated one, or a real one where `KUBECONFIG` names it.

A test that takes a `Target` and waits by `until` alone runs against both, so that the emulator can be held to what a
real API server does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from rebake.testing.kubernetes.access import ADMIN_TOKEN
from rebake.testing.kubernetes.cluster import Cluster

DEADLINE_SECONDS = 120.0
_POLL_SECONDS = 0.1
_EMULATED_STEP_SECONDS = 1.0
IMAGE = os.environ.get("REBAKE_TEST_IMAGE", "registry.k8s.io/pause:3.10")
"""What pods of tests run; a real cluster must be able to pull it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One cluster and a namespace of the test's own in it.

    Attributes:
        client: speaks to the API server as an administrator.
        emulated: the cluster, where it is ours.
    """

    client: httpx.Client
    namespace: str
    emulated: Cluster | None = None

    def until(self, condition: Callable[[], object]) -> None:
        """Wait: on our own clock in the emulated cluster, else by asking again. Raises: TimeoutError."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        steps = int(DEADLINE_SECONDS / _EMULATED_STEP_SECONDS)
        while not condition():
            if self.emulated is not None:
                self.emulated.advance(_EMULATED_STEP_SECONDS)
                steps -= 1
            else:
                threading.Event().wait(_POLL_SECONDS)
            if steps < 0 or time.monotonic() > deadline:
                raise TimeoutError(f"not within {DEADLINE_SECONDS:g} s")

    def core(self, *path: str) -> str:
        """The path of something of the core group in the namespace."""
        return "/".join(["/api/v1/namespaces", self.namespace, *path])

    def of(self, group_version: str, *path: str) -> str:
        """The path of something of another group in the namespace."""
        return "/".join(["/apis", group_version, "namespaces", self.namespace, *path])


@contextlib.contextmanager
def target(environ: Mapping[str, str]) -> Iterator[Target]:
    """The cluster of an environment, with a namespace that is deleted afterwards."""
    namespace = f"rebake-test-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        if path := environ.get("KUBECONFIG"):
            cluster, client = None, stack.enter_context(connect(yaml.safe_load(Path(path).read_text())))
        else:
            cluster = stack.enter_context(Cluster())
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            client = stack.enter_context(httpx.Client(base_url=cluster.url, headers=headers, timeout=30))
        found = Target(client, namespace, cluster)
        made = client.post("/api/v1/namespaces", json={"metadata": {"name": namespace}})
        made.raise_for_status()
        stack.callback(client.delete, f"/api/v1/namespaces/{namespace}")
        found.until(lambda: client.get(found.core("serviceaccounts", "default")).status_code == 200)
        yield found


def connect(kubeconfig: Mapping[str, Any]) -> httpx.Client:
    """A client for a kubeconfig's current context: by token, or by a certificate in files or in the document."""

    def entry(kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in kubeconfig[f"{kind}s"] if one["name"] == name)[kind]
        return found

    context = entry("context", kubeconfig["current-context"])
    cluster, user = entry("cluster", context["cluster"]), entry("user", context["user"])
    with tempfile.TemporaryDirectory() as folder:
        tls = ssl.create_default_context(cafile=_file(Path(folder), cluster, "certificate-authority"))
        certificate = _file(Path(folder), user, "client-certificate")
        if certificate is not None:
            tls.load_cert_chain(certificate, _file(Path(folder), user, "client-key"))
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return httpx.Client(base_url=cluster["server"], headers=headers, verify=tls, timeout=30)


def _file(folder: Path, entry: Mapping[str, Any], key: str) -> str | None:
    """The file that an entry names, or one with what it holds itself."""
    if f"{key}-data" in entry:
        path = folder / key
        path.write_bytes(base64.b64decode(entry[f"{key}-data"]))
        path.chmod(0o600)
        return str(path)
    return entry.get(key)
