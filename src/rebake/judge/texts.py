"""The judge's numbers as sentences and pictures for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def percent(share: float) -> str:
    """A fraction as people write it: 0.444 -> "44 %", 0.00059 -> "0.059 %"."""
    value = 100.0 * share
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{_two_digits(value)} %"


def points(share: float) -> str:
    """A difference of fractions in percentage points: 0.004 -> "0.4 points"."""
    return f"{_two_digits(100.0 * share)} points"


def number(value: float) -> str:
    """A count with thousands separators, or a small figure with two digits."""
    if value >= 1e6:
        return "over a million"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else _two_digits(value)


def _two_digits(value: float) -> str:
    if value <= 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(value)))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def part(hits: float, n: float) -> str:
    """ "4 of 9 (44 %)"."""
    return f"{number(hits)} of {number(n)}" + (f" ({percent(hits / n)})" if n else "")


def compared(what: str, candidate: tuple[float, float], stable: tuple[float, float], unit: str = "") -> str:
    """ "4 bad answers of 9 on the candidate (44 %) against 2 of 3,410 on stable (0.059 %)".

    Args: pairs of (requests, hits); what is counted, with a space before it, where that is not requests.
    """

    def side(n: float, hits: float, name: str, label: str) -> str:
        return f"{number(round(hits))}{label} of {number(n)}{unit} on {name}" + (f" ({percent(hits / n)})" if n else "")

    return f"{side(*candidate, 'the candidate', f' {what}')} against {side(*stable, 'stable', '')}"


def sparkline(values: Sequence[float], *, width: int = 24, top: float = 100.0) -> str:
    """Evidence over time in one line of blocks, on a logarithmic scale from 1 (or less) to `top`.

    Values are thinned to `width` by taking the largest of each stretch, so that a peak is never hidden.
    """
    if not values:
        return ""
    width = max(1, min(width, len(values)))
    peaks = [max(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    scale = math.log(max(top, 1.001))
    levels = (min(math.log(max(1.0, v)) / scale, 1.0) for v in peaks)
    return "".join(_BLOCKS[int(level * (len(_BLOCKS) - 1) + 0.5)] for level in levels)
