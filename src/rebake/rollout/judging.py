"""From what the balancer saw to the judge's ticks, for one rollout.

Where the route keeps records (`TrafficRouter.samples`) each tick is made of requests that were dealt by one setting of
the weights and finished within one second, however late the engine looks. The place in the records is remembered with
the evidence, in one document: after a kill the judge goes on with exactly the requests it has not judged.

Where a route keeps none, a tick is what two readings of its counters differ by, if the weights were the same: what
happened while the route was changing is counted for people, not for the judge.

What was served from when both fleets were gone at once (a reboot, say) until both are whole again is counted for
people, not for the judge: who comes up first answers first, and that says nothing about a release.

Workers are judged by what their instances did: `working`. A scheduled job is judged by its runs: each was drawn by lot
with a known share, as a request is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rebake.core.codec import dump, load
from rebake.core.units import FULL
from rebake.judge.custom import CustomMetrics, Split
from rebake.judge.judge import Judge
from rebake.judge.metric_readings import Reading as MetricReading
from rebake.judge.metrics import SHARES
from rebake.judge.samples import Arm, Pairs, Tick, Verdict
from rebake.judge.tape import Beginning
from rebake.ledger.ports import Ledger, Put
from rebake.platforms.model import Instance
from rebake.rollout import readings
from rebake.rollout.margins import checked, copies_share, settings_of
from rebake.rollout.readings import Grown, Reading
from rebake.rollout.states import State
from rebake.rollout.taping import Taping
from rebake.rollout.working import Work
from rebake.rollout.world import Environment, Rollout
from rebake.traffic.ports import Counters, RouteObservation, Sample, Samples

_LOG = logging.getLogger("rebake.judging")

SETTLED_SECONDS = 1.0
"""Records of requests come a moment after them."""
COURSE_LENGTH = 240
"""Points of the evidence's course that are kept for people."""

JUDGED = frozenset({State.SHIFTING, State.HOLDING, State.ASKING, State.SOAKING, State.FINISHING})


def _usual(stable: Counters) -> Arm | None:
    """Without records, what stable's fleet has served in its life centres the judge's bets on its own error rate."""
    return Arm(stable.requests, stable.errors) if stable.requests else None


class Judging:
    """Feeds the judge of one rollout and remembers what people want to see of it.

    Args:
        state: what an earlier `state()` said.
        rate_hint: requests per second of the service.
        history: stable's hour before, from the records; None without.

    Attributes:
        cursor: place in the records up to which requests are judged; None without.
        shielded: failures of the candidate whose callers got a good answer from a second try.
    """

    def __init__(
        self,
        rollout: Rollout,
        state: Mapping[str, Any] | None = None,
        *,
        rate_hint: float = 0.0,
        history: Arm | None = None,
    ) -> None:
        self.rollout = rollout.id
        self._rollout = rollout
        self.cursor: Mapping[str, Any] | None = None
        self._settings = settings_of(rollout.plan)
        self._plan = rollout.plan
        self._unheard: list[MetricReading] = []
        self._rate_hint = rate_hint
        self._history = history
        self._judge: Judge | None = None
        self._taping: Taping | None = None
        self._last: Reading | None = None
        self._work = Work()
        self._counted: tuple[str, ...] = ()
        self._begun: float | None = None
        self._until = 0.0
        self._fell_until: float | None = None
        self._step: tuple[int, int] | None = None
        self.totals: dict[str, Counters] = {"stable": Counters(), "candidate": Counters()}
        self.shielded = 0
        self.course: list[tuple[float, float]] = []
        self.verdict: Verdict | None = None
        if state is not None:
            self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` says; from nothing where another version of rebake wrote it in another form.

        An upgrade in the middle of a rollout must block neither stop nor undo, and lost evidence is never a pass.
        """
        try:
            share = copies_share(self._plan)
            judge = Judge.restore(self._settings, state["judge"], custom=self._custom(), copies_share=share)
            last = load(Reading | None, state["last"])  # type: ignore[arg-type]
            begun, until, cursor = state["begun"], state["until"], state["cursor"]
            step = None if state["step"] is None else tuple(state["step"])
            totals = {name: Counters(*pair) for name, pair in state["totals"].items()}
            shielded = int(state.get("shielded", 0))
            course = [tuple(point) for point in state["course"]]
            verdict = None if state["verdict"] is None else load(Verdict, state["verdict"])
            work, counted = load(Work, state.get("work") or {}), tuple(state.get("runs") or ())
            tape = state.get("tape")  # none where the version before wrote this
            taping = None if tape is None else Taping(self._rollout, tape["begun_at"], None, tape)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            _LOG.warning("the judge of %s begins anew: what it remembered cannot be read: %r", self.rollout, error)
            return
        self._judge, self._last, self._begun, self._step, self._taping = judge, last, begun, step, taping
        self._until, self.cursor, self._work, self._counted = until, cursor, work, counted
        self.totals, self.course, self.verdict, self.shielded = totals, course, verdict, shielded

    @property
    def begun(self) -> bool:
        """There is evidence to be kept."""
        return self._judge is not None

    def look(
        self,
        environment: Environment,
        route: RouteObservation | None,
        now: float,
        samples: Samples | None = None,
        metrics: Sequence[MetricReading] = (),
        *,
        instances: Sequence[Instance] | None = None,
    ) -> Verdict | None:
        """Take in one observation of the route, and what its records say since the last; the verdict so far.

        Args:
            samples: since `cursor`; None where the route keeps no records.
            metrics: readings of the service's own ones that came in since the last look.
            instances: what the platform showed; None when it could not be asked. Where there is no route they are all
                there is to judge.
        """
        if samples is not None:
            self.cursor = samples.cursor
        rollout, candidate = environment.rollout, environment.candidate
        if rollout is None or candidate is None or rollout.state not in JUDGED:
            return self.verdict
        if not rollout.plan.routed:
            if rollout.plan.schedule is None:
                self._take_work(environment, rollout, instances, now)
            else:
                self._take_runs(environment, rollout, now)
            self._hear(None if instances is None else _split_by_instances(rollout), now, metrics)
            self._distrust(rollout)
            return self.verdict
        reading = None if route is None else readings.read(environment, route, now)
        grown = None if reading is None or self._last is None else readings.grown(self._last, reading)
        fell = self._fell(environment, instances, now)
        if not readings.too_near(self._last, reading):
            self._last = reading or self._last
        if self._judge is None:
            self._begin(self._beginning(rollout, reading, samples is not None), now)
        if samples is None:
            self._take_counters(environment, grown, judged=not fell)
        else:
            self._take_records(environment, samples.samples, grown, now, judged=not fell)
        self._hear(None if route is None else self._split(environment, route), now, metrics)
        self._distrust(rollout)
        return self.verdict

    def _fell(self, environment: Environment, instances: Sequence[Instance] | None, now: float) -> bool:
        """Whether what was served since the look before says nothing: both fleets are on their way back."""
        fleets = [fleet.id for fleet in (environment.stable, environment.candidate) if fleet is not None]
        up = {i.fleet for i in instances or () if i.healthy}
        gone = instances is not None and len(fleets) == 2 and not up.intersection(fleets)
        if gone or environment.fell_at is not None:
            self._fell_until = now
        return self._fell_until is not None and 0 <= now - self._fell_until < SETTLED_SECONDS

    def _hear(self, split: Split | None, now: float, metrics: Sequence[MetricReading]) -> None:
        """Have the service's own metrics judged. Readings wait while nobody knows how the work is split."""
        if not self._plan.judge.metrics or self._judge is None:
            return
        self._unheard += metrics
        heard = self._unheard if split is not None else []
        before, self.verdict = self.verdict, self._judge.hear(now, heard, split)
        changed = _course_of(before) != _course_of(self.verdict)
        if self._taping is not None and (heard or changed):
            self._taping.heard(now, heard, split)
            if changed and self._begun is not None:
                self._taping.said(self._until - self._begun, self.verdict)
        if heard:
            self._unheard = []
            self._draw(self._until - (self._begun or self._until), self.verdict.evidence)

    def _split(self, environment: Environment, route: RouteObservation) -> Split:
        stable, candidate = environment.stable, environment.candidate
        assert candidate is not None
        share = route.weights.get(candidate.id, 0)
        return Split(
            weight=share / FULL,
            candidates=self._plan.instances,
            stables=0 if stable is None else stable.plan.instances,
            requests=(float(self.totals["stable"].requests), float(self.totals["candidate"].requests)),
            steady=f"{share}/{route.epoch}",
        )

    def _distrust(self, rollout: Rollout) -> None:
        """What was healthy at another weight is not so at this one before a request was dealt by it."""
        if self.verdict is not None and self.verdict.kind == "healthy" and self._step != (rollout.step, rollout.weight):
            reason = f"{self._settings.words.not_yet}; before: {self.verdict.reason}"
            self.verdict = replace(self.verdict, kind="undecided", reason=reason)

    def _begin(self, beginning: Beginning, now: float) -> None:
        self._judge, self._taping = beginning.judge(), Taping(self._rollout, now, beginning)
        if self._judge.copies is not None:
            nobody = Arm(started=0), Arm(started=0)
            self._judge_tick(self._rollout, 0, 0.0, nobody, (now, now), checked(self._plan))
            self._step = None  # they are no copies: none of those that the stage needs

    def _beginning(self, rollout: Rollout, reading: Reading | None, recorded: bool) -> Beginning:
        usual = None if reading is None else _usual(reading.stable)
        return Beginning(
            self._settings,
            rate_hint=self._rate_hint,
            history=self._history or usual,
            kinds=tuple(SHARES) if recorded else None,
            candidate_instances=rollout.plan.instances,
            metrics=self._plan.judge.metrics,
            hint=self._hint,
            copies_share=copies_share(rollout.plan),
        )

    def _custom(self) -> CustomMetrics:
        return CustomMetrics(self._plan.judge.metrics, self._hint, self._settings.words.taken_besides)

    @property
    def _hint(self) -> str:
        return f"rebake judge metrics {self._plan.environment}"

    def _take_records(
        self, environment: Environment, samples: Sequence[Sample], grown: Grown | None, now: float, *, judged: bool
    ) -> None:
        """Judge what finished, second by second, each with the weights that dealt it; then check by the counters, which
        also know what was dealt and has not finished, that the weights are kept."""
        rollout, stable, candidate = environment.rollout, environment.stable, environment.candidate
        assert rollout is not None
        assert candidate is not None
        for sample in samples:
            share, pairs = sample.weights.get(candidate.id, 0), sample.pairs.get(candidate.id)
            if not share and pairs is None:
                continue
            ours = sample.fleets.get(candidate.id, Arm())
            theirs = sample.fleets.get(stable.id, Arm()) if stable is not None else Arm()
            self._add_up(theirs, ours)
            if judged and stable is not None and sample.weights.keys() <= {stable.id, candidate.id}:
                arms = replace(theirs, started=0), replace(ours, started=0)
                during = float(sample.at), min(sample.at + 1.0, now)
                self._judge_tick(rollout, share, self._dealt(rollout, share, arms), arms, during, pairs)
        if judged and grown is not None and grown.share and stable is not None:
            finished_none = Arm(started=grown.stable.started), Arm(started=grown.candidate.started)
            if rollout.plan.sticky is not None:  # callers who come again are not dealt again
                finished_none = Arm(started=0), Arm(started=0)
            weight = grown.share / grown.whole
            self._judge_tick(rollout, grown.share, weight, finished_none, (grown.since, grown.until))

    def _take_work(
        self, environment: Environment, rollout: Rollout, instances: Sequence[Instance] | None, now: float
    ) -> None:
        """Judge what the instances did since the last look. See `working`."""
        if self._judge is None:
            self._begin(self._beginning(rollout, None, recorded=False), now)
        worked = None if instances is None else self._work.look(environment, instances, now)
        if worked is None:
            return
        self._add_up(worked.stable, worked.candidate)
        if environment.stable is not None:
            arms, during = (worked.stable, worked.candidate), (worked.since, worked.until)
            self._judge_tick(rollout, rollout.weight, worked.weight, arms, during)

    def _take_runs(self, environment: Environment, rollout: Rollout, now: float) -> None:
        """Judge a job's runs that are over, each once and with the share that it was drawn by."""
        if self._judge is None:
            self._begin(self._beginning(rollout, None, recorded=False), now)
        for run in environment.runs:
            if run.rollout != rollout.id or run.outcome not in ("done", "failed") or run.instance in self._counted:
                continue
            one, none = Arm(1, int(run.outcome == "failed"), started=1), Arm(started=0)
            arms = (none, one) if run.fleet == rollout.id else (one, none)
            self._add_up(*arms)
            if environment.stable is not None:
                self._judge_tick(rollout, run.share, run.share / FULL, arms, (run.began, run.ended or now))
        self._counted = tuple(run.instance for run in environment.runs if run.ended is not None)

    def _take_counters(self, environment: Environment, grown: Grown | None, *, judged: bool) -> None:
        if grown is None:
            return
        self._add_up(grown.stable, grown.candidate)
        rollout = environment.rollout
        if judged and grown.share is not None and environment.stable is not None and rollout is not None:
            weight, arms = self._realised(rollout, grown), (grown.stable, grown.candidate)
            self._judge_tick(rollout, grown.share, weight, arms, (grown.since, grown.until))

    @staticmethod
    def _dealt(rollout: Rollout, share: int, arms: tuple[Arm, Arm]) -> float:
        """The share with which a request fell to the candidate. A share of instances deals connections, and not evenly:
        there the share of the requests that was realised stands in for it, as for callers that stick."""
        total = arms[0].n + arms[1].n
        return arms[1].n / total if rollout.plan.strategy.by_instances and total else share / FULL

    def _realised(self, rollout: Rollout, grown: Grown) -> float:
        """The share with which a request falls to the candidate, by counters.

        Where requests are not drawn one by one (sticky callers) the share that was realised stands in for it: the bound
        on false alarms then holds only as far as callers are alike. JUDGE.md section 1, Weight check.
        """
        total = grown.stable.n + grown.candidate.n
        if rollout.plan.sticky is not None:
            return grown.candidate.n / total if total else 0.0
        return (grown.share or 0) / grown.whole if grown.whole else 0.0

    def _judge_tick(  # noqa: PLR0917
        self,
        rollout: Rollout,
        share: int,
        weight: float,
        arms: tuple[Arm, Arm],
        during: tuple[float, float],
        pairs: Pairs | None = None,
    ) -> None:
        """Have one tick judged. Time only goes on: a late one lasts no time."""
        assert self._judge is not None
        self._mark_step(rollout, share)
        if self._begun is None:
            self._begun = self._until = during[0]
        begin, self._until = self._until, max(self._until, during[1])
        tick = Tick(begin - self._begun, self._until - begin, weight, stable=arms[0], candidate=arms[1], pairs=pairs)
        before, self.verdict = self.verdict, self._judge.update(tick)
        self._draw(self._until - self._begun, self.verdict.evidence)
        if self._taping is not None:
            self._taping.tick(tick, self._begun)
            if _course_of(before) != _course_of(self.verdict):
                self._taping.said(self._until - self._begun, self.verdict)

    def _mark_step(self, rollout: Rollout, share: int) -> None:
        """A step counts its own requests: from the first that its weight dealt."""
        assert self._judge is not None
        step = (rollout.step, rollout.weight)
        if step != self._step and share == rollout.weight:
            self._step = step
            self._judge.begin_step()
            if self._taping is not None:
                self._taping.step()

    def _add_up(self, stable: Arm, candidate: Arm) -> None:
        for name, arm in (("stable", stable), ("candidate", candidate)):
            total = self.totals[name]
            self.totals[name] = Counters(total.requests + arm.n, total.errors + arm.errors)
        self.shielded += candidate.shielded

    def _draw(self, t: float, evidence: float) -> None:
        point = (round(t, 2), round(evidence, 4))
        if self.course and self.course[-1][0] == point[0]:
            self.course[-1] = point
            return
        self.course.append(point)
        if len(self.course) > COURSE_LENGTH:
            del self.course[1::2]

    def tape(self, entered: State | None = None) -> list[Put]:
        """What makes the tape as long as the evidence; to be committed with the `state` that is asked for next.

        Args:
            entered: the state that the rollout enters with this look.
        """
        if self._taping is None or self._judge is None:
            return []
        if self.verdict is not None and self._begun is not None:
            self._taping.said(self._until - self._begun, self.verdict, None if entered is None else entered.value)
        return self._taping.puts()

    def end_tape(self, ledger: Ledger) -> list[Put]:
        """The same when the rollout is over: the tape is finished, and the oldest of the environment are let go."""
        return [] if self._taping is None else self._taping.end(ledger)

    def state(self) -> dict[str, Any] | None:
        """All that is remembered, as JSON; None before the first reading."""
        if self._judge is None:
            return None
        return {
            "judge": self._judge.state(),
            "last": None if self._last is None else dump(self._last),
            "work": dump(self._work),
            "runs": list(self._counted),
            "begun": self._begun,
            "until": self._until,
            "cursor": None if self.cursor is None else dict(self.cursor),
            "step": self._step,
            "shielded": self.shielded,
            "totals": {name: [c.requests, c.errors] for name, c in self.totals.items()},
            "course": self.course,
            "tape": None if self._taping is None else self._taping.state(),
            "verdict": None if self.verdict is None else dump(self.verdict),
        }


def _split_by_instances(rollout: Rollout) -> Split:
    """Nobody deals work to workers: an instance fetches as much as any other, whatever its fleet's share is."""
    return Split(steady=f"{rollout.weight}")


def _course_of(verdict: Verdict | None) -> tuple[Any, ...] | None:
    """What of a verdict is worth a place on the tape when it changes."""
    return None if verdict is None else (verdict.kind, verdict.brake, verdict.fault is not None)
