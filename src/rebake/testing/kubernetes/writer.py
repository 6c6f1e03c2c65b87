"""Create, update, patch and apply: what every write goes through, in the real server's order.

Decode, take over what the server owns, fill in defaults, ask admission, validate, note who manages which field, store.
"""

from __future__ import annotations

import copy
import itertools
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.admission import Admission
from rebake.testing.kubernetes.apply import Manager, apply, read_managed, record_update, write_managed
from rebake.testing.kubernetes.decode import decode
from rebake.testing.kubernetes.defaults import set_defaults
from rebake.testing.kubernetes.patches import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    json_patch,
    merge_patch,
    strategic_patch,
)
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.schema import named
from rebake.testing.kubernetes.status import (
    ApiError,
    Json,
    already_exists,
    bad_request,
    conflict,
    invalid,
    invalid_object,
    not_found,
    storage_error,
)
from rebake.testing.kubernetes.store import Store
from rebake.testing.kubernetes.validation import validate, validate_change
from rebake.testing.kubernetes.wishes import (
    Options,
    Place,
    Written,
    check_patch_media,
    check_patch_options,
    configuration,
)

_SERVERS = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
_WITH_VERSION_ONLY = frozenset({kinds.LEASES, kinds.BUDGETS, *kinds.GATEWAY_API})
"""Resources that are not updated without saying which version was read."""
_REPLICAS = ("f:spec", "f:replicas")
"""A Scale shows who manages this field; where nobody does, who scales begins nothing either."""
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class Writer:
    """Writes objects of any resource.

    Args:
        now: the cluster's time, seconds since the epoch.
    """

    def __init__(self, store: Store, admission: Admission, now: Callable[[], float]) -> None:
        self._store = store
        self._admission = admission
        self._now = now
        self._random = random.Random(20)
        self._addresses = itertools.count(1)

    def time(self, ahead_seconds: float = 0.0) -> str:
        """The cluster's time as objects bear it."""
        return datetime.fromtimestamp(self._now() + ahead_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def suffix(self, length: int = 5) -> str:
        """Letters as generated names end in."""
        return "".join(self._random.choice(_LETTERS) for _ in range(length))

    def create(self, at: Place, body: object, options: Options) -> Written:
        """Raises: ApiError."""
        resource = at.resource
        decoded = decode(resource, body)
        item, written = decoded.value, Written({}, created=True)
        self._unknown(resource, decoded.unknown, options, written)
        metadata = item.setdefault("metadata", {})
        self._place(at, metadata)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + self.suffix()
        if metadata.get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        with self._store.changed:
            return self._create(resource, item, options, written)

    def _create(self, resource: Resource, item: Json, options: Options, written: Written) -> Written:
        metadata = item["metadata"]
        managed = {} if options.system else read_managed(metadata)
        self._born(resource, item, options)
        written.warnings += self._admit(resource, item, options)
        if self._store.get(resource, metadata.get("namespace", ""), metadata["name"]) is not None:
            raise already_exists(resource, metadata["name"])
        who = self._manager(resource, options, "Update")
        ignored = ("status",) if resource.has_status else ()
        managed = record_update(named(resource.definition), {}, item, managed, who, now=self.time(), ignored=ignored)
        write_managed(metadata, managed)
        written.item = self._put(resource, item, options)
        return written

    def _admit(self, resource: Resource, item: Json, options: Options) -> list[str]:
        """Fill in and check what is to be created; gives warnings. Raises: ApiError."""
        set_defaults(resource, item)
        if resource == kinds.SERVICES and item["spec"].get("type") != "ExternalName":
            self._give_address(item["spec"])
        if not options.system:
            self._admission.check_namespace(resource, item)
            if causes := validate(resource, item):
                raise invalid_object(resource, item["metadata"].get("name", ""), causes)
        return self._admission.check(resource, item) if not options.system or resource == kinds.PODS else []

    def _give_address(self, spec: Json) -> None:
        number = next(self._addresses)
        spec.setdefault("clusterIP", f"10.96.{number // 250}.{number % 250 + 1}")
        spec.setdefault("clusterIPs", [spec["clusterIP"]])

    def _place(self, at: Place, metadata: Json) -> None:
        if not at.resource.namespaced:
            metadata.pop("namespace", None)
        elif metadata.setdefault("namespace", at.namespace) != at.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    def _born(self, resource: Resource, item: Json, options: Options) -> None:
        item["kind"], item["apiVersion"] = resource.kind, resource.api_version
        metadata = item["metadata"]
        for name in _SERVERS:
            metadata.pop(name, None)
        metadata.pop("managedFields", None)
        metadata["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = self.time()
        if resource.generation:
            metadata["generation"] = 1
        if resource.has_status and not options.system:
            item.pop("status", None)
        if resource.has_status and not resource.custom:
            item.setdefault("status", {})

    def update(self, at: Place, body: object, options: Options) -> Written:
        """Put another object in an object's place. Raises: ApiError."""
        resource, name = at.resource, at.name
        decoded = decode(resource, body)
        written = Written({})
        self._unknown(resource, decoded.unknown, options, written)
        metadata = decoded.value.setdefault("metadata", {})
        if metadata.setdefault("name", name) != name:
            said = f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            raise bad_request(said)
        self._place(at, metadata)
        with self._store.changed:
            before = self.current(at)
            if not metadata.get("resourceVersion") and resource in _WITH_VERSION_ONLY and not options.system:
                causes = [invalid("metadata.resourceVersion", 0, "must be specified for an update")]
                raise invalid_object(resource, name, causes)
            if (asked := metadata.get("uid", (is_ := before["metadata"])["uid"])) != is_["uid"]:
                said = f"Precondition failed: UID in precondition: {asked}, UID in object meta: {is_['uid']}"
                raise conflict(resource, name, storage_error(resource, before, said))
            return self._change(at, before, decoded.value, options, written)

    def find(self, at: Place) -> Json | None:
        """The object at a place."""
        return self._store.get(at.resource, at.namespace if at.resource.namespaced else "", at.name)

    def current(self, at: Place) -> Json:
        """The same. Raises: ApiError 404."""
        found = self.find(at)
        if found is None:
            raise not_found(at.resource, at.name)
        return found

    def patch(self, at: Place, body: object, media: str, options: Options) -> Written:
        """Any of the four patches, by its media type. Raises: ApiError."""
        resource = at.resource
        check_patch_media(resource, media)
        check_patch_options(media, options)
        if media == APPLY_PATCH:
            return self._apply(at, body, options)
        with self._store.changed:
            before = self.current(at)
            if media == JSON_PATCH:
                after = json_patch(before, body)
            elif media == MERGE_PATCH:
                after = merge_patch(before, body)
            else:
                after = strategic_patch(named(resource.definition), before, body)
            decoded, written = decode(resource, after), Written({})
            self._unknown(resource, decoded.unknown, options, written)
            return self._change(at, before, decoded.value, options, written)

    def _change(self, at: Place, before: Json, after: Json, options: Options, written: Written) -> Written:
        resource, subresource = at.resource, at.subresource
        name, metadata = before["metadata"]["name"], after["metadata"]
        self._same_object(resource, before, metadata)
        reset = metadata.get("managedFields") in ([], [{}]) and bool(before["metadata"].get("managedFields"))
        after = self._merge_owned(resource, before, after, subresource)
        set_defaults(resource, after)
        if not options.system:
            causes = validate(resource, after)
            if subresource != "ephemeralcontainers":  # the one way to add some
                causes += validate_change(resource, before, after)
            if causes:
                raise invalid_object(resource, name, causes)
        written.warnings += [] if options.system else self._admission.check_change(resource, after)
        who = self._manager(resource, options, "Update", subresource)
        managed = {} if reset else read_managed(before["metadata"])
        ignored = self._ignored(resource, subresource)
        if subresource != "scale" or any(_REPLICAS in entry.fields for entry in managed.values()):
            managed = record_update(
                named(resource.definition), before, after, managed, who, now=self.time(), ignored=ignored
            )
        write_managed(after["metadata"], managed)
        written.item = self._store_change(resource, before, after, options)
        return written

    @staticmethod
    def _same_object(resource: Resource, before: Json, metadata: Json) -> None:
        name = before["metadata"]["name"]
        version = metadata.get("resourceVersion")
        if version not in {None, "", before["metadata"]["resourceVersion"]}:
            raise conflict(resource, name)
        if metadata.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
            raise invalid_object(resource, name, 2 * [invalid("metadata.uid", metadata["uid"], "field is immutable")])

    @staticmethod
    def _ignored(resource: Resource, subresource: str) -> tuple[str, ...]:
        if subresource == "status":
            return ("spec", "metadata")
        return ("status",) if resource.has_status else ()

    @staticmethod
    def _merge_owned(resource: Resource, before: Json, after: Json, subresource: str) -> Json:
        """The wish, with what this path does not write taken from the object as it is."""
        if subresource == "status":
            status = {"status": after["status"]} if "status" in after else {}
            kept = {name: one for name, one in before.items() if name != "status"}
            return copy.deepcopy({**kept, **status})
        if subresource == "ephemeralcontainers":
            spec = {**before["spec"], "ephemeralContainers": after["spec"].get("ephemeralContainers", [])}
            return copy.deepcopy({**before, "spec": spec})
        after = copy.deepcopy(after)
        after["kind"], after["apiVersion"] = resource.kind, resource.api_version
        for name in _SERVERS:
            after["metadata"].pop(name, None)
            if name in before["metadata"]:
                after["metadata"][name] = before["metadata"][name]
        if resource.has_status:
            after.pop("status", None)
            if "status" in before:
                after["status"] = copy.deepcopy(before["status"])
        if resource == kinds.SERVICES and after.setdefault("spec", {}).get("type") != "ExternalName":
            for name in ("clusterIP", "clusterIPs"):  # who says nothing of it keeps it
                after["spec"].setdefault(name, copy.deepcopy(before["spec"].get(name)))
        return after

    def _apply(self, at: Place, body: object, options: Options) -> Written:
        resource, name, subresource = at.resource, at.name, at.subresource
        kind, wish = named(resource.definition), configuration(at, body)
        with self._store.changed:
            before = self.find(at)
            if before is not None:
                self._same_object(resource, before, wish["metadata"])
            elif wish["metadata"].get("uid"):
                said = f"uid mismatch: the provided object specified uid {wish['metadata']['uid']}, "
                raise conflict(resource, name, said + "and no existing object was found")
            elif subresource:
                raise not_found(resource, name)
            wish["metadata"].pop("resourceVersion", None)
            self._place(at, wish["metadata"])
            who = self._manager(resource, options, "Apply", subresource)
            ignored = self._ignored(resource, subresource)
            if subresource == "status":  # names the object, and claims nothing of it
                wish["metadata"] = {}
                ignored = ("spec",)
            force = bool(options.force)
            done = apply(kind, before or {}, wish, who, force=force, now=self.time(), ignored=ignored)
            after = copy.deepcopy(done.value)
            if before is None:
                self._born(resource, after, options)
                warnings = self._admit(resource, after, options)
            else:
                after = self._merge_owned(resource, before, after, subresource)
                set_defaults(resource, after)
                if causes := validate(resource, after) + validate_change(resource, before, after):
                    raise invalid_object(resource, name, causes)
                warnings = self._admission.check_change(resource, after)
            write_managed(after["metadata"], done.managed)
            if before is None:
                return Written(self._put(resource, after, options), created=True, warnings=warnings)
            return Written(self._store_change(resource, before, after, options), warnings=warnings)

    def _manager(self, resource: Resource, options: Options, operation: str, subresource: str = "") -> Manager:
        return Manager(options.manager, operation, resource.api_version, subresource)

    def _unknown(self, resource: Resource, paths: list[str], options: Options, written: Written) -> None:
        if not paths or options.field_validation == "Ignore":
            return
        texts = [f'unknown field "{path}"' for path in paths]
        if options.field_validation == "Strict":
            problem = "strict decoding error: " + ", ".join(texts)
            kind = f'{resource.kind} in version "{resource.version}"'
            raise bad_request(f"{kind} cannot be handled as a {resource.kind}: {problem}")
        written.warnings += texts

    def _store_change(self, resource: Resource, before: Json, after: Json, options: Options) -> Json:
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        if resource.generation and _wish(before) != _wish(after):
            after["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1
        if _timeless(after) == _timeless(before):
            return before
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            held = after["metadata"].get("deletionGracePeriodSeconds") or after.get("spec", {}).get("finalizers")
            if not held:
                return after if options.dry_run else self._store.remove(resource, after)
        return self._put(resource, after, options)

    def _put(self, resource: Resource, item: Json, options: Options) -> Json:
        return item if options.dry_run else self._store.put(resource, item)


def _timeless(item: Json) -> Json:
    """Without the times of its managers: a write that would change nothing else is none."""
    metadata = item["metadata"]
    rows = [{name: one for name, one in row.items() if name != "time"} for row in metadata.get("managedFields", ())]
    rows.sort(key=str)
    return {**item, "metadata": {**metadata, "managedFields": rows}}


def _wish(item: Json) -> Json:
    return {name: one for name, one in item.items() if name not in {"metadata", "status"}}
