"""Kubeconfig files: which server a context names, and which credentials.

Our own reader: a client library for this took 0.3 s of an agent's first rollout to load, for two pages of YAML.
Source: Kubernetes, "Organizing Cluster Access Using kubeconfig Files"; client-go `tools/clientcmd/api/v1`.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own account. Source: Kubernetes, "Accessing the Kubernetes API from a Pod"."""
NAMESPACE = "default"
Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one context names.

    Attributes:
        cluster, user: as they are written; a user without anything signs in as nobody.
        file: the kubeconfig, which paths in it are relative to.
    """

    name: str
    namespace: str
    cluster: Doc
    user: Doc = field(default_factory=dict)
    file: Path | None = None

    @property
    def server(self) -> str:
        found = self.cluster["server"]
        if not isinstance(found, str) or not found.startswith(("http://", "https://")):
            raise ValueError(f"expected the URL of a server, found {found!r}")
        return found.rstrip("/")

    def path(self, text: str) -> Path:
        """A file that is named in it."""
        path = Path(text)
        return path if path.is_absolute() or self.file is None else self.file.parent / path

    def tls(self) -> ssl.SSLContext:
        """Whom to believe, and who we are. Raises: OSError, ValueError of certificates that cannot be read."""
        authority, data = self.cluster.get("certificate-authority"), self.cluster.get("certificate-authority-data")
        if authority:
            context = ssl.create_default_context(cafile=str(self.path(str(authority))))
        elif data:
            context = ssl.create_default_context(cadata=base64.b64decode(str(data)).decode("ascii"))
        else:
            context = ssl.create_default_context()
        if self.cluster.get("insecure-skip-tls-verify"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with tempfile.TemporaryDirectory(prefix="rebake-kubeconfig-") as folder:
            certificate = self._file("client-certificate", Path(folder))
            if certificate is not None:
                context.load_cert_chain(certificate, self._file("client-key", Path(folder)))
        return context

    def _file(self, key: str, folder: Path) -> Path | None:
        """A file of the user's; of what stands in the kubeconfig itself, one in a folder that only we may read."""
        if data := self.user.get(f"{key}-data"):
            made = folder / key
            made.touch(mode=0o600)
            made.write_bytes(base64.b64decode(str(data)))
            return made
        named = self.user.get(key)
        return self.path(str(named)) if named else None


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One file. Attributes: current: the name of its current context; empty without."""

    file: Path
    current: str
    contexts: Mapping[str, Doc]
    clusters: Mapping[str, Doc]
    users: Mapping[str, Doc]

    def choose(self, name: str) -> Chosen:
        """Raises: KeyError, naming what is not there."""
        context = self.contexts[name]
        user = self.users[str(context["user"])] if context.get("user") else {}
        namespace = str(context.get("namespace") or NAMESPACE)
        return Chosen(name, namespace, self.clusters[str(context["cluster"])], user, self.file)


def read(path: Path) -> Kubeconfig:
    """Raises: OSError; yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError of what is no kubeconfig."""
    doc = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(doc, dict):
        raise TypeError(f"expected a mapping, found {type(doc).__name__}")
    contexts, clusters, users = (_named(doc, kind) for kind in ("context", "cluster", "user"))
    return Kubeconfig(path, str(doc.get("current-context") or ""), contexts, clusters, users)


def _named(doc: Doc, kind: str) -> dict[str, Doc]:
    rows = doc.get(f"{kind}s") or []
    return {str(row["name"]): dict(row.get(kind) or {}) for row in rows}


def account(environ: Mapping[str, str]) -> Chosen:
    """The account of the pod that we are. Raises: OSError, KeyError."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ["KUBERNETES_SERVICE_PORT"]
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    namespace = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    cluster = {"server": server, "certificate-authority": str(ACCOUNT / "ca.crt")}
    return Chosen("in-cluster", namespace or NAMESPACE, cluster, {"tokenFile": str(ACCOUNT / "token")})
