"""What a Kubernetes API server answers when it refuses: `Status` bodies, in its own words.

Source: apimachinery, `pkg/api/errors/errors.go` and `pkg/util/validation/field/errors.go`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rebake.testing.kubernetes.resources import Resource

Json = dict[str, Any]

_WORDS = {
    "FieldValueRequired": "Required value",
    "FieldValueInvalid": "Invalid value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueDuplicate": "Duplicate value",
    "FieldValueNotFound": "Not found",
    "FieldValueTooLong": "Too long",
    "FieldValueTypeInvalid": "Invalid value",
}
_WITHOUT_VALUE = frozenset({"FieldValueRequired", "FieldValueForbidden", "FieldValueTooLong"})
STALE = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """One refusal.

    Attributes:
        status: the body, of kind `Status`.
        retry_after: seconds, for the header `Retry-After`; 0 for none.
    """

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = int((details or {}).get("retryAfterSeconds", 0))
        self.status: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status |= {"message": message}
        if reason:
            self.status["reason"] = reason
        if details is not None:
            self.status["details"] = details
        self.status["code"] = code

    @property
    def reason(self) -> str:
        return str(self.status.get("reason", ""))


@dataclass(frozen=True, slots=True)
class Cause:
    """One field that is not as it must be; `type` is one of Kubernetes' `FieldValue…` words."""

    type: str
    field: str
    detail: str = ""
    value: object = None

    @property
    def body(self) -> str:
        text = _WORDS[self.type]
        if self.type not in _WITHOUT_VALUE:
            text += ": " + json.dumps(self.value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
        return f"{text}: {self.detail}" if self.detail else text

    @property
    def json(self) -> Json:
        return {"reason": self.type, "message": self.body, "field": self.field}


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", field, detail)


def invalid(field: str, value: object, detail: str) -> Cause:
    return Cause("FieldValueInvalid", field, detail, value)


def forbidden_field(field: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", field, detail)


def unsupported(field: str, value: object, supported: Sequence[str]) -> Cause:
    detail = "supported values: " + ", ".join(json.dumps(one) for one in sorted(supported))
    return Cause("FieldValueNotSupported", field, detail, value)


def _details(resource: Resource, name: str = "", **more: object) -> Json:
    said: Json = {"name": name, "group": resource.group, "kind": resource.plural, **more}
    return {key: value for key, value in said.items() if value not in ("", 0)}


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{resource.group_resource} "{name}" not found', _details(resource, name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    message = f'{resource.group_resource} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, why: str = STALE) -> ApiError:
    message = f'Operation cannot be fulfilled on {resource.group_resource} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(resource, name))


def storage_error(resource: Resource, item: Json, why: str) -> str:
    """The sentence of a precondition that the store itself finds unmet. Source: apiserver, `storage/errors.go`."""
    path = "/".join(filter(None, ["/registry", resource.group if resource.custom else "", resource.plural]))
    path = "/".join(filter(None, [path, item["metadata"].get("namespace", ""), item["metadata"]["name"]]))
    return f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: {why}"


def unmet(resource: Resource, item: Json, field: str, wanted: str, said: str) -> ApiError:
    """A deletion that was meant for another object. The kind is the object's, not the resource's."""
    metadata, group = item["metadata"], resource.group
    found = metadata[field[:1].lower() + field[1:] if field != "UID" else "uid"]
    why = f"the {field} in the precondition ({wanted}) does not match the {field} in record ({found}). {said}"
    qualified = f"{resource.kind}.{group}" if group else resource.kind
    details = {"name": metadata["name"], **({"group": group} if group else {}), "kind": resource.kind}
    return ApiError(
        409, "Conflict", f'Operation cannot be fulfilled on {qualified} "{metadata["name"]}": {why}', details
    )


def invalid_object(resource: Resource, name: str, causes: Iterable[Cause]) -> ApiError:
    """422 with the fields; the group and kind are the object's, not the resource's."""
    return invalid_kind(resource.group, resource.kind, name, causes)


def invalid_kind(group: str, kind: str, name: str, causes: Iterable[Cause]) -> ApiError:
    found = list(causes)
    said = list(dict.fromkeys(f"{one.field}: {one.body}" for one in found))
    text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    qualified = f"{kind}.{group}" if group else kind
    details: Json = {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}
    details["causes"] = [one.json for one in found]
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    who = f'{resource.group_resource} "{name}"' if name else resource.group_resource
    return ApiError(403, "Forbidden", f"{who} is forbidden: {why}", _details(resource, name))


def method_not_allowed() -> ApiError:
    message = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", message, {})


def unsupported_media_type(accepted: Sequence[str] = ()) -> ApiError:
    """Args: accepted: named for custom resources only."""
    if not accepted:
        return ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable(resource: Resource | None, bodies: Sequence[str]) -> ApiError:
    """Built-in kinds are refused by what routes them, which names its streams too; custom ones by what reads them."""
    if resource is not None and resource.custom:
        said = "only the following media types are accepted: " + ", ".join(bodies)
        return ApiError(406, "NotAcceptable", said)
    streams = [f"{one};stream=watch" for one in bodies if "yaml" not in one]
    said = "406: Not Acceptable\n\nAvailable representations: " + ", ".join([*bodies, *streams])
    return ApiError(406, "NotAcceptable", said, {})


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_many_requests(message: str, retry_after_seconds: int = 0, causes: Sequence[Json] = ()) -> ApiError:
    details: Json = {}
    if causes:
        details["causes"] = list(causes)
    if retry_after_seconds:
        details["retryAfterSeconds"] = retry_after_seconds
    return ApiError(429, "TooManyRequests", message, details)


def internal_error(why: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {why}", {"causes": [{"message": why}]})


def success(resource: Resource, name: str, uid: str) -> Json:
    """What a deletion that is complete answers."""
    body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return body | {"details": _details(resource, name, uid=uid)}
