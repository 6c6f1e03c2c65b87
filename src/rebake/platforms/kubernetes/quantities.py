"""Amounts as the API server writes them back: any other spelling of the same amount would look like a change. Pure.

Source: Kubernetes API conventions, `resource.Quantity`, canonical form: no fraction, and the largest suffix.
"""

from __future__ import annotations

_SUFFIXES = ("m", "", "k", "M", "G", "T", "P", "E")


def quantity(thousandths: int) -> str:
    """The canonical form of so many thousandths.

    >>> quantity(500), quantity(1000), quantity(1_048_576_000_000), quantity(268_435_456_000)
    ('500m', '1', '1048576k', '268435456')
    """
    steps = 0 if thousandths else 1
    while thousandths and thousandths % 1000 == 0 and steps < len(_SUFFIXES) - 1:
        thousandths, steps = thousandths // 1000, steps + 1
    return f"{thousandths}{_SUFFIXES[steps]}"
