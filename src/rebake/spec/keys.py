"""Which keys may stand where, read off the model: for nearest spellings, the JSON Schema and the test of the manual."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from rebake.spec.model import Part, Spec


def _choices(annotation: Any) -> Iterator[Any]:
    """The annotation itself, or each member of a union, without the Annotated around them."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _choices(member)
    else:
        yield annotation


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


def keys_of(part: type[Part]) -> dict[str, FieldInfo]:
    """The keys of one mapping as the file spells them."""
    return {field.alias or name: field for name, field in part.model_fields.items()}


def _inner(kind: Any, key: str | int) -> Iterator[Any]:
    """What may stand under one key of a value of this kind."""
    if _is_part(kind):
        field = keys_of(kind).get(str(key))
        if field is not None:
            yield from _choices(field.annotation)
    elif get_origin(kind) is dict:
        yield from _choices(get_args(kind)[1])
    elif get_origin(kind) is tuple and isinstance(key, int):
        yield from _choices(get_args(kind)[0])


def keys_at(path: tuple[str | int, ...]) -> list[str]:
    """The keys that a mapping at this place may have; none where any name is free."""
    kinds: list[Any] = [Spec]
    for key in path:
        kinds = [inner for kind in kinds for inner in _inner(kind, key)]
    return [key for kind in kinds if _is_part(kind) for key in keys_of(kind)]


def all_keys(part: type[Part] = Spec, path: str = "") -> Iterator[tuple[str, type[Part], str, FieldInfo]]:
    """Every key of the file: its path with `*` for free names and list places, its mapping, its spelling, its field."""
    for key, field in keys_of(part).items():
        here = f"{path}.{key}".removeprefix(".")
        yield here, part, key, field
        for kind in _choices(field.annotation):
            where = here
            if get_origin(kind) in (dict, tuple):
                where, kind = f"{here}.*", next(_choices(get_args(kind)[1 if get_origin(kind) is dict else 0]))
            if _is_part(kind):
                yield from all_keys(kind, where)


def homes_of(key: str) -> list[str]:
    """Where else a key may stand."""
    return [path for path, _, name, _ in all_keys() if name == key]
