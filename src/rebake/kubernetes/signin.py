"""Who speaks to which API server: from a kubeconfig, from the account of our own pod, or by a cloud's exec plugin.

Source: Kubernetes, "Organizing Cluster Access Using kubeconfig Files"; "Authenticating", client-go credential plugins.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

from rebake.errors import Permanent, Transient
from rebake.kubernetes import kubeconfig as files
from rebake.kubernetes.kubeconfig import Chosen, Doc
from rebake.kubernetes.resources import seconds_of

DEFAULT_KUBECONFIG = "~/.kube/config"
_EXEC_VERSIONS = tuple(f"client.authentication.k8s.io/{one}" for one in ("v1", "v1beta1"))
_PLUGIN_SECONDS = 60
_EARLY_SECONDS = 60.0
"""A token is renewed this long before it ends."""
_FILE_SECONDS = 60.0
"""How long a token from a file is believed to be the newest; the kubelet exchanges it long before it ends."""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Attributes:
    server: its URL.
    namespace: the one that is meant where none is named.
    name: of the context.
    inside: we are a pod of this very cluster, by whose account we sign in.
    """

    server: str
    namespace: str
    name: str
    verify: ssl.SSLContext | bool
    auth: httpx.Auth | None
    inside: bool = False


def sign_in(kubeconfig: str | None, context: str | None, environ: Mapping[str, str]) -> SignIn:
    """Find the server and our credentials.

    Args:
        kubeconfig: a file; None: `$KUBECONFIG`, else the account of our own pod, else `~/.kube/config`.
        context: of the kubeconfig; None for its current one.
    Raises: Permanent `kubeconfig-…` naming what is missing.
    """
    try:
        inside = _is_inside(kubeconfig, context, environ)
        found = files.account(environ) if inside else _chosen(kubeconfig, context, environ)
        verify: ssl.SSLContext | bool = found.tls() if found.server.startswith("https:") else True
        auth = _auth(found, environ)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, yaml.YAMLError) as error:
        raise _unusable(kubeconfig or environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG, error) from error
    return SignIn(found.server, found.namespace, found.name, verify, auth, inside)


def _is_inside(kubeconfig: str | None, context: str | None, environ: Mapping[str, str]) -> bool:
    named = kubeconfig or environ.get("KUBECONFIG") or context
    return not named and bool(environ.get("KUBERNETES_SERVICE_HOST")) and (files.ACCOUNT / "token").exists()


def _chosen(kubeconfig: str | None, context: str | None, environ: Mapping[str, str]) -> Chosen:
    told = kubeconfig or environ.get("KUBECONFIG")
    named = [told] if kubeconfig else (told or DEFAULT_KUBECONFIG).split(os.pathsep)
    paths = [Path(one).expanduser() for one in named if one]
    present = [files.read(one) for one in paths if len(paths) == 1 or one.exists()]
    wanted = context or next((one.current for one in present if one.current), None)
    holder = next((one for one in present if wanted in one.contexts), None)
    if holder is None or wanted is None:
        known = sorted({name for one in present for name in one.contexts})
        raise Permanent(
            "kubeconfig-context",
            f"expected the context {wanted or 'that is the current one'} in {told or DEFAULT_KUBECONFIG}, "
            f"found {', '.join(known) or 'none'}",
            where=told or DEFAULT_KUBECONFIG,
            remedy="name one of them under kubernetes: context, or run kubectl config use-context NAME",
        )
    return holder.choose(wanted)


def _unusable(path: str, error: Exception) -> Permanent:
    said = f"no {error}" if isinstance(error, KeyError) else str(error)
    return Permanent(
        "kubeconfig-unusable",
        f"expected a kubeconfig that names a server and credentials, found: {said}",
        where=path,
        remedy="write kubernetes: kubeconfig, or set KUBECONFIG for the agent; see `kubectl config view`",
    )


# --- credentials -----------------------------------------------------------------------------------------------------


class Tokens(Protocol):
    """Where bearer tokens come from."""

    def token(self, *, fresh: bool) -> str:
        """Args: fresh: the last one was refused."""
        ...


def _auth(found: Chosen, environ: Mapping[str, str]) -> httpx.Auth | None:
    user = found.user
    if user.get("tokenFile"):
        return _Bearer(_TokenFile(found.path(str(user["tokenFile"]))))
    if user.get("token"):
        return _Bearer(_Constant(str(user["token"])))
    if user.get("exec"):
        return _Bearer(_plugin(user["exec"], found, environ))
    if user.get("username") and user.get("password"):
        return httpx.BasicAuth(str(user["username"]), str(user["password"]))
    if user.get("auth-provider"):
        raise Permanent(
            "kubeconfig-auth-provider",
            f"expected exec, a token or a certificate, found auth-provider {user['auth-provider'].get('name')}",
            where=str(found.file or ""),
            remedy="let the cloud's tool write the kubeconfig anew: it uses an exec plugin today",
        )
    return None


class _Bearer(httpx.Auth):
    """Sends a token; once more with a fresh one when it was refused."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        first = self._tokens.token(fresh=False)
        request.headers["Authorization"] = f"Bearer {first}"
        response = yield request
        if response.status_code == 401 and (second := self._tokens.token(fresh=True)) != first:
            request.headers["Authorization"] = f"Bearer {second}"
            yield request


@dataclass(frozen=True, slots=True)
class _Constant:
    value: str

    def token(self, *, fresh: bool) -> str:  # noqa: ARG002
        return self.value


class _TokenFile:
    """A token that somebody exchanges from time to time, such as the kubelet."""

    def __init__(self, path: Path) -> None:
        self._path, self._value, self._read_at = path, "", -_FILE_SECONDS

    def token(self, *, fresh: bool) -> str:
        if fresh or time.monotonic() - self._read_at >= _FILE_SECONDS:
            try:
                self._value, self._read_at = self._path.read_text(encoding="utf-8").strip(), time.monotonic()
            except OSError as error:
                raise _unusable(str(self._path), error) from error
        return self._value


def _plugin(plugin: Doc, found: Chosen, environ: Mapping[str, str]) -> _ExecPlugin:
    version = str(plugin.get("apiVersion"))
    if version not in _EXEC_VERSIONS:
        raise Permanent(
            "exec-plugin-version",
            f"expected an exec plugin that speaks {' or '.join(_EXEC_VERSIONS)}, found {version}",
            where=str(found.file or ""),
            remedy="let the cloud's tool write the kubeconfig anew",
        )
    command = str(plugin["command"])
    if "/" in command:
        command = str(found.path(command))
    told = ("server", "certificate-authority-data")
    spec = {"interactive": False, "cluster": {one: found.cluster[one] for one in told if found.cluster.get(one)}}
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    own = {str(one["name"]): str(one["value"]) for one in plugin.get("env") or ()}
    words = [command, *map(str, plugin.get("args") or ())]
    env = {**environ, **own, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    return _ExecPlugin(words, env, str(plugin.get("installHint") or ""))


class _ExecPlugin:
    """A program that prints a token, such as `aws eks get-token`, `gke-gcloud-auth-plugin` or `kubelogin`."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], hint: str) -> None:
        self._command, self._env, self._hint = list(command), dict(env), hint
        self._value, self._until = "", 0.0
        self._lock = threading.Lock()

    def token(self, *, fresh: bool) -> str:
        refused = self._value
        with self._lock:
            renewed = fresh and self._value != refused  # by another thread, meanwhile
            if not self._value or time.time() >= self._until - _EARLY_SECONDS or (fresh and not renewed):
                self._value, self._until = _credential(self._run(), self._command[0])
            return self._value

    def _run(self) -> bytes:
        try:
            done = subprocess.run(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PLUGIN_SECONDS,
                check=False,
            )
        except FileNotFoundError as error:
            raise Permanent(
                "exec-plugin-missing",
                f"the kubeconfig signs in with {self._command[0]}, which is not installed here",
                where=self._command[0],
                remedy=self._hint or f"install {self._command[0]}, or put it on the agent's PATH",
            ) from error
        except subprocess.TimeoutExpired as error:
            problem = f"{self._command[0]} gave no credentials within {_PLUGIN_SECONDS} s"
            raise Transient("exec-plugin-slow", problem, where=self._command[0]) from error
        if done.returncode != 0:
            tail = done.stderr.decode("utf-8", "replace").strip().splitlines()[-10:]
            raise Permanent(
                "exec-plugin-failed",
                f"{self._command[0]} gave no credentials: exit {done.returncode}" + (f": {tail[-1]}" if tail else ""),
                where=self._command[0],
                evidence=tail,
                remedy=f"sign in with the cloud's tool, and run: {' '.join(self._command)}",
            )
        return done.stdout


def _credential(printed: bytes, program: str) -> tuple[str, float]:
    """Token and its end, seconds since the epoch."""
    try:
        status: dict[str, Any] = json.loads(printed)["status"]
        until = status.get("expirationTimestamp")
        end = seconds_of(until) if until else float("inf")
        return str(status["token"]), end
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Permanent(
            "exec-plugin-answer",
            f"expected an ExecCredential with a token from {program}, found {printed[:100]!r}",
            where=program,
            remedy="let the cloud's tool write the kubeconfig anew; plugins that give certificates are not supported",
        ) from error
