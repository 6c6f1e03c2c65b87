"""Frozen dataclasses to JSON values and back, by their annotations (pydantic does the work)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter  # takes 0.15 s: values that only travel inside one process never pay for it

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def dump(value: Any) -> Any:
    """The JSON value of a dataclass instance: tuples become lists, enums their values."""
    return _adapter(type(value)).dump_python(value, mode="json")


def load(kind: type[T], doc: Any) -> T:
    """Rebuild a dataclass from its JSON value. Raises: pydantic.ValidationError when the document does not fit."""
    result: T = _adapter(kind).validate_python(doc)
    return result
