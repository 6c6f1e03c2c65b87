"""From the body of a request to an object of its type: what is refused, what is dropped, what must be there.

Source: Kubernetes API concepts, "Field validation"; apimachinery `pkg/runtime/serializer/json`;
`apiextensions-apiserver` for custom resources, which answer 422 where built-in ones answer 400.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rebake.testing.kubernetes.quantities import canonical
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.schema import Type, named
from rebake.testing.kubernetes.status import (
    Cause,
    Json,
    bad_request,
    invalid,
    invalid_object,
    required,
)


class Decoded:
    """An object without its unknown fields.

    Attributes:
        unknown: the paths of the fields that were dropped.
    """

    def __init__(self, value: Json, unknown: Sequence[str]) -> None:
        self.value = value
        self.unknown = list(unknown)


def decode(resource: Resource, body: object) -> Decoded:
    """Raises: ApiError 400 (422 for a custom resource) where a value has the wrong type."""
    if not isinstance(body, dict):
        kind = f'{resource.kind} in version "{resource.version}"'
        raise bad_request(
            f"{kind} cannot be handled as a {resource.kind}: json: cannot unmarshal {_go(body)} into Go value"
        )
    findings = _Findings(resource)

    value = findings.walk(named(resource.definition), body, "", resource.kind)
    if findings.wrong:
        raise invalid_object(resource, _name_of(body), findings.wrong)
    return Decoded(value, findings.unknown)


def _name_of(body: Json) -> str:
    metadata = body.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


class _Findings:
    """Attributes: unknown: paths of fields that are not known. wrong: of a custom resource, values of wrong types."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self.unknown: list[str] = []
        self.wrong: list[Cause] = []

    def walk(self, kind: Type, value: Any, path: str, holder: str) -> Any:
        """The value without what is not known. Raises: ApiError 400."""
        if not kind.fits(value):
            self._report(kind, path, value, holder)
            return None
        if kind.shape in {"struct", "map"}:
            kept: Json = {}
            for name, one in value.items():
                below = f"{path}.{name}" if path else name
                inner = kind.field(name)
                if inner is None:
                    self.unknown.append(below)
                elif one is not None:
                    kept[name] = self.walk(inner, one, below, kind.name or holder)
            return kept
        if kind.shape == "list":
            return [self.walk(kind.element, one, f"{path}[{i}]", holder) for i, one in enumerate(value)]
        return canonical(value) if kind.name == "Quantity" else copy.deepcopy(value)

    def _report(self, wanted: Type, path: str, value: object, holder: str) -> None:
        resource, found = self._resource, _go(value)
        if not resource.custom:
            problem = f"cannot unmarshal {found} into Go struct field {holder}.{path} of type {_go_type(wanted)}"
            kind = f'{resource.kind} in version "{resource.version}"'
            raise bad_request(f"{kind} cannot be handled as a {resource.kind}: json: {problem}")
        self.wrong.append(invalid(path, found, f'{path} in body must be of type {wanted.json_type}: "{found}"'))


def _go(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    kinds: list[tuple[type, str]] = [(str, "string"), (list, "array"), (dict, "object")]
    return next((text for kind, text in kinds if isinstance(value, kind)), "null")


def _go_type(kind: Type) -> str:
    if kind.shape == "list":
        return f"[]{kind.element.name or kind.element.json_type}"
    if kind.shape == "map":
        return f"map[string]{kind.element.name or kind.element.json_type}"
    return kind.name or {"integer": kind.format, "boolean": "bool"}.get(kind.json_type, kind.json_type)


def missing(kind: Type, value: Any, path: str = "") -> list[Cause]:
    """Fields that must be there and are not, and what is out of a custom resource's bounds."""
    causes: list[Cause] = []
    if kind.shape in {"struct", "map"} and isinstance(value, dict):
        for name in kind.required:
            if value.get(name) is None:
                causes.append(required(f"{path}.{name}" if path else name))
        for name, one in value.items():
            inner = kind.field(name)
            if inner is not None:
                causes += missing(inner, one, f"{path}.{name}" if path else name)
    elif kind.shape == "list" and isinstance(value, list):
        if len(value) < kind.least_items:
            causes.append(invalid(path, len(value), f"{path} in body should have at least {kind.least_items} items"))
        for index, one in enumerate(value):
            causes += missing(kind.element, one, f"{path}[{index}]")
    else:
        causes += _out_of_bounds(kind, value, path)
    return causes


def _out_of_bounds(kind: Type, value: Any, path: str) -> list[Cause]:
    low, high = kind.bounds
    if low is not None and value < low:
        return [invalid(path, value, f"{path} in body should be greater than or equal to {low}")]
    if high is not None and value > high:
        return [invalid(path, value, f"{path} in body should be less than or equal to {high}")]
    return []


def fill_in(kind: Type, value: Any) -> None:
    """Put a custom resource's defaults where fields are absent, in place."""
    if kind.shape == "struct":
        for name, default in kind.defaults():
            value.setdefault(name, copy.deepcopy(default))
    if kind.shape in {"struct", "map"} and isinstance(value, dict):
        for name, one in value.items():
            if (inner := kind.field(name)) is not None:
                fill_in(inner, one)
    elif kind.shape == "list" and isinstance(value, list):
        for one in value:
            fill_in(kind.element, one)
