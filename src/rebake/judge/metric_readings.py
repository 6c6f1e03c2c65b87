"""What a source said of both cohorts at one moment, and what two such readings differ by. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Pair = tuple[float, float]
CohortName = Literal["stable", "candidate"]
COHORTS: tuple[CohortName, CohortName] = ("stable", "candidate")


@dataclass(frozen=True, slots=True)
class Side:
    """One cohort. Units are instances or series; the one unit "" is the cohort as a whole.

    Attributes:
        numbers: by unit, a number.
        counters: by unit, two counters as they stand: (hits, total), or (growth, per).
        trials: of a command, (runs, failures) of this reading alone.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, Pair] = field(default_factory=dict)
    trials: Pair = (0.0, 0.0)

    @property
    def empty(self) -> bool:
        return not self.numbers and not self.counters and not self.trials[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one metric.

    Attributes:
        at: seconds since the epoch.
        problem: why a cohort could not be read, as a sentence; None when both were.
        remedy: what to try.
    """

    metric: str
    at: float
    stable: Side = Side()
    candidate: Side = Side()
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Grown:
    """What the counters of one cohort grew by between two readings, by unit.

    Attributes:
        restarted: some unit counted from zero again, or came or went: its part is left out.
    """

    by_unit: Mapping[str, Pair] = field(default_factory=dict)
    restarted: bool = False

    @property
    def pair(self) -> Pair:
        """(hits, total) of all units."""
        return sum(h for h, _ in self.by_unit.values()), sum(t for _, t in self.by_unit.values())


def grown(before: Mapping[str, Pair], after: Mapping[str, Pair]) -> Grown:
    """What counters grew by, unit by unit.

    A unit of which a counter fell has started again: what it counted in between is not known, so it is left out of
    this interval, in both counters. So is a unit that only one of the readings has.
    """
    kept: dict[str, Pair] = {}
    restarted = before.keys() != after.keys()
    for unit in before.keys() & after.keys():
        (a0, b0), (a1, b1) = before[unit], after[unit]
        if all(map(math.isfinite, (a0, b0, a1, b1))) and a1 >= a0 and b1 >= b0:
            kept[unit] = (a1 - a0, b1 - b0)
        else:
            restarted = True
    return Grown(kept, restarted)


def quotients(change: Grown) -> dict[str, float]:
    """Growth of the first counter for each one of the second, by unit; units whose second one stood still have none."""
    return {unit: a / b for unit, (a, b) in change.by_unit.items() if b > 0}


def sane_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without what is no number: a quotient of nothing by nothing is no data."""
    return {unit: float(value) for unit, value in numbers.items() if math.isfinite(value)}
