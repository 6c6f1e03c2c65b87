"""Stable encoding: one value, one byte string, on every machine.

Rules: UTF-8, keys sorted by code point, no blanks, integers only (a float has no stable spelling across languages, so
it is refused), no NaN. A subset of RFC 8785 (JSON Canonicalization Scheme).
"""

from __future__ import annotations

import json
from typing import Any

from rebake.errors import BrokenInvariant


def _no_floats(value: Any, path: str) -> None:
    if isinstance(value, float):
        raise BrokenInvariant(f"a float has no canonical form: {value!r}", where=path or "$")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BrokenInvariant(f"a canonical key is a string, found {key!r}", where=path or "$")
            _no_floats(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _no_floats(item, f"{path}[{index}]")


def canonical(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes.

    Raises: BrokenInvariant for a float or a key that is not a string.
    >>> canonical({"b": [1, None], "a": "é"})
    b'{"a":"\\xc3\\xa9","b":[1,null]}'
    """
    _no_floats(value, "")
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
