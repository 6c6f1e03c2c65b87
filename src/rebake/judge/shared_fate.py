"""The guard for what a comparison cannot see: a release that hurts both cohorts (a migration, a shared database)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rebake.judge import texts
from rebake.judge.metrics import rate
from rebake.judge.samples import Arm

FAST_BURN = 14.4 * 0.001
"""Failure ratio that spends a 30 day budget of a 99.9 % objective in two days (SRE workbook 2018, chapter 5)."""
USUAL_FACTOR = 3.0
"""A service that usually fails more than the objective allows is measured against its own usual rate."""
FEWEST_FAILURES = 2.0
MEMORY_SECONDS = 60.0


@dataclass(slots=True)
class SharedFate:
    """Failure ratios of both cohorts over the last minute. When both burn, the ramp holds and a person is told.

    A stable that fails alone is no reason to hold: the candidate may be its fix.
    """

    limit: float = FAST_BURN
    candidate: tuple[float, float] = (0.0, 0.0)
    stable: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, history: Arm | None) -> SharedFate:
        usual = rate(history.errors, history.n) if history is not None else 0.0
        return cls(limit=min(max(FAST_BURN, USUAL_FACTOR * usual), 0.9))

    def update(self, dt: float, candidate: tuple[float, float], stable: tuple[float, float]) -> None:
        keep = math.exp(-dt / MEMORY_SECONDS)
        self.candidate = (self.candidate[0] * keep + candidate[0], self.candidate[1] * keep + candidate[1])
        self.stable = (self.stable[0] * keep + stable[0], self.stable[1] * keep + stable[1])

    @property
    def both_burn(self) -> bool:
        return all(k >= FEWEST_FAILURES and k > self.limit * n for n, k in (self.candidate, self.stable))

    def reason(self) -> str:
        ours, theirs = (texts.percent(rate(k, n)) for n, k in (self.candidate, self.stable))
        return (
            f"both cohorts fail: {ours} of the candidate's and {theirs} of stable's requests in the last minute "
            f"(limit {texts.percent(self.limit)}); the cause may be shared, such as a migration or a database"
        )

    def state(self) -> dict[str, Any]:
        return {"limit": self.limit, "candidate": list(self.candidate), "stable": list(self.stable)}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> SharedFate:
        c, s = state["candidate"], state["stable"]
        return cls(limit=state["limit"], candidate=(c[0], c[1]), stable=(s[0], s[1]))
