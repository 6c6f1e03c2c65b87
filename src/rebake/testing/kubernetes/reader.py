"""Get, list and watch.

Source: Kubernetes, "API Concepts": resource versions, paging, efficient detection of changes, streaming lists.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.selectors import parse_fields, parse_labels
from rebake.testing.kubernetes.status import ApiError, Cause, Json, bad_request, expired, invalid_kind
from rebake.testing.kubernetes.store import Change, Store

BOOKMARK_SECONDS = 60.0
WATCH_SECONDS = 1800.0
"""How long a watch lasts that names no time, by the cluster's clock; a real server draws 30 to 60 minutes."""
_CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
Query = Mapping[str, str]
Wanted = Callable[[Json], bool]


def _wanted(resource: Resource, query: Query) -> Wanted:
    labels = parse_labels(query.get("labelSelector", ""))
    fields = parse_fields(resource, query.get("fieldSelector", ""))
    return lambda item: labels(item["metadata"].get("labels", {})) and fields(item)


def _number(query: Query, name: str) -> int:
    text = query.get(name) or "0"
    if not text.isdigit():
        if name == "resourceVersion":
            causes = [Cause("FieldValueInvalid", name, f'strconv.ParseUint: parsing "{text}": invalid syntax', text)]
            raise invalid_kind("meta.k8s.io", "ListOptions", "", causes)
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def list_objects(store: Store, resource: Resource, namespace: str, query: Query) -> Json:
    """A list, or one page of it. Raises: ApiError 400, 410, 504."""
    wanted, limit, version = _wanted(resource, query), _number(query, "limit"), _number(query, "resourceVersion")
    with store.changed:
        start, at = ("", ""), store.version
        if version > at:
            _too_large(version, at)
        if token := query.get("continue"):
            start, at = _read_token(store, token)
        elif version and query.get("resourceVersionMatch") == "Exact":
            at = version
            if store.is_forgotten(at):
                raise expired(f"The provided resource version is too old: {at}")
        items = [one for one in _at(store, resource, namespace, at) if wanted(one) and _key(one) > start]
    page = items[:limit] if limit else items
    metadata: Json = {"resourceVersion": str(at)}
    if len(page) < len(items):
        metadata["continue"] = _token(at, _key(page[-1]))
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            metadata["remainingItemCount"] = len(items) - len(page)
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
    return {**head, "metadata": metadata, "items": [_bare(one) for one in page]}


def _bare(item: Json) -> Json:
    """Items of a list do not say their kind."""
    return {name: one for name, one in item.items() if name not in {"kind", "apiVersion"}}


def _key(item: Json) -> tuple[str, str]:
    return (item["metadata"].get("namespace", ""), item["metadata"]["name"])


def _at(store: Store, resource: Resource, namespace: str, version: int) -> list[Json]:
    """The objects as they were at a version: those of now, with what came later undone."""
    held = {_key(one): one for one in store.all(resource)}
    for change in reversed(list(store.since(resource, version))):
        key = _key(change.last)
        if change.before is None:
            held.pop(key, None)
        else:
            held[key] = change.before
    return [one for key, one in sorted(held.items()) if not namespace or key[0] == namespace]


def _token(version: int, key: tuple[str, str]) -> str:
    said = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": "/".join(key)})
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def _read_token(store: Store, token: str) -> tuple[tuple[str, str], int]:
    try:
        said = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = said["start"].split("/")
        version = int(said["rv"])
    except (binascii.Error, ValueError, KeyError, UnicodeDecodeError) as error:
        raise bad_request("continue key is not valid: " + str(error)) from error
    if store.is_forgotten(version):
        gone = expired(_CONTINUE_EXPIRED)
        gone.status["metadata"] = {"continue": _token(store.version, (namespace, name))}
        raise gone
    return (namespace, name), version


def _too_large(version: int, current: int) -> None:
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    raise ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


@dataclass(slots=True)
class Watch:
    """One watch: what it sends next, as its store moves on.

    Attributes:
        ended: nothing more comes; the stream is closed.
    """

    store: Store
    resource: Resource
    namespace: str
    query: Query
    now: Callable[[], float]
    ended: bool = False
    _version: int = 0
    _until: float = 0.0
    _bookmark_at: float = 0.0
    _wanted: Wanted = lambda _: True

    def begin(self) -> list[Json]:
        """The first events: what is there already, if it is to be told. Raises: ApiError 400, 422, 504."""
        self._wanted = _wanted(self.resource, self.query)
        version = _number(self.query, "resourceVersion")
        self._until = self.now() + (_number(self.query, "timeoutSeconds") or WATCH_SECONDS)
        self._bookmark_at = self.now() + BOOKMARK_SECONDS
        initial = self.query.get("sendInitialEvents")
        if initial is not None and self.query.get("resourceVersionMatch") != "NotOlderThan":
            detail = "resourceVersionMatch is required when sendInitialEvents is set" + (
                "" if not self.query.get("resourceVersionMatch") else ": only NotOlderThan is supported"
            )
            causes = [Cause("FieldValueForbidden", "resourceVersionMatch", detail)]
            raise invalid_kind("meta.k8s.io", "ListOptions", "", causes)
        with self.store.changed:
            if version > self.store.version:
                _too_large(version, self.store.version)
            if version and initial != "true":
                self._version = version
                return []
            self._version = self.store.version
            if initial == "false":
                return []
            events = [
                {"type": "ADDED", "object": one}
                for one in self.store.all(self.resource, self.namespace)
                if self._wanted(one)
            ]
            return events + ([self._bookmark(initial_end=True)] if initial == "true" and self._bookmarks else [])

    @property
    def _bookmarks(self) -> bool:
        return self.query.get("allowWatchBookmarks") in {"true", "1"}

    def more(self) -> list[Json]:
        """What has happened since. A version that was forgotten ends the watch with an event of 410."""
        try:
            changes = list(self.store.since(self.resource, self._version))
        except ApiError as gone:
            self.ended = True
            return [{"type": "ERROR", "object": gone.status}]
        events = [event for change in changes if (event := self._event(change)) is not None]
        self._version = max(self._version, self.store.version)
        if self._bookmarks and self.now() >= min(self._bookmark_at, self._until):
            self._bookmark_at = self.now() + BOOKMARK_SECONDS
            events.append(self._bookmark())
        self.ended = self.now() >= self._until
        return events

    def _event(self, change: Change) -> Json | None:
        """An object that comes to fit the selectors is added, one that fits no more is deleted."""
        if self.namespace and change.last["metadata"].get("namespace") != self.namespace:
            return None
        was = change.before is not None and self._wanted(change.before)
        if change.after is None:
            return {"type": "DELETED", "object": change.last} if was else None
        fits = self._wanted(change.after)
        if fits:
            return {"type": "MODIFIED" if was else "ADDED", "object": change.after}
        if not was or change.before is None:
            return None
        metadata = {**change.before["metadata"], "resourceVersion": str(change.version)}
        return {"type": "DELETED", "object": {**change.before, "metadata": metadata}}

    def _bookmark(self, *, initial_end: bool = False) -> Json:
        metadata: dict[str, Any] = {"resourceVersion": str(self.store.version)}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        head = {"kind": self.resource.kind, "apiVersion": self.resource.api_version}
        return {"type": "BOOKMARK", "object": {**head, "metadata": metadata}}


def events(watch: Watch, stop: Callable[[], bool]) -> Iterator[list[Json]]:
    """Batches of a watch's events, as they come; empty ones while nothing does, so that a caller can look around."""
    yield watch.begin()
    while not watch.ended:
        with watch.store.changed:
            batch = watch.more()
            if not batch and not watch.ended:
                watch.store.changed.wait(1.0)
                batch = watch.more()
        yield batch
        if stop():
            return
