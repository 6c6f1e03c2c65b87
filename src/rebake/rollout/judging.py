"""From the balancer's cumulative counters to the judge's ticks, for one rollout.

A tick is only made of two readings of the same counters (`epoch`) under the same weights: what happened while the route
was changing is counted for people, not for the judge. The state survives a restart of the engine, because the counters
go on in the data plane and the weights cannot change while no engine runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rebake.core.codec import dump, load
from rebake.core.units import FULL
from rebake.judge.judge import Judge
from rebake.judge.samples import Arm, JudgeSettings, Tick, Verdict
from rebake.rollout.plan import JudgeRules
from rebake.rollout.states import State
from rebake.rollout.world import Environment, Rollout
from rebake.traffic.ports import Counters, RouteObservation

_LOG = logging.getLogger("rebake.judging")

MIN_TICK_SECONDS = 0.05
COURSE_LENGTH = 240
"""Points of the evidence's course that are kept for people."""

_JUDGED = frozenset({State.SHIFTING, State.HOLDING, State.ASKING, State.SOAKING, State.FINISHING})


@dataclass(frozen=True, slots=True)
class Reading:
    """Cumulative counters of both cohorts at one moment, and their requests in flight."""

    at: float
    epoch: str
    weights: tuple[int, int]
    stable: Counters
    candidate: Counters
    in_flight: tuple[int, int] = (0, 0)


def settings_of(rules: JudgeRules) -> JudgeSettings:
    """The file's integers as the judge's fractions."""
    return JudgeSettings(
        false_rollbacks=rules.false_rollbacks_bp / FULL,
        error_ratio=rules.error_ratio_milli / 1000,
        error_extra=rules.error_extra_bp / FULL,
        latency={name: points / FULL for name, points in rules.latency_bp.items()},
        min_requests=rules.min_requests,
    )


def _history(stable: Counters) -> Arm | None:
    """What stable's fleet has served in its life so far centres the judge's bets on its own error rate."""
    return Arm(stable.requests, stable.errors) if stable.requests else None


def _grown(before: Counters, after: Counters) -> Counters:
    return Counters(max(0, after.requests - before.requests), max(0, after.errors - before.errors))


class Judging:
    """Feeds the judge of one rollout and remembers what people want to see of it."""

    def __init__(self, rollout: Rollout, state: Mapping[str, Any] | None = None, *, rate_hint: float = 0.0) -> None:
        self.rollout = rollout.id
        self._settings = settings_of(rollout.plan.judge)
        self._rate_hint = rate_hint
        self._judge: Judge | None = None
        self._last: Reading | None = None
        self._begun: float | None = None
        self._step: tuple[int, int] | None = None
        self.totals: dict[str, Counters] = {"stable": Counters(), "candidate": Counters()}
        self.course: list[tuple[float, float]] = []
        self.verdict: Verdict | None = None
        if state is not None:
            self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` says; from nothing where another version of rebake wrote it in another form.

        An upgrade in the middle of a rollout must block neither stop nor undo, and lost evidence is never a pass.
        """
        try:
            judge = Judge.restore(self._settings, state["judge"])
            last = load(Reading | None, state["last"])  # type: ignore[arg-type]
            begun, step = state["begun"], None if state["step"] is None else tuple(state["step"])
            totals = {name: Counters(*pair) for name, pair in state["totals"].items()}
            course = [tuple(point) for point in state["course"]]
            verdict = None if state["verdict"] is None else load(Verdict, state["verdict"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            _LOG.warning("the judge of %s begins anew: what it remembered cannot be read: %r", self.rollout, error)
            return
        self._judge, self._last, self._begun, self._step = judge, last, begun, step
        self.totals, self.course, self.verdict = totals, course, verdict

    def look(self, environment: Environment, route: RouteObservation | None, now: float) -> Verdict | None:
        """Take in one observation of the route; the verdict so far."""
        rollout, stable, candidate = environment.rollout, environment.stable, environment.candidate
        if rollout is None or candidate is None or route is None or rollout.state not in _JUDGED:
            return self.verdict
        reading = self._read(environment, route, now)
        if self._judge is None:
            self._judge = Judge(self._settings, rate_hint=self._rate_hint, history=_history(reading.stable))
        last, self._last = self._last, reading
        if last is None or last.epoch != reading.epoch or reading.at < last.at:
            return self.verdict
        if reading.at - last.at < MIN_TICK_SECONDS:
            self._last = last
            return self.verdict
        grown = {"stable": _grown(last.stable, reading.stable), "candidate": _grown(last.candidate, reading.candidate)}
        for name, counters in grown.items():
            total = self.totals[name]
            self.totals[name] = Counters(total.requests + counters.requests, total.errors + counters.errors)
        if last.weights == reading.weights and stable is not None:
            self._tick(rollout, last, reading, grown)
        return self.verdict

    def _read(self, environment: Environment, route: RouteObservation, now: float) -> Reading:
        stable, candidate = environment.stable, environment.candidate
        assert candidate is not None
        mirrored = environment.rollout is not None and environment.rollout.plan.strategy.kind == "shadow"
        shadowing = mirrored and not route.weights.get(candidate.id, 0)
        counters = route.mirrored if shadowing else route.counters
        name = stable.id if stable is not None else ""
        return Reading(
            at=now,
            epoch=f"{route.epoch}{'~mirror' if shadowing else ''}",
            weights=(route.weights.get(name, 0), route.weights.get(candidate.id, 0)),
            stable=route.counters.get(name, Counters()),
            candidate=counters.get(candidate.id, Counters()),
            in_flight=(route.active.get(name, 0), route.active.get(candidate.id, 0)),
        )

    def _tick(self, rollout: Rollout, last: Reading, reading: Reading, grown: Mapping[str, Counters]) -> None:
        assert self._judge is not None
        stable, candidate = grown["stable"], grown["candidate"]
        step = (rollout.step, rollout.weight)
        if step != self._step:
            self._step = step
            self._judge.begin_step()
        if self._begun is None:
            self._begun = last.at
        flying = [after - before for before, after in zip(last.in_flight, reading.in_flight, strict=True)]
        self.verdict = self._judge.update(
            Tick(
                t=last.at - self._begun,
                dt=reading.at - last.at,
                weight=self._weight(rollout, reading, stable, candidate),
                stable=Arm(stable.requests, stable.errors, started=max(0, stable.requests + flying[0])),
                candidate=Arm(candidate.requests, candidate.errors, started=max(0, candidate.requests + flying[1])),
            )
        )
        self._draw(reading.at - self._begun, self.verdict.evidence)

    def _weight(self, rollout: Rollout, reading: Reading, stable: Counters, candidate: Counters) -> float:
        """The share with which a request falls to the candidate.

        Where requests are not drawn one by one (sticky callers, mirrored copies) the share that was realised stands in
        for it: the bound on false alarms then holds only as far as callers are alike. JUDGE.md section 1, Weight check.
        """
        total = stable.requests + candidate.requests
        if rollout.plan.sticky is not None or "~mirror" in reading.epoch:
            return candidate.requests / total if total else 0.0
        whole = sum(reading.weights)
        return reading.weights[1] / whole if whole else 0.0

    def _draw(self, t: float, evidence: float) -> None:
        self.course.append((round(t, 2), round(evidence, 4)))
        if len(self.course) > COURSE_LENGTH:
            del self.course[1::2]

    def state(self) -> dict[str, Any] | None:
        """All that is remembered, as JSON; None before the first reading."""
        if self._judge is None:
            return None
        return {
            "judge": self._judge.state(),
            "last": None if self._last is None else dump(self._last),
            "begun": self._begun,
            "step": self._step,
            "totals": {name: [c.requests, c.errors] for name, c in self.totals.items()},
            "course": self.course,
            "verdict": None if self.verdict is None else dump(self.verdict),
        }
