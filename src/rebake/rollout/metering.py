"""Has metrics of the service's own read beside the ticks of one rollout. Part of the shell.

A reading takes as long as its source takes; no tick waits for one. What came in since the last look is handed to the
judge as values. In memory only: what a crash cuts off is read again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rebake.core.clock import Clock
from rebake.errors import RebakeError
from rebake.judge.metric_readings import COHORTS, CohortName, Reading, Side
from rebake.judge.metric_rules import MetricRule
from rebake.judge.ports import Cohort, MetricSource, Question
from rebake.platforms.model import Instance
from rebake.rollout.jobs import Jobs
from rebake.rollout.world import Environment, Fleet, Job


@dataclass(frozen=True, slots=True)
class Sources:
    """Where metrics are read, by kind, and the threads for that: a source that is slow keeps no check waiting."""

    by_kind: Mapping[str, MetricSource] = field(default_factory=dict)
    jobs: Jobs | None = None


def cohorts_of(environment: Environment, instances: Sequence[Instance]) -> dict[CohortName, Cohort]:
    """The cohorts that there are, each with its healthy instances."""
    fleets = {"stable": environment.stable, "candidate": environment.candidate}
    return {name: _cohort(fleet, instances) for name in COHORTS if (fleet := fleets[name]) is not None}


def _cohort(fleet: Fleet, instances: Sequence[Instance]) -> Cohort:
    healthy = {i.id: i.address for i in instances if i.fleet == fleet.id and i.healthy and i.address}
    return Cohort(fleet.id, fleet.revision.digest, fleet.revision.release, healthy)


def read_once(sources: Mapping[str, MetricSource], question: Question, at: float) -> Reading:
    """Ask a source now. What goes wrong is a sentence of the reading, never an exception."""
    rule = question.rule
    source = sources.get(rule.ask.kind)
    if source is None:
        return Reading(rule.name, at, problem=f"this engine has no source for {rule.ask.kind}")
    try:
        sides = source.read(question)
    except RebakeError as error:
        return Reading(rule.name, at, problem=error.problem, remedy=error.remedy)
    except Exception as error:
        return Reading(rule.name, at, problem=f"{type(error).__name__}: {error}", remedy="rebake doctor; see agent.log")
    return Reading(rule.name, at, sides.get("stable", Side()), sides.get("candidate", Side()))


class Metering:
    """The readings of one rollout's metrics: which are due, and those that came in."""

    def __init__(self, rollout: str, rules: Sequence[MetricRule]) -> None:
        self.rollout = rollout
        self._rules = rules
        self._due: dict[str, float] = {}
        self._found: deque[Reading] = deque()

    def look(self, sources: Sources, environment: Environment, instances: Sequence[Instance], clock: Clock) -> None:
        """Have read what is due."""
        if not self._rules or sources.jobs is None:
            return
        now, cohorts = clock.now(), cohorts_of(environment, instances)
        for rule in self._rules:
            if self._is_due(rule, now) and self._free(sources.jobs, rule):
                self._due[rule.name] = now + rule.interval_ms / 1000
                question = Question(environment.service, environment.environment, rule, cohorts)
                sources.jobs.start(self._job(rule), self._work(sources.by_kind, question, clock), lambda: None)

    def taken(self) -> list[Reading]:
        """What came in since the last call, oldest first."""
        found: list[Reading] = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def forget(self, sources: Sources) -> None:
        """The rollout is over."""
        if sources.jobs is not None:
            sources.jobs.forget(f"metric:{self.rollout}:")

    def _is_due(self, rule: MetricRule, now: float) -> bool:
        """Also when the clock was set back by more than an interval."""
        due = self._due.get(rule.name)
        return due is None or not due - rule.interval_ms / 1000 <= now < due

    def _free(self, jobs: Jobs, rule: MetricRule) -> bool:
        """Whether the reading before this one has ended; it is forgotten then."""
        job = jobs.results(self._job(rule)).get(self._job(rule))
        if job is not None and job.state == "running":
            return False
        jobs.forget(self._job(rule))
        return True

    def _job(self, rule: MetricRule) -> str:
        return f"metric:{self.rollout}:{rule.name}:"

    def _work(
        self, sources: Mapping[str, MetricSource], question: Question, clock: Clock
    ) -> Callable[[threading.Event], Job]:
        def work(cancelled: threading.Event) -> Job:
            reading = read_once(sources, question, clock.now())
            if not cancelled.is_set():
                self._found.append(reading)
            return Job("done")

        return work
