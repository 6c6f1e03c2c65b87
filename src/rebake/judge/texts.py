"""The judge's numbers as sentences and pictures for people."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS = "_.-=+*%#"
"""For terminals and files that cannot show blocks."""


def percent(share: float) -> str:
    """A fraction as people write it: 0.444 -> "44 %", 0.00059 -> "0.059 %"."""
    value = 100.0 * share
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{_two_digits(value)} %"


def points(share: float) -> str:
    """A difference of fractions in percentage points: 0.004 -> "0.4 points"."""
    digits = _two_digits(100.0 * share)
    return f"{digits} point" if digits == "1" else f"{digits} points"


def number(value: float) -> str:
    """A count with thousands separators, or a small figure with two digits."""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return _two_digits(value)


def evidence(value: float) -> str:
    """Evidence as people read it: cut, never rounded up to what takes a candidate back."""
    if value >= 1e6:
        return "over a million"
    if value >= 10:
        return f"{math.floor(value):,}"
    return "under 0.01" if value < 0.01 else _two_digits(value)


def counted(count: float, word: str) -> str:
    """ "1 bad answer", "4 bad answers", "2 requests without an answer": the first thing named is made plural."""
    many = re.sub(r"\b(answer|request|refusal|redirect|failure)\b", r"\1s", word, count=1)
    return f"{number(count)} {word if count == 1 else many}"


def _two_digits(value: float) -> str:
    if value <= 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(value)))
    text = f"{value:.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def part(hits: float, n: float) -> str:
    """ "4 of 9 (44 %)"."""
    return f"{number(hits)} of {number(n)}" + (f" ({percent(hits / n)})" if n else "")


def compared(what: str, candidate: tuple[float, float], stable: tuple[float, float], unit: str = "requests") -> str:
    """ "4 bad answers of 9 on the candidate (44 %) against 2 of 3,410 on stable (0.059 %)".

    Args:
        what: of one, such as "bad answer".
        candidate, stable: pairs of (requests, hits).
        unit: what is counted.
    """
    label = "" if unit == "requests" else f" {unit}"

    def side(n: float, hits: float, said: str, name: str) -> str:
        if not n:
            return f"no {unit.removesuffix('s')} on {name}"
        return f"{said} of {number(n)}{label} on {name} ({percent(min(hits / n, 1.0))})"

    ours, theirs = round(candidate[1]), round(stable[1])
    candidate_side = side(*candidate, counted(ours, what), "the candidate")
    return f"{candidate_side} against {side(*stable, number(theirs), 'stable')}"


def sparkline(values: Sequence[float], *, width: int = 24, top: float = 100.0, plain: bool = False) -> str:
    """Evidence over time in one line of blocks, on a logarithmic scale from 1 (or less) to `top`.

    Values are thinned to `width` by taking the largest of each stretch, so that a peak is never hidden. Only what
    reached `top` is drawn full.

    Args:
        plain: of ASCII signs instead of blocks.
    """
    if not values:
        return ""
    width = max(1, min(width, len(values)))
    peaks = [max(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    scale = math.log(max(top, 1.001))
    signs = _PLAIN_BLOCKS if plain else _BLOCKS
    levels = (min(math.log(max(1.0, v)) / scale, 1.0) for v in peaks)
    return "".join(signs[int(level * (len(signs) - 1))] for level in levels)
