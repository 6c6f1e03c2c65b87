"""Names that sort by time and are short enough to type."""

from __future__ import annotations

import secrets

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def timed_id(prefix: str, at: float) -> str:
    """A name such as `r-01k9zq3m2hxr`: milliseconds in nine base-32 digits (until the year 3084), then three of chance.

    Two names made in the same millisecond differ with probability 32 767 / 32 768. Source: Crockford's base 32.
    """
    value, digits = int(at * 1000), ""
    for _ in range(9):
        value, digit = divmod(value, 32)
        digits = _DIGITS[digit] + digits
    return f"{prefix}-{digits}" + "".join(secrets.choice(_DIGITS) for _ in range(3))
