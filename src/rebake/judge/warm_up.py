"""When latency may be judged: not while an instance is new. Pure.

An instance is slow at first (caches, compilers, connections), which is no harm. So no latency is judged until 90 s
after the first request of each instance of the candidate, also of one that replaces another in the middle; the same
holds for instances of stable that came after the judge began. Failures are always judged.

Whether a tick is judged must not depend on who happens to answer in it (that would bias the bets), so it depends on
which instances were met before; only the tick in which an instance is met first is left out for what is in it.

Source: JUDGE.md section 1, Warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rebake.judge.samples import Arm, Tick

SECONDS = 90.0
MOST_INSTANCES = 1000
COHORT = ""
"""Stands for all instances of the candidate where single ones are not told apart."""


class WarmUp:
    """Remembers since when instances are met.

    Args:
        history: stable's hour before: those instances are warm.
    """

    def __init__(self, history: Arm | None = None) -> None:
        known = () if history is None else history.instances
        self._candidate: dict[str, float] = {}
        self._stable: dict[str, float] = dict.fromkeys(known, -math.inf)

    def cold(self, tick: Tick, begin: float, now: float) -> bool:
        """Take in a tick from `begin` to `now`, seconds, and say whether its latencies are left out."""
        first = begin if self._stable else -math.inf  # whom the judge found serving has served before
        new = _meet(self._stable, tick.stable.instances, first) and first > -math.inf
        if tick.candidate.n > 0:
            new = _meet(self._candidate, tick.candidate.instances or (COHORT,), begin) or new
        if tick.pairs is not None:
            new = _meet(self._candidate, tick.pairs.instances, begin) or new
        latest = max((*self._candidate.values(), *self._stable.values()), default=math.inf)
        return new or not self._candidate or now - latest < SECONDS

    def state(self) -> dict[str, Any]:
        """As JSON: instances that are warm for ever have no time."""
        return {
            "candidate": dict(self._candidate),
            "stable": {name: None if at == -math.inf else at for name, at in self._stable.items()},
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> WarmUp:
        found = cls()
        found._candidate = dict(state["candidate"])
        found._stable = {name: -math.inf if at is None else at for name, at in state["stable"].items()}
        return found


def _meet(known: dict[str, float], instances: Iterable[str], at: float) -> bool:
    """Remember the instances that answered. Returns: whether one was not known."""
    new = [name for name in instances if name not in known]
    known.update(dict.fromkeys(new, at))
    while len(known) > MOST_INSTANCES:
        del known[next(iter(known))]
    return bool(new)
