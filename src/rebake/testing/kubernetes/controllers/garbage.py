"""What is left behind: dependents of owners that are gone, and namespaces on their way out.

Source: Kubernetes, "Garbage Collection" (background, foreground, orphan), "Namespaces".
"""

from __future__ import annotations

import copy

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.world import World
from rebake.testing.kubernetes.deletion import FOREGROUND, ORPHAN
from rebake.testing.kubernetes.resources import BUILT_IN, GATEWAY_API, Resource
from rebake.testing.kubernetes.status import Json

_EVERY = (*BUILT_IN, *GATEWAY_API)


class Garbage:
    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        everything = [(resource, one) for resource in _EVERY for one in self._world.store.all(resource)]
        alive = {one["metadata"]["uid"]: one for _, one in everything}
        for resource, item in everything:
            finalizers = item["metadata"].get("finalizers", ())
            if "deletionTimestamp" in item["metadata"] and FOREGROUND in finalizers:
                self._foreground(resource, item, everything)
            elif "deletionTimestamp" in item["metadata"] and ORPHAN in finalizers:
                self._orphan(resource, item, everything)
            elif owners := item["metadata"].get("ownerReferences"):
                gone = not any(one["uid"] in alive for one in owners)
                if gone and self._is_there(resource, item) and "deletionTimestamp" not in item["metadata"]:
                    self._world.delete(resource, item, "Background")

    def _is_there(self, resource: Resource, item: Json) -> bool:
        where = (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        return self._world.store.get(resource, *where) is not None

    def _foreground(self, resource: Resource, item: Json, everything: list[tuple[Resource, Json]]) -> None:
        """Dependents first; the owner goes when none is left that blocks it."""
        dependents = [(kind, one) for kind, one in everything if _owns(item, one) and self._is_there(kind, one)]
        for kind, one in dependents:
            if "deletionTimestamp" not in one["metadata"]:
                self._world.delete(kind, one, "" if kind == kinds.PODS else "Foreground")
        if not any(self._is_there(kind, one) for kind, one in dependents):
            self._finish(resource, item, FOREGROUND)

    def _orphan(self, resource: Resource, item: Json, everything: list[tuple[Resource, Json]]) -> None:
        for kind, one in everything:
            if _owns(item, one) and self._is_there(kind, one):
                after = copy.deepcopy(one)
                references = [o for o in one["metadata"]["ownerReferences"] if o["uid"] != item["metadata"]["uid"]]
                after["metadata"]["ownerReferences"] = references
                if not references:
                    del after["metadata"]["ownerReferences"]
                self._world.update(kind, after)
        self._finish(resource, item, ORPHAN)

    def _finish(self, resource: Resource, item: Json, finalizer: str) -> None:
        after = copy.deepcopy(item)
        after["metadata"]["finalizers"] = [one for one in item["metadata"]["finalizers"] if one != finalizer]
        if not after["metadata"]["finalizers"]:
            del after["metadata"]["finalizers"]
        self._world.update(resource, after, "garbage-collector")


def _owns(owner: Json, item: Json) -> bool:
    return any(one["uid"] == owner["metadata"]["uid"] for one in item["metadata"].get("ownerReferences", ()))


class Namespaces:
    """Gives each namespace its default account, and empties those that are deleted."""

    def __init__(self, world: World) -> None:
        self._world = world

    def step(self) -> None:
        for one in self._world.store.all(kinds.NAMESPACES):
            if "deletionTimestamp" in one["metadata"]:
                self._empty(one)
            elif self._world.store.get(kinds.SERVICE_ACCOUNTS, one["metadata"]["name"], "default") is None:
                name = one["metadata"]["name"]
                self._world.create(kinds.SERVICE_ACCOUNTS, name, {"metadata": {"name": "default"}})
                bundle = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ""}}
                if self._world.store.get(kinds.CONFIGMAPS, name, "kube-root-ca.crt") is None:
                    self._world.create(kinds.CONFIGMAPS, name, bundle)

    def _empty(self, namespace: Json) -> None:
        name, left = namespace["metadata"]["name"], False
        for resource in _EVERY:
            for one in self._world.store.all(resource, name) if resource.namespaced else ():
                if "deletionTimestamp" not in one["metadata"]:
                    self._world.delete(resource, one)
                left = left or self._world.store.get(resource, name, one["metadata"]["name"]) is not None
        if not left:
            after = copy.deepcopy(namespace)
            after["spec"]["finalizers"] = []
            self._world.update(kinds.NAMESPACES, after)
