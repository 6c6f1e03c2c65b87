"""Label selectors and field selectors, as text in a query and as objects in a spec.

Source: Kubernetes, "Labels and Selectors", "Field Selectors"; apimachinery `pkg/labels/selector.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from rebake.testing.kubernetes.resources import EVENTS, PODS, SECRETS, Resource
from rebake.testing.kubernetes.status import ApiError, bad_request

Labels = Mapping[str, str]
Matches = Callable[[Labels], bool]

_SET = re.compile(r"^\s*([^\s!=,()]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s!=,()]+)\s*(==|=|!=)\s*([^\s,()=!]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=,()]+)\s*$")
_FIELDS = {
    PODS: ("spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "status.phase", "status.podIP"),
    EVENTS: (
        *("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid"),
        *("reason", "type", "reportingComponent"),
    ),
    SECRETS: ("type",),
}
"""What may be asked for besides `metadata.name` and `metadata.namespace`."""


def parse_labels(text: str) -> Matches:
    """The selector of a query's `labelSelector`. Raises: ApiError 400."""
    tests = [_one(part) for part in re.split(r",(?![^(]*\))", text)] if text.strip() else []
    return lambda labels: all(test(labels) for test in tests)


def _one(part: str) -> Matches:
    if found := _SET.match(part):
        key, how, values = found[1], found[2], {one.strip() for one in found[3].split(",")}
        if how == "in":
            return lambda labels: key in labels and labels[key] in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, how, value = found[1], found[2], found[3]
        if how == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        key, wanted = found[2], not found[1]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f"unable to parse requirement: found '{part.strip()}', expected: in, notin, =, ==, !=, gt, lt")


def from_object(selector: Mapping[str, Any] | None) -> Matches:
    """A `LabelSelector`: none matches nothing, an empty one everything."""
    if selector is None:
        return lambda labels: False
    wanted: Labels = selector.get("matchLabels") or {}
    expressions = [_expression(one) for one in selector.get("matchExpressions") or ()]
    return lambda labels: all(labels.get(k) == v for k, v in wanted.items()) and all(e(labels) for e in expressions)


def _expression(one: Mapping[str, Any]) -> Matches:
    key, how, values = one["key"], one["operator"], set(one.get("values") or ())
    tests: dict[str, Matches] = {
        "In": lambda labels: key in labels and labels[key] in values,
        "NotIn": lambda labels: labels.get(key) not in values,
        "Exists": lambda labels: key in labels,
        "DoesNotExist": lambda labels: key not in labels,
    }
    return tests[how]


def parse_fields(resource: Resource, text: str) -> Callable[[Mapping[str, Any]], bool]:
    """A query's `fieldSelector`. Raises: ApiError 400 for a field without an index."""
    known = ("metadata.name", *(("metadata.namespace",) if resource.namespaced else ()), *_FIELDS.get(resource, ()))
    tests: list[tuple[str, bool, str]] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        found = re.match(r"^([^=!]+?)(==|=|!=)(.*)$", part)
        if found is None:
            raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        if found[1] not in known:
            raise _unknown_field(resource, found[1])
        tests.append((found[1], found[2] != "!=", found[3]))
    return lambda item: all((_at(item, field) == value) is equal for field, equal, value in tests)


def _unknown_field(resource: Resource, field: str) -> ApiError:
    if resource in _FIELDS:
        return bad_request(f"field label not supported: {field}")
    return bad_request(f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"')


def _at(item: Mapping[str, Any], field: str) -> str:
    value: Any = item
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)
