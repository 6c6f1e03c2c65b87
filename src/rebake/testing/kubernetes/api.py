"""From a request to its answer: what the path names, who asks, which verb it is, and how the answer reads.

Source: Kubernetes, "API Concepts" (paths, verbs, media types); apiserver `pkg/endpoints`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.access import Access, Attempt, User
from rebake.testing.kubernetes.deletion import Deleter, Deletion
from rebake.testing.kubernetes.discovery import document
from rebake.testing.kubernetes.faults import Faults
from rebake.testing.kubernetes.forwarding import Tunnel
from rebake.testing.kubernetes.forwarding import check as check_forward
from rebake.testing.kubernetes.patches import APPLY_PATCH
from rebake.testing.kubernetes.reader import Watch, events, list_objects
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.special import Logs, change_scale, evict, read_log, scale_of
from rebake.testing.kubernetes.status import (
    ApiError,
    Json,
    bad_request,
    internal_error,
    method_not_allowed,
    no_such_path,
    not_acceptable,
    unsupported_media_type,
)
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Options, Written, check_patch_media
from rebake.testing.kubernetes.writer import Writer

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}
_BODIES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_OBJECT_VERBS = frozenset({"get", "update", "patch"})


@dataclass(frozen=True, slots=True)
class Request:
    """Attributes:
    headers: by lower-case name.
    common_name, organizations: of a client's certificate.
    head: as it came.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    common_name: str = ""
    organizations: tuple[str, ...] = ()
    head: bytes = b""


@dataclass(slots=True)
class Answer:
    """Attributes:
    stream: batches of lines, instead of a body.
    tunnel: what the connection is from now on.
    dropped: the connection is closed without an answer.
    """

    code: int = 200
    body: bytes = b""
    media: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None
    tunnel: Tunnel | None = None
    dropped: bool = False


class Dropped(Exception):
    """A fault closes the connection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it was answered, for tests that count. Attributes: code: 0 where nothing was answered."""

    attempt: Attempt
    user: str
    code: int


@dataclass(slots=True)
class Api:
    """The server's inside: everything but sockets.

    Attributes:
        served: the resources there are; a test may take some away.
        asked: every request, in the order of their answers.
        defects: of the emulator, which a request brought to light.
        ask_pod: what a pod answers to GET of a path; None where nothing listens.
    """

    store: Store
    writer: Writer
    deleter: Deleter
    access: Access
    faults: Faults
    now: Callable[[], float]
    served: list[Resource]
    logs: Logs = field(default_factory=dict)
    ask_pod: Callable[[Json, str], tuple[int, str] | None] = lambda _pod, _path: None
    asked: list[Asked] = field(default_factory=list)
    defects: list[Exception] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        """Answer one request; refusals are answers, too."""
        attempt, user, answer = Attempt(request.method.lower(), None, path=request.path), "", Answer(dropped=True)
        try:
            asks = self.access.who(request.headers.get("authorization", ""), request.common_name, request.organizations)
            user = asks.name
            attempt = self._attempt(request)
            answer = self._with_faults(request, attempt, asks)
        except ApiError as error:
            answer = _json(error.status, error.code)
            if error.retry_after:
                answer.headers["Retry-After"] = str(error.retry_after)
        except Dropped:
            pass
        except Exception as error:  # a defect of ours, not a refusal: the test shall fail
            self.defects.append(error)
            answer = _json(internal_error(repr(error)).status, 500)
        self.asked.append(Asked(attempt, user, 0 if answer.dropped else answer.code))
        return answer

    def _attempt(self, request: Request) -> Attempt:
        """What the path names. Raises: ApiError 404, 405."""
        found = self._split(request.path)
        if found is None:
            return Attempt(request.method.lower(), None, path=request.path)
        resource, namespace, name, subresource = found
        verb = _VERBS.get(request.method)
        if verb is None:
            raise method_not_allowed()
        if verb == "get" and not name:
            verb = "watch" if request.query.get("watch") in {"true", "1"} else "list"
        elif verb == "delete" and not name:
            verb = "deletecollection"
        if resource == kinds.NAMESPACES and name:
            namespace = name
        attempt = Attempt(verb, resource, namespace, name, subresource, request.path)
        if not _allowed(attempt):
            raise method_not_allowed()
        return attempt

    def _split(self, path: str) -> tuple[Resource, str, str, str] | None:
        for resource in self.served:
            if not path.startswith(resource.root + "/"):
                continue
            parts = path[len(resource.root) :].strip("/").split("/")
            namespace = ""
            if resource.namespaced and parts[0] == "namespaces" and len(parts) > 2:
                namespace, parts = parts[1], parts[2:]
            if parts[0] == resource.plural and (len(parts) <= 3 or parts[2] == "proxy"):
                name, subresource = ([*parts, "", ""])[1:3]
                parts = parts[:3]
                placed = not resource.namespaced or not name or namespace
                known = not subresource or subresource in resource.subresources
                if placed and known and "" not in parts:
                    return resource, namespace, name, subresource
        return None

    def _with_faults(self, request: Request, attempt: Attempt, user: User) -> Answer:
        fault = self.faults.take(attempt)
        if fault is None:
            return self._checked(request, attempt, user)
        if fault.gate is not None and not fault.after:
            fault.gate.hold()
        answer = self._checked(request, attempt, user) if fault.after or fault.passes else None
        if fault.gate is not None and fault.after:
            fault.gate.hold()
        if answer is not None and fault.passes:
            return answer
        if fault.answer is not None:
            raise fault.answer
        raise Dropped

    def _checked(self, request: Request, attempt: Attempt, user: User) -> Answer:
        self.access.check(user, attempt)
        if attempt.subresource == "portforward" and attempt.verb == "get":  # as newer versions do for WebSockets
            self.access.check(user, replace(attempt, verb="create"))
        accept = request.headers.get("accept", "*/*")
        if attempt.subresource not in {"log", "portforward", "proxy"} and not any(
            one in accept for one in ("json", "*/*", "application/*")
        ):
            raise not_acceptable(attempt.resource, _BODIES)
        if attempt.resource is None:
            return self._other(attempt)
        if attempt.verb == "patch" and attempt.subresource not in {"scale"}:
            return self._creating_patch(request, attempt, user)
        if attempt.resource == kinds.SELF_REVIEWS:
            return _json(self.access.review(user, _body(request, attempt.resource)), 201)
        return self._verb(request, attempt)

    def _creating_patch(self, request: Request, attempt: Attempt, user: User) -> Answer:
        """An apply that creates needs the right to create as well."""
        resource = _resource(attempt)
        exists = self.writer.find(attempt.place)
        if exists is None and _media(request) == APPLY_PATCH:
            self.access.check(user, Attempt("create", resource, attempt.namespace, attempt.name))
        return self._verb(request, attempt)

    def _other(self, attempt: Attempt) -> Answer:
        if attempt.path in {"/healthz", "/livez", "/readyz"}:
            return Answer(body=b"ok", media="text/plain; charset=utf-8")
        found = document(attempt.path, self.served)
        if found is None:
            if any(attempt.path.startswith(f"{one.root}/") for one in self.served if not one.custom):
                raise no_such_path()
            return Answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
        if attempt.verb not in {"get", "head"}:
            raise method_not_allowed()
        return _json(found)

    def _verb(self, request: Request, at: Attempt) -> Answer:
        resource = _resource(at)
        if at.subresource == "proxy":
            return self._proxy(at)
        if at.subresource == "portforward":
            return self._forward(request, at)
        if at.subresource in {"scale", "eviction", "log"}:
            return self._special(request, at)
        if at.verb == "watch":
            return self._watch(request, at, resource)
        if at.verb == "list":
            return _json(list_objects(self.store, resource, at.namespace, request.query))
        if at.verb == "get":
            return _json(self.writer.current(at.place))
        if at.verb in {"delete", "deletecollection"}:
            return self._delete(request, at, resource)
        options = _options(request)
        if at.verb == "create":
            return _written(self.writer.create(at.place, _body(request, resource), options))
        if at.verb == "update":
            return _written(self.writer.update(at.place, _body(request, resource), options))
        check_patch_media(resource, _media(request))  # before its body is read
        return _written(self.writer.patch(at.place, _parse(request), _media(request), options))

    def _delete(self, request: Request, at: Attempt, resource: Resource) -> Answer:
        body = _parse(request) if request.body.strip() else {}
        how = Deletion.read(body if isinstance(body, dict) else {}, request.query)
        if at.verb == "deletecollection":
            return _json(self.deleter.delete_all(resource, at.namespace, request.query, how))
        return _json(self.deleter.delete(resource, at.namespace, at.name, how))

    def _proxy(self, at: Attempt) -> Answer:
        """What a pod itself answers. Source: Kubernetes, "Access Services Running on Clusters"."""
        name, _, _port = at.name.partition(":")
        pod = self.writer.current(replace(at, name=name).place)
        path = "/" + at.path.partition(f"/{at.name}/proxy")[2].lstrip("/")
        answered = self.ask_pod(pod, path)
        if answered is None:
            address = pod.get("status", {}).get("podIP", "")
            said = f"error trying to reach service: dial tcp {address}: connect: connection refused"
            raise ApiError(503, "ServiceUnavailable", said)
        return Answer(answered[0], answered[1].encode(), "text/plain; charset=utf-8")

    def _forward(self, request: Request, at: Attempt) -> Answer:
        check_forward(request.headers, request.query)
        pod = self.writer.current(at.place)
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {at.name} does not have a host assigned")
        return Answer(
            101, tunnel=Tunnel(request.head, int(request.query["ports"]), lambda path: self.ask_pod(pod, path))
        )

    def _special(self, request: Request, at: Attempt) -> Answer:
        item = self.writer.current(at.place)
        if at.subresource == "log":
            text = read_log(item, self.logs, request.query)
            return Answer(body=text.encode(), media="text/plain")
        if at.subresource == "eviction":
            body = _parse(request)
            return _json(evict(self.store, self.writer, self.deleter, at.place, body), 201)
        if at.verb == "get":
            return _json(scale_of(item))
        media = _media(request) if at.verb == "patch" else ""
        options = _options(request)
        with self.store.changed:
            return _json(change_scale(self.writer, at.place, _parse(request), media, options))

    def _watch(self, request: Request, at: Attempt, resource: Resource) -> Answer:
        query = dict(request.query)
        if at.name:
            query["fieldSelector"] = f"metadata.name={at.name}"
        watch = Watch(self.store, resource, at.namespace, query, self.now)
        cuts = self.faults.cuts
        batches = events(watch, lambda: self.faults.cuts != cuts)
        first = next(batches)  # refuses before the answer begins

        def lines() -> Iterator[bytes]:
            yield _lines(first)
            for batch in batches:
                if self.faults.cuts != cuts:
                    raise Dropped
                yield _lines(batch)

        return Answer(stream=lines())


def _allowed(attempt: Attempt) -> bool:
    if attempt.resource == kinds.SELF_REVIEWS:
        return attempt.verb == "create"
    if attempt.subresource == "eviction":
        return attempt.verb == "create"
    if attempt.subresource in {"log", "proxy"}:
        return attempt.verb == "get"
    if attempt.subresource == "portforward":
        return attempt.verb in {"get", "create"}
    if attempt.subresource:
        return attempt.verb in _OBJECT_VERBS
    if attempt.name:
        return attempt.verb in _OBJECT_VERBS | {"delete"}
    namespaced = attempt.resource is not None and attempt.resource.namespaced
    whole = namespaced and not attempt.namespace
    return attempt.verb in ({"list", "watch"} if whole else {"list", "watch", "create", "deletecollection"})


def _resource(attempt: Attempt) -> Resource:
    assert attempt.resource is not None
    return attempt.resource


def _json(item: Json, code: int = 200) -> Answer:
    return Answer(code, json.dumps(item, separators=(",", ":")).encode())


def _lines(batch: Sequence[Json]) -> bytes:
    return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in batch)


def _written(written: Written) -> Answer:
    answer = _json(written.item, 201 if written.created else 200)
    if written.warnings:
        quoted = [json.dumps(one, ensure_ascii=False) for one in written.warnings]
        answer.headers["Warning"] = ", ".join(f"299 - {one}" for one in quoted)
    return answer


def _media(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip()


def _parse(request: Request) -> Any:
    media = _media(request)
    text = request.body.decode("utf-8", "replace")
    try:
        if "yaml" in media:
            return json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
        if media and "json" not in media:
            raise unsupported_media_type(_BODIES)
        return json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(
            f"the object provided is unrecognized: couldn't get version/kind; parse error: {error}"
        ) from error


def _body(request: Request, resource: Resource) -> Json:
    """The object a request brings, of the kind its path names. Raises: ApiError 400, 415."""
    body = _parse(request)
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    version = body.get("apiVersion", resource.api_version)
    if version != resource.api_version:
        expected = f"does not match the expected API version ({resource.api_version})"
        raise bad_request(f"the API version in the data ({version}) {expected}")
    if body.get("kind", resource.kind) != resource.kind:
        said = f'{body["kind"]} in version "{resource.version}" cannot be handled as a {resource.kind}'
        raise bad_request(f"{said}: converting to ({resource.kind}) from ({body['kind']}): unknown conversion")
    return body


def _options(request: Request) -> Options:
    query = request.query
    if query.get("dryRun") not in {None, "", "All"}:
        raise bad_request(f'dryRun: Unsupported value: "{query["dryRun"]}": supported values: "All"')
    agent = request.headers.get("user-agent", "unknown").split("/")[0]
    force = query.get("force")
    return Options(
        manager=query.get("fieldManager") or agent,
        explicit=bool(query.get("fieldManager")),
        dry_run=query.get("dryRun") == "All",
        force=None if force is None else force in {"true", "1"},
        field_validation=query.get("fieldValidation") or "Warn",
    )
