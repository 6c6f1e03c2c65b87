"""Sets of fields: which an object has, how two objects differ, and how a set is written in `managedFields`.

A path is a tuple of elements as `fieldsV1` writes them: `f:name` for a field, `k:{…}` for an element of a list by its
keys, `v:…` for one of a set by its value.

Source: sigs.k8s.io/structured-merge-diff, `fieldpath`; Kubernetes, "Server-Side Apply".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rebake.testing.kubernetes.schema import Type
from rebake.testing.kubernetes.status import Json

Path = tuple[str, ...]
Fields = frozenset[Path]

_ALWAYS_THERE = frozenset({"metadata", "spec", "status", "template", "strategy", "containers", "resources"})
"""Structs that are never absent in Go's types, so nobody owns their being there."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A struct, map or list that is merged part by part.

    Attributes:
        element: whether it is an element of a list, which is owned by itself as well.
        empty: whether nothing is in it.
    """

    element: bool
    empty: bool


def leaves(kind: Type, value: Any, path: Path = (), *, element: bool = False) -> Iterator[tuple[Path, Any]]:
    """Every path of an object with its value; a `Branch` for what has parts."""
    if kind.shape in {"struct", "map"} and not kind.atomic:
        if path:
            yield path, Branch(element, not value)
        for name, one in value.items():
            inner = kind.field(name)
            if inner is not None:
                yield from leaves(inner, one, (*path, f"f:{name}"))
    elif kind.shape == "list" and kind.list_type != "atomic":
        yield path, Branch(False, not value)
        for name, one in elements(kind, value).items():
            yield from leaves(kind.element, one, (*path, name), element=True)
    else:
        yield path, value


def elements(kind: Type, value: Iterable[Any]) -> dict[str, Any]:
    """A list's elements by name, in its order; of those with the same name the last."""
    if kind.list_type == "set":
        return {"v:" + json.dumps(one, separators=(",", ":")): one for one in value}
    return {kind.key_of(one): one for one in value}


def applied_fields(kind: Type, value: Any) -> Fields:
    """What someone who applies this object claims: leaves, elements of lists, and what is empty."""
    return frozenset(
        path for path, one in leaves(kind, value) if not isinstance(one, Branch) or one.element or one.empty
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one object differs from another."""

    added: Fields
    modified: Fields
    removed: Fields

    @property
    def touched(self) -> Fields:
        return self.added | self.modified


def compare(kind: Type, before: Any, after: Any) -> Comparison:
    first, second = dict(leaves(kind, before)), dict(leaves(kind, after))
    added = {path for path in second.keys() - first.keys() if not _never_absent(path, second[path])}
    modified = {
        path
        for path in second.keys() & first.keys()
        if first[path] != second[path] and not (isinstance(first[path], Branch) and isinstance(second[path], Branch))
    }
    return Comparison(frozenset(added), frozenset(modified), frozenset(first.keys() - second.keys()))


def _never_absent(path: Path, value: object) -> bool:
    return isinstance(value, Branch) and not value.element and path[-1][2:] in _ALWAYS_THERE


def to_json(fields: Fields) -> Json:
    """As `fieldsV1` has it: nested; `.` where a path itself belongs to the set and others lie below it."""
    root: Json = {}
    for path in sorted(fields):
        place = root
        for part in path:
            place = place.setdefault(part, {})
    for path in fields:
        place = root
        for part in path:
            place = place[part]
        if place:
            place["."] = {}
    return _sorted(root)


def _sorted(tree: Json) -> Json:
    return {key: _sorted(tree[key]) for key in sorted(tree)}


def from_json(tree: Mapping[str, Any], path: Path = ()) -> Fields:
    found: set[Path] = set()
    for name, below in tree.items():
        if name == ".":
            found.add(path)
        elif below:
            found |= from_json(below, (*path, name))
        else:
            found.add((*path, name))
    return frozenset(found)


def as_text(path: Path) -> str:
    """As a conflict names it: `.spec.template.spec.containers[name="web"].image`."""
    return "".join(_element_text(part) for part in path)


def _element_text(part: str) -> str:
    kind, said = part[:2], part[2:]
    if kind == "k:":
        return "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(said).items()) + "]"
    return f".{said}" if kind == "f:" else f"[={said}]"
