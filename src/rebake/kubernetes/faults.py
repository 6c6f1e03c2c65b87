"""What the API server says when it refuses, translated into who must act and what to do. Pure.

The server's own sentence is always part of the problem: it names the object and the reason better than we could.
Source: Kubernetes, "API Concepts"; apimachinery `pkg/api/errors`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rebake.errors import Permanent, PlatformError, Transient

_DENIED = re.compile(
    r'(?P<who>User "[^"]*") cannot (?P<verb>\S+) resource "(?P<what>[^"]+)" in API group "(?P<group>[^"]*)"'
)
_WEBHOOK = re.compile(r'admission webhook "(?P<name>[^"]+)" denied the request')
_POLICY = re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)' with binding \S+ denied request")
_FAILED_WEBHOOK = re.compile(r'failed calling webhook "(?P<name>[^"]+)"')
_NO_NAMESPACE = re.compile(r'namespaces "(?P<name>[^"]+)" not found')
_LATER = 2.0


class Stale(Transient):
    """Somebody changed the object since it was read: read it again."""


class Expired(Transient):
    """The version to go on from is forgotten: list again."""


class Taken(Permanent):
    """An object of that name is there already."""


class Absent(Permanent):
    """There is no such object."""


def refusal(code: int, body: bytes, where: str, headers: Mapping[str, str] | None = None) -> PlatformError:
    """The error for an answer that is no success.

    Args:
        code: HTTP status. body: a `Status`, or whatever came.
        where: what was asked for, such as `deployments.apps shop/web`.
        headers: by lower-case name.
    """
    status = _status(body)
    reason, said = str(status.get("reason", "")), str(status.get("message") or f"HTTP {code}").strip()
    wait = _retry_after(status, headers or {})
    if code == 401:
        return Permanent(
            "kubernetes-unauthorized",
            f"the API server knows nobody with these credentials: {said}",
            where=where,
            remedy="sign in again, and see that `kubectl auth whoami` works with the same kubeconfig and context",
        )
    if code == 409 or (code == 422 and _is_another(status)):
        if reason == "AlreadyExists":
            return Taken("kubernetes-exists", said, where=where, remedy="remove the object, if it is not rebake's")
        return Stale("kubernetes-conflict", said, where=where, retry_after_seconds=wait or 0.1)
    if code == 410:
        return Expired("kubernetes-expired", said, where=where, retry_after_seconds=wait or 0.1)
    if code == 429:
        return Transient("kubernetes-busy", said, where=where, retry_after_seconds=wait or _LATER)
    if code >= 500 and not _WEBHOOK.search(said):
        return _failing(code, said, where, wait)
    return _refused(code, said, where)


def _is_another(status: Mapping[str, Any]) -> bool:
    """Whether a patch named the uid of an object whose name another one has by now."""
    causes = (status.get("details") or {}).get("causes") or ()
    return bool(causes) and all(one.get("field") == "metadata.uid" for one in causes)


def _failing(code: int, said: str, where: str, wait: float) -> PlatformError:
    hook = _FAILED_WEBHOOK.search(said)
    if hook:
        remedy = f"see why the webhook {hook['name']} does not answer; it stands before every change"
        return Transient("kubernetes-webhook", said, where=where, remedy=remedy, retry_after_seconds=wait or 5.0)
    problem = f"the API server fails: {said} (HTTP {code})"
    return Transient("kubernetes-failing", problem, where=where, retry_after_seconds=wait or _LATER)


def _refused(code: int, said: str, where: str) -> PlatformError:
    """What will be refused again until somebody changes something."""
    if hook := _WEBHOOK.search(said) or _POLICY.search(said):
        remedy = f"change the release or its settings so that the policy behind {hook['name']} lets it pass"
        return Permanent("kubernetes-policy", said, where=where, remedy=remedy)
    if namespace := _NO_NAMESPACE.search(said):
        remedy = f"kubectl create namespace {namespace['name']}, or name another one under kubernetes: namespace"
        return Permanent("kubernetes-no-namespace", said, where=where, remedy=remedy)
    if code == 403:
        return _forbidden(said, where)
    if code == 404:
        return Absent("kubernetes-not-found", said, where=where, remedy="see that the cluster has this kind of object")
    return Permanent("kubernetes-invalid", said, where=where, remedy="correct what the sentence names and deploy again")


def _forbidden(said: str, where: str) -> PlatformError:
    if "exceeded quota" in said:
        remedy = "let the quota of the namespace be raised, or ask for less: run.resources, instances"
        return Permanent("kubernetes-quota", said, where=where, remedy=remedy)
    if "violates PodSecurity" in said:
        remedy = "this is what the namespace demands of pods: see kubernetes: user, writable in rebake.yaml"
        return Permanent("kubernetes-pod-security", said, where=where, remedy=remedy)
    denied = _DENIED.search(said)
    if denied is None:
        return Permanent("kubernetes-forbidden", said, where=where, remedy="see docs/kubernetes.md for the Role")
    rule = f'{{apiGroups: ["{denied["group"]}"], resources: [{denied["what"]}], verbs: [{denied["verb"]}]}}'
    remedy = f"add this rule to the Role of {denied['who'].replace('User ', '')}: {rule}"
    return Permanent("kubernetes-forbidden", said, where=where, remedy=remedy)


def unreachable(error: Exception, server: str, where: str) -> Transient:
    """Nobody answered, or the connection broke. Nothing is known of what was asked for."""
    said = str(error) or type(error).__name__
    return Transient(
        "kubernetes-unreachable",
        f"the API server {server} cannot be reached: {said}",
        where=where,
        remedy="see that `kubectl version` answers with the same kubeconfig and context",
        retry_after_seconds=_LATER,
    )


def _status(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {"message": body[:300].decode("utf-8", "replace")}
    return found if isinstance(found, dict) else {}


def _retry_after(status: Mapping[str, Any], headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    seconds = (status.get("details") or {}).get("retryAfterSeconds") or (text if text.isdigit() else 0)
    return float(seconds)
