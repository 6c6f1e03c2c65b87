"""Server-side apply, and who manages which field.

The rules, each after the real server's: an applier's set is what its configuration names; a field that another manager
has and that would change is a conflict, unless forced; what an applier no longer names and nobody else has is removed;
whoever changes a field otherwise (create, update, patch) takes it.

Source: Kubernetes, "Server-Side Apply"; sigs.k8s.io/structured-merge-diff, `merge/update.go`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rebake.testing.kubernetes.fieldsets import (
    Fields,
    Path,
    applied_fields,
    as_text,
    compare,
    elements,
    from_json,
    to_json,
)
from rebake.testing.kubernetes.schema import Type
from rebake.testing.kubernetes.status import ApiError, Json

_NOBODYS = {(f"f:{name}",) for name in ("apiVersion", "kind", "metadata")} | {
    ("f:metadata", f"f:{name}")
    for name in ("name", "namespace", "creationTimestamp", "uid", "generation", "managedFields", "resourceVersion")
}
"""Fields that are never managed."""
BEFORE_APPLY = "before-first-apply"
"""Who has what was there when somebody applied for the first time, and nobody had it."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Who holds fields, and how: two entries of one name are two managers if they differ otherwise."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    fields: Fields
    time: str


Managed = dict[Manager, Entry]


def read_managed(metadata: Json) -> Managed:
    found: Managed = {}
    for one in metadata.get("managedFields", ()):
        who = Manager(one["manager"], one["operation"], one["apiVersion"], one.get("subresource", ""))
        found[who] = Entry(from_json(one.get("fieldsV1", {})), one.get("time", ""))
    return found


def write_managed(metadata: Json, managed: Managed) -> None:
    """Put the managers into an object's metadata; where there are none it does not speak of them."""
    rows = []
    for who, entry in sorted(managed.items(), key=lambda row: (row[0].operation, row[1].time, row[0].name)):
        row: Json = {"manager": who.name, "operation": who.operation, "apiVersion": who.api_version}
        row |= {"time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": to_json(entry.fields)}
        rows.append(row | ({"subresource": who.subresource} if who.subresource else {}))
    metadata.pop("managedFields", None)
    if rows:
        metadata["managedFields"] = rows


def _without_metadata(fields: Fields, ignored: Sequence[str]) -> Fields:
    return frozenset(p for p in fields if p and p not in _NOBODYS and p[0][2:] not in ignored)


def record_update(
    kind: Type, before: Json, after: Json, managed: Managed, who: Manager, *, now: str, ignored: Sequence[str]
) -> Managed:
    """The managers after a change that was no apply: who changed a field has it, and nobody else any more.

    Where nobody manages anything, a change begins nothing: then fields are followed from the first apply on.
    """
    if not managed and before:
        return managed
    change = compare(kind, before, after)
    touched = _without_metadata(change.touched, ignored)
    gone = _without_metadata(change.removed, ignored)
    if not touched and not gone:
        return managed
    kept = {one: replace(entry, fields=entry.fields - touched - gone) for one, entry in managed.items()}
    if touched:
        mine = kept.get(who, Entry(frozenset(), now))
        kept[who] = Entry(mine.fields | touched, now)
    return {one: entry for one, entry in kept.items() if entry.fields}


@dataclass(frozen=True, slots=True)
class Applied:
    """Attributes: value: the object as it would be. managed: who has what then."""

    value: Json
    managed: Managed


def apply(
    kind: Type, live: Json, wish: Json, who: Manager, *, force: bool, now: str, ignored: Sequence[str]
) -> Applied:
    """Apply a configuration to an object (an empty one, to create it).

    Args:
        ignored: top-level fields that this path does not write.
    Raises: ApiError 409 that lists each field another manager has.
    """
    managed = read_managed(live.get("metadata", {}))
    if live and not managed:
        found = _without_metadata(compare(kind, {}, live).touched, ignored)
        managed[replace(who, name=BEFORE_APPLY, operation="Update", subresource="")] = Entry(found, now)
    wish = {name: one for name, one in wish.items() if name not in ignored}
    fields = _without_metadata(applied_fields(kind, wish), ignored)
    merged = merge(kind, live, wish)
    others = {one: entry for one, entry in managed.items() if one != who}
    before = managed[who].fields if who in managed else frozenset[Path]()
    merged = _prune(kind, merged, before - fields, [entry.fields for entry in others.values()] + [fields])
    change = compare(kind, live, merged)
    touched = _without_metadata(change.touched, ignored)
    conflicts = {one: sorted(entry.fields & touched) for one, entry in others.items() if entry.fields & touched}
    if conflicts and not force:
        raise _conflict([(one, path) for one, paths in conflicts.items() for path in paths])
    kept = {one: replace(entry, fields=entry.fields - touched - change.removed) for one, entry in others.items()}
    result = {one: entry for one, entry in kept.items() if entry.fields}
    if fields:
        same = who in managed and managed[who].fields == fields and not (touched or change.removed)
        result[who] = Entry(fields, managed[who].time if same else now)
    return Applied(merged, result)


def merge(kind: Type, live: Any, wish: Any) -> Any:
    """The live value with everything that the wish says."""
    if kind.shape in {"struct", "map"} and not kind.atomic and isinstance(live, dict):
        merged = dict(live)
        for name, one in wish.items():
            inner = kind.field(name)
            merged[name] = merge(inner, live[name], one) if inner is not None and name in live else copy.deepcopy(one)
        return merged
    if kind.shape == "list" and kind.list_type != "atomic" and isinstance(live, list):
        return _merge_lists(kind, elements(kind, live), elements(kind, wish))
    return copy.deepcopy(wish)


def _merge_lists(kind: Type, live: dict[str, Any], wish: dict[str, Any]) -> list[Any]:
    """The wish's order; what only the live list has keeps its place before what follows it."""
    merged = {name: merge(kind.element, live[name], one) if name in live else one for name, one in wish.items()}
    rest, result = list(wish), []
    for name, one in live.items():
        if name not in wish:
            result.append(one)
        while name in rest:
            result.append(merged[rest.pop(0)])
    return result + [merged[name] for name in rest]


def _prune(kind: Type, value: Json, dropped: Fields, held: Sequence[Fields]) -> Json:
    """Remove what was given up, unless somebody holds it or something in it."""
    for path in sorted(dropped, key=len):  # an element goes before its key does
        if not _names_element(path) and not any(one[: len(path)] == path for fields in held for one in fields):
            value = _remove(kind, value, path)
    return value


def _names_element(path: Path) -> bool:
    """Whether it is a key of an element, which stays as long as its element does."""
    holder = path[-2] if len(path) > 1 else ""
    return holder.startswith("k:") and path[-1][2:] in json.loads(holder[2:])


def _remove(kind: Type, value: Any, path: Path) -> Any:
    head, rest = path[0], path[1:]
    if kind.shape == "list":
        found = elements(kind, value)
        if head not in found:
            return value
        if rest:
            return [_remove(kind.element, one, rest) if name == head else one for name, one in found.items()]
        return [one for name, one in found.items() if name != head]
    name = head[2:]
    if name not in value:
        return value
    inner = kind.field(name)
    if rest and inner is not None:
        left = _remove(inner, value[name], rest)
        if left or left == value[name]:
            return {**value, name: left}
    return {key: one for key, one in value.items() if key != name}


def _conflict(found: Sequence[tuple[Manager, Path]]) -> ApiError:
    """Source: apimachinery, `managedfields/internal/conflict.go`."""
    found = sorted(found, key=lambda row: (row[0].name, row[1]))
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {_who(m)}", "field": as_text(p)} for m, p in found
    ]
    if len(found) == 1:
        who, path = found[0]
        message = f"Apply failed with 1 conflict: conflict with {_who(who)}: {as_text(path)}"
    else:
        lines: list[str] = []
        for who in dict.fromkeys(m for m, _ in found):
            lines += [f"conflicts with {_who(who)}:"] + [f"- {as_text(p)}" for m, p in found if m == who]
        message = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, {"causes": causes})


def _who(manager: Manager) -> str:
    text = json.dumps(manager.name)
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.api_version}" if manager.operation == "Update" else text


def undeclared(kind: Type, value: Any, path: str = "") -> list[str]:
    """What an applied configuration may not hold: fields the schema has not, and values of another type."""
    if not kind.fits(value):
        wanted = {"integer": "numeric (int or float)", "number": "numeric (int or float)"}
        return [f"{path}: expected {wanted.get(kind.json_type, kind.json_type)}, got {_kind_of(value)}"]
    found: list[str] = []
    if kind.shape in {"struct", "map"}:
        for name, one in value.items():
            inner = kind.field(name)
            if inner is None:
                found.append(f"{path}.{name}: field not declared in schema")
            elif one is not None:
                found += undeclared(inner, one, f"{path}.{name}")
    elif kind.shape == "list":
        found += _duplicates(kind, value, path)
        for one in value:
            name = kind.key_of(one) if kind.list_type == "map" and isinstance(one, dict) else ""
            found += undeclared(kind.element, one, path + (as_text((name,)) if name else "[0]"))
    return found


def _duplicates(kind: Type, value: Any, path: str) -> list[str]:
    if kind.list_type != "map" or not all(isinstance(one, dict) for one in value):
        return []
    names = [kind.key_of(one) for one in value]
    twice = dict.fromkeys(one for one in names if names.count(one) > 1)
    return [f"{path}: duplicate entries for key {as_text((one,))}" for one in twice]


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds: list[tuple[type, str]] = [(str, "string"), (int, "int"), (float, "float"), (list, "list"), (dict, "map")]
    return next((text for kind, text in kinds if isinstance(value, kind)), "null")
