"""Quantities: what `500m`, `256Mi` and `1e9` are, and how the API server writes them back.

Whatever a client sends, an object bears the shortest form without a fraction, so `1000m` comes back as `1` and
`1048576000` as `1048576k`. Source: apimachinery, `pkg/api/resource/quantity.go`, `CanonicalizeBytes`.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]*)?)(?:[eE]([0-9]+))?(m|k|[KMGTPE]i?|)$")
_DECIMAL = ("m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def is_quantity(text: object) -> bool:
    return _QUANTITY.match(str(text)) is not None


def quantity(text: object) -> Decimal:
    """A quantity as a number. Raises: ValueError."""
    found = _QUANTITY.match(str(text))
    if found is None:
        raise ValueError(f"no quantity: {text}")
    number, exponent, suffix = found.groups()
    factor = Decimal(1024) ** _BINARY.index(suffix) if suffix in _BINARY[1:] else Decimal(10) ** _power(suffix)
    return Decimal(number).scaleb(int(exponent or 0)) * factor


def _power(suffix: str) -> int:
    return 3 * _DECIMAL.index(suffix) - 3


def canonical(text: object) -> object:
    """A quantity as an object bears it; what is none, as it is.

    >>> canonical("1000m"), canonical(1_048_576_000), canonical("1.5Gi"), canonical("0.5Ki"), canonical("2000e3")
    ('1', '1048576k', '1536Mi', '512', '2e6')
    """
    found = _QUANTITY.match(str(text))
    if found is None or isinstance(text, bool):
        return text
    value, exponent, suffix = quantity(text), found[2], found[3]
    if suffix in _BINARY[1:] and value >= 1024:
        number, steps = _shortest(math.ceil(value), 1024, len(_BINARY) - 1)
        return f"{number}{_BINARY[steps]}"
    number, steps = _shortest(math.ceil(value * 1000), 1000, len(_DECIMAL) - 1)
    if not number:
        return "0"
    if exponent and steps > 1:
        return f"{number}e{3 * steps - 3}"
    return f"{number}{_DECIMAL[steps]}"


def _shortest(number: int, base: int, most: int) -> tuple[int, int]:
    """The number without the base's powers in it, and how many those were."""
    steps = 0
    while number and number % base == 0 and steps < most:
        number, steps = number // base, steps + 1
    return number, steps
