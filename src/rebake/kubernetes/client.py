"""One API server: sends, and translates what it refuses. Safe from several threads.

Objects are plain JSON, as the server writes them: what another version of Kubernetes adds is kept as it is.
Source: Kubernetes, "API Concepts"; "Server-Side Apply".
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from rebake.errors import PlatformError
from rebake.kubernetes.faults import Absent, refusal, unreachable
from rebake.kubernetes.names import MANAGER
from rebake.kubernetes.resources import ACCESS_REVIEWS, PODS, Json, Kind
from rebake.kubernetes.signin import SignIn

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
_CONNECTIONS = 32
_PAGE = 500
_QUIET_SECONDS = 30.0
"""How long a watch may be silent after its own end."""
_SOCKET = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]
"""A watch that says nothing for minutes notices within 30 s that its server is gone."""


class KubeClient:
    """Raises (every method): PlatformError, see `faults`.

    Attributes:
        server: its URL.
        namespace: the one of the context.
        sign: how it signs in.
    """

    def __init__(self, sign: SignIn) -> None:
        self.sign = sign
        self.server, self.namespace, self.name = sign.server, sign.namespace, sign.name
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_CONNECTIONS)
        transport = httpx.HTTPTransport(verify=sign.verify, limits=limits, socket_options=_SOCKET, retries=0)
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        agent = {"User-Agent": "rebake", "Accept": "application/json"}
        self._http = httpx.Client(
            base_url=sign.server, transport=transport, auth=sign.auth, timeout=timeout, headers=agent
        )

    def close(self) -> None:
        self._http.close()

    # Reading.

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """The object; None where there is none."""
        try:
            return self._json("GET", kind, namespace, name)
        except Absent:
            return None

    def find(self, kind: Kind, namespace: str, selector: str = "", fields: str = "") -> tuple[list[Json], str]:
        """All objects, and the version at which they are all. Read in pages, which show one version."""
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(_PAGE)}
        found: list[Json] = []
        while True:
            page = self._json("GET", kind, namespace, query=query)
            found += page.get("items") or ()
            query["continue"] = str(page["metadata"].get("continue") or "")
            if not query["continue"]:
                return found, str(page["metadata"]["resourceVersion"])

    def watch(
        self, kind: Kind, namespace: str, selector: str, version: str, seconds: float
    ) -> contextlib.AbstractContextManager[Iterator[Json]]:
        """Events after a version, until the server ends it after about so many seconds. See `_watch`."""
        query = {
            **{"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"},
            **{"labelSelector": selector, "timeoutSeconds": str(int(seconds))},
        }
        return self._watch(kind, namespace, query, seconds)

    @contextlib.contextmanager
    def _watch(self, kind: Kind, namespace: str, query: Mapping[str, str], seconds: float) -> Iterator[Iterator[Json]]:
        where = f"{kind.resource} in {namespace}"
        timeout = httpx.Timeout(seconds + _QUIET_SECONDS, connect=_CONNECT_SECONDS)
        try:
            with self._http.stream("GET", kind.path(namespace), params=_given(query), timeout=timeout) as answer:
                if answer.status_code >= 400:
                    raise refusal(answer.status_code, answer.read(), where, dict(answer.headers))
                yield _events(answer, where)
        except httpx.HTTPError as error:
            raise unreachable(error, self.server, where) from error

    def logs(self, namespace: str, pod: str, lines: int, *, previous: bool = False, container: str = "") -> list[str]:
        """The last lines a pod's container wrote, or the one before it; none where there is no such log."""
        query = {"tailLines": str(lines), "previous": "true" if previous else "", "container": container}
        try:
            text = self._send("GET", PODS.path(namespace, pod, "log"), f"pods {namespace}/{pod}", query=query).text
        except PlatformError as error:
            if error.code in ("kubernetes-not-found", "kubernetes-invalid"):  # gone, or it has not begun yet
                return []
            raise
        return text.splitlines()

    def version(self) -> str:
        """Such as `v1.36.1`."""
        return str(self._send("GET", "/version", "the API server").json()["gitVersion"])

    def has(self, kind: Kind) -> bool:
        """Whether the cluster serves this kind of object."""
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        try:
            rows = self._send("GET", root, root).json().get("resources") or ()
        except Absent:
            return False
        return any(row.get("name") == kind.plural for row in rows)

    def may(self, verb: str, kind: Kind, namespace: str, subresource: str = "") -> bool:
        """Whether we are allowed to. Source: Kubernetes, "Checking API Access"."""
        asked = {"verb": verb, "group": kind.group, "version": kind.version, "resource": kind.plural}
        asked |= {"namespace": namespace, "subresource": subresource}
        body = {"apiVersion": ACCESS_REVIEWS.api_version, "kind": ACCESS_REVIEWS.name}
        answer = self._json("POST", ACCESS_REVIEWS, "", body={**body, "spec": {"resourceAttributes": asked}})
        return bool((answer.get("status") or {}).get("allowed"))

    # Writing.

    def create(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Raises: Taken where there is one of that name."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return self._json("POST", kind, namespace, body=body, query=query)

    def apply(self, kind: Kind, namespace: str, body: Json) -> Json:
        """Server-side apply of all that we own of an object; what others own is taken over where both say something.

        With `metadata.resourceVersion` it is refused (Stale) when the object is another one by now.
        """
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        name, media = str(body["metadata"]["name"]), "application/apply-patch+yaml"
        return self._json("PATCH", kind, namespace, name, body=body, query=query, media=media)

    def replace(self, kind: Kind, namespace: str, body: Json) -> Json:
        """The whole object. Raises: Stale where `metadata.resourceVersion` is not the newest."""
        return self._json("PUT", kind, namespace, str(body["metadata"]["name"]), body=body, query=_OURS)

    def patch(self, kind: Kind, namespace: str, name: str, body: Json) -> Json | None:
        """A merge patch; None where there is no such object. Source: RFC 7396."""
        media = "application/merge-patch+json"
        try:
            return self._json("PATCH", kind, namespace, name, body=body, query=_OURS, media=media)
        except Absent:
            return None

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        grace_seconds: int | None = None,
    ) -> Json | None:
        """Delete it, with all that it owns after it. What it is now; None where it is gone.

        Args:
            uid, version: only the object that has them; refused (Stale) if it is another one by now.
            grace_seconds: of a pod; None for its own.
        """
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        conditions = {"uid": uid, "resourceVersion": version}
        if uid or version:
            options["preconditions"] = {name: value for name, value in conditions.items() if value}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            found = self._json("DELETE", kind, namespace, name, body=options)
        except Absent:
            return None
        return found if found.get("kind") != "Status" else None

    # Sending.

    def _json(
        self,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        media: str = "application/json",
    ) -> Json:
        where = f"{kind.resource} {namespace}/{name}" if name else f"{kind.resource} in {namespace}"
        answer = self._send(method, kind.path(namespace, name), where, body=body, query=query, media=media)
        found: Json = answer.json()
        return found

    def _send(
        self,
        method: str,
        path: str,
        where: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        media: str = "application/json",
    ) -> httpx.Response:
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": media} if content is not None else None
        try:
            answer = self._http.request(method, path, params=_given(query or {}), content=content, headers=headers)
        except httpx.HTTPError as error:
            raise unreachable(error, self.server, where) from error
        if answer.status_code >= 400:
            raise refusal(answer.status_code, answer.content, where, dict(answer.headers))
        return answer


_OURS = {"fieldManager": MANAGER}


def _given(query: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if value}


def _events(answer: httpx.Response, where: str) -> Iterator[Json]:
    """Raises: Expired, or what else an ERROR event says; httpx.HTTPError when the stream breaks."""
    for line in answer.iter_lines():
        if not line:
            continue
        event: dict[str, Any] = json.loads(line)
        if event.get("type") == "ERROR":
            status = event.get("object") or {}
            raise refusal(int(status.get("code") or 500), json.dumps(status).encode(), where)
        yield event
