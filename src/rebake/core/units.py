"""Durations, shares and sizes as the user's file writes them: integers of milliseconds, basis points, bytes."""

from __future__ import annotations

import re
from decimal import Decimal

_DURATION = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z%]*)")

FULL = 10_000
"""The whole traffic, in basis points."""


def _parse(text: str, units: dict[str, int], what: str, example: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"expected a {what} such as {example}, found {text!r}; units: {', '.join(units)}")
    value = Decimal(match[1]) * units[match[2]]
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} is finer than a {what} can be")
    return int(value)


def parse_duration(text: str) -> int:
    """Milliseconds. Raises: ValueError with what was expected.

    >>> parse_duration("1.5s"), parse_duration("5m")
    (1500, 300000)
    """
    return _parse(text, _DURATION, "duration", "500ms, 10s or 5m")


def parse_share(text: str) -> int:
    """Basis points, 0 to 10 000. Raises: ValueError.

    >>> parse_share("5%"), parse_share("0.1%")
    (500, 10)
    """
    points = _parse(text, {"%": 100}, "share", "5%")
    if points > FULL:
        raise ValueError(f"a share is at most 100%, found {text}")
    return points


def parse_size(text: str) -> int:
    """Bytes. Raises: ValueError.

    >>> parse_size("256MiB")
    268435456
    """
    return _parse(text, _SIZE, "size", "256MiB")


def format_duration(milliseconds: int) -> str:
    """The shortest exact spelling.

    >>> format_duration(300000), format_duration(1500), format_duration(0)
    ('5m', '1500ms', '0s')
    """
    if milliseconds == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        if milliseconds % _DURATION[unit] == 0:
            return f"{milliseconds // _DURATION[unit]}{unit}"
    return f"{milliseconds}ms"


def format_share(basis_points: int) -> str:
    """
    >>> format_share(500), format_share(10), format_share(10000)
    ('5%', '0.1%', '100%')
    """
    if basis_points % 100 == 0:
        return f"{basis_points // 100}%"
    return f"{Decimal(basis_points) / 100:f}".rstrip("0") + "%"


def format_size(size: int) -> str:
    """Rounded for people.

    >>> format_size(268435456), format_size(1536)
    ('256.0 MiB', '1.5 KiB')
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def describe_size(size: int) -> str:
    """The shortest exact spelling, as the user's file has it.

    >>> describe_size(256 << 20), describe_size(1000)
    ('256MiB', '1000B')
    """
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size}B"
