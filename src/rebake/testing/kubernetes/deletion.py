"""Deletion: grace, finalizers, and what becomes of dependents.

Source: Kubernetes, "Garbage Collection", "Finalizers", "Pod Lifecycle"; apiserver `pkg/registry/generic/registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.reader import Query, list_objects
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import Json, bad_request, invalid_kind, success, unmet, unsupported
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.wishes import Place
from rebake.testing.kubernetes.writer import Writer

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_POLICIES = {"Foreground": FOREGROUND, "Orphan": ORPHAN, "Background": ""}
_RETURNS_OBJECT = frozenset({kinds.PODS, kinds.SERVICES, kinds.NAMESPACES, kinds.SERVICE_ACCOUNTS})


@dataclass(frozen=True, slots=True)
class Deletion:
    """How something is deleted. Attributes: grace: seconds, None for the object's own."""

    grace: int | None = None
    policy: str = ""
    uid: str = ""
    version: str = ""
    dry_run: bool = False

    @classmethod
    def read(cls, body: Mapping[str, Any], query: Query) -> Deletion:
        """From `DeleteOptions` in the body, or the query. Raises: ApiError 422."""
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        policy = body.get("propagationPolicy") or query.get("propagationPolicy", "")
        if policy and policy not in _POLICIES:
            causes = [unsupported("propagationPolicy", policy, [*_POLICIES, "nil"])]
            raise invalid_kind("meta.k8s.io", "DeleteOptions", "", causes)
        wanted = body.get("preconditions") or {}
        dry = bool(body.get("dryRun") or query.get("dryRun"))
        where = (wanted.get("uid", ""), wanted.get("resourceVersion", ""))
        if grace is not None and not str(grace).lstrip("-").isdigit():
            raise bad_request(f"gracePeriodSeconds: no number: {grace}")
        return cls(None if grace is None else int(grace), policy, *where, dry_run=dry)


class Deleter:
    """Deletes objects; whatever is left to do (finalizers, grace) is done by controllers later."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer

    def delete(self, resource: Resource, namespace: str, name: str, how: Deletion) -> Json:
        """The answer: the object while it is still there, else `Status`. Raises: ApiError 404, 409."""
        with self._store.changed:
            item = self._writer.current(Place(resource, namespace, name))
            metadata = item["metadata"]
            if how.uid and how.uid != metadata["uid"]:
                said = "The object might have been deleted and then recreated"
                raise unmet(resource, item, "UID", how.uid, said)
            if how.version and how.version != metadata["resourceVersion"]:
                raise unmet(resource, item, "ResourceVersion", how.version, "The object might have been modified")
            return self._delete(resource, item, how)

    def _delete(self, resource: Resource, item: Json, how: Deletion) -> Json:
        metadata = item["metadata"]
        finalizers = [one for one in metadata.get("finalizers", ()) if one not in {FOREGROUND, ORPHAN}]
        finalizers += [one for one in metadata.get("finalizers", ()) if one in {FOREGROUND, ORPHAN} and not how.policy]
        if _POLICIES.get(how.policy):
            finalizers.append(_POLICIES[how.policy])
        grace = _grace(resource, item, how)
        waits = bool(finalizers) or grace > 0 or resource == kinds.NAMESPACES
        if not waits:
            gone = item if how.dry_run else self._store.remove(resource, item)
            return gone if resource in _RETURNS_OBJECT else success(resource, metadata["name"], metadata["uid"])
        marked = self._mark(resource, item, finalizers, grace)
        return marked if how.dry_run or marked == item else self._store.put(resource, marked)

    def _mark(self, resource: Resource, item: Json, finalizers: list[str], grace: int) -> Json:
        """The object as it is while it goes."""
        metadata = {**item["metadata"], "finalizers": finalizers}
        if not finalizers:
            del metadata["finalizers"]
        before = metadata.get("deletionGracePeriodSeconds")
        if "deletionTimestamp" not in metadata or (before is not None and grace < before):
            metadata["deletionTimestamp"] = self._writer.time(grace)
            metadata["deletionGracePeriodSeconds"] = grace
            if resource.generation and before is None:
                metadata["generation"] = metadata.get("generation", 0) + 1
        marked = {**item, "metadata": metadata}
        if resource == kinds.NAMESPACES:
            marked["status"] = {**item.get("status", {}), "phase": "Terminating"}
        return marked

    def delete_all(self, resource: Resource, namespace: str, query: Query, how: Deletion) -> Json:
        """Every object that a query's selectors fit; the answer is the list of them."""
        found = list_objects(self._store, resource, namespace, query)
        for one in found["items"]:
            self.delete(resource, one["metadata"].get("namespace", ""), one["metadata"]["name"], how)
        return found

    def remove(self, resource: Resource, item: Json) -> None:
        """The end of an object whose grace is over: it goes, unless a finalizer holds it."""
        self._delete(resource, item, Deletion(grace=0))


def _grace(resource: Resource, item: Json, how: Deletion) -> int:
    """Only pods have time to end, and only those that run somewhere."""
    if resource != kinds.PODS or item.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0
    if not item["spec"].get("nodeName"):
        return 0
    wished = how.grace if how.grace is not None else int(item["spec"].get("terminationGracePeriodSeconds", 30))
    left = item["metadata"].get("deletionGracePeriodSeconds")
    return max(0, wished if left is None else min(wished, left))
