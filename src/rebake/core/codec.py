"""Frozen dataclasses to JSON values and back, by their annotations (pydantic does the work)."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


@lru_cache(maxsize=256)
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def dump(value: Any) -> Any:
    """The JSON value of a dataclass instance: tuples become lists, enums their values."""
    kind: Hashable = type(value)
    return _adapter(kind).dump_python(value, mode="json")


def load(kind: type[T], doc: Any) -> T:
    """Rebuild a dataclass from its JSON value. Raises: pydantic.ValidationError when the document does not fit."""
    key: Hashable = kind
    result: T = _adapter(key).validate_python(doc)
    return result
