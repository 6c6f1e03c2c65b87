"""Stable encoding: one value, one byte string, on every machine.

Rules: UTF-8, keys sorted by code point, no blanks, integers only (a float has no stable spelling across languages, so
it is refused), no NaN. A subset of RFC 8785 (JSON Canonicalization Scheme).
"""

from __future__ import annotations

import json
from typing import Any

from rebake.errors import BrokenInvariant

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
_PLAIN = frozenset({str, int, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """Whether a value has a canonical form. Every digest passes here, so leaves cost one look-up and no call."""
    items = value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return False
        items = value.values()
    elif not isinstance(value, list | tuple):
        return not isinstance(value, float)
    for item in items:  # noqa: SIM110 - a generator would cost as much again
        if type(item) not in _PLAIN and not _is_plain(item):
            return False
    return True


def _refuse(value: Any, path: str) -> None:
    """Name the first part that has no canonical form."""
    if isinstance(value, float):
        raise BrokenInvariant(f"a float has no canonical form: {value!r}", where=path or "$")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BrokenInvariant(f"a canonical key is a string, found {key!r}", where=path or "$")
            _refuse(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse(item, f"{path}[{index}]")


def canonical(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes.

    Raises: BrokenInvariant for a float or a key that is not a string.
    >>> canonical({"b": [1, None], "a": "é"})
    b'{"a":"\\xc3\\xa9","b":[1,null]}'
    """
    if not _is_plain(value):
        _refuse(value, "")
    return _ENCODER.encode(value).encode()
