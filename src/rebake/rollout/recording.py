"""Reading the route's records beside the ticks of one environment: where one is, and the hour that lies behind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rebake.errors import RebakeError
from rebake.judge.history import Hour
from rebake.rollout.world import Environment
from rebake.traffic.ports import Sample, Samples, TrafficRouter

FORGET_SECONDS = 5.0
"""How often the route is told which records nobody will read again."""
RATE_SECONDS = 60.0
MOST_READINGS = 4
"""Readings in one look; what is left then is read in the next, which comes at once."""

Cursor = Mapping[str, Any]


@dataclass(slots=True)
class Recording:
    """Attributes:
    cursor: place up to which records were read.
    problem: why the last look could read none; empty when it could.
    recent: the time and number of the requests that were read in the last minute.
    kept: place up to which they are judged in what the ledger keeps; None while nothing is judged.
    behind: more was waiting when the last look ended.
    hour: what each fleet's users met in the last hour.
    """

    cursor: Cursor | None = None
    kept: Cursor | None = None
    behind: bool = False
    problem: str = ""
    recent: list[tuple[int, int]] = field(default_factory=list)
    hour: Hour = field(default_factory=Hour)
    _forgot_at: float = 0.0

    def read(self, router: TrafficRouter, environment: Environment) -> Samples | None:
        """What finished since the last look; None where the route keeps no records.

        Records that cannot be read now are read later: nothing was seen, then.
        """
        found: list[Sample] = []
        self.behind = False
        try:
            for _ in range(MOST_READINGS):
                part = router.samples(environment.service, environment.environment, self.cursor)
                if part is None:
                    return None
                found += part.samples
                self.cursor, self.behind = part.cursor, part.more
                if found:
                    self.problem = ""
                if not part.more:
                    break
        except RebakeError as error:
            self.problem = error.problem
        for sample in found:
            for fleet, arm in sample.fleets.items():
                self.hour.add(sample.at, fleet, arm)
            self.recent.append((sample.at, sum(arm.n for arm in sample.fleets.values())))
        if found:
            self._keep_recent(found[-1].at)
        return Samples(tuple(found), self.cursor or {}, self.behind)

    def rate(self, now: float) -> float:
        """Requests per second of the last while, as far as they were read."""
        self._keep_recent(now)
        return sum(n for _, n in self.recent) / RATE_SECONDS

    def _keep_recent(self, now: float) -> None:
        self.recent = [one for one in self.recent if now - one[0] <= RATE_SECONDS]

    def forget(self, router: TrafficRouter, environment: Environment, now: float, *, judged: bool) -> None:
        """Let the route remove what was read; of a rollout that is judged only what lies before its kept evidence."""
        cursor = self.kept if judged else self.cursor
        if cursor is None or now - self._forgot_at < FORGET_SECONDS:
            return
        self._forgot_at = now
        with contextlib.suppress(RebakeError):  # it is removed another time
            router.forget_samples(environment.service, environment.environment, cursor)
