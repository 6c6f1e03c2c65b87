"""`rebake judge metrics`: every source asked once, now, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from rebake.core.codec import dump, load
from rebake.errors import UsageError
from rebake.judge.metric_readings import COHORTS, Reading, Side
from rebake.judge.metric_rules import MetricRule
from rebake.judge.ports import Question
from rebake.rollout.engine import Memory, Ports
from rebake.rollout.metering import cohorts_of, read_once
from rebake.rollout.view import Doc

AT_A_TIME = 8


def rules_in(doc: Mapping[str, Any]) -> tuple[MetricRule, ...] | None:
    """The metrics of a file that is not deployed yet; None where the caller has none.

    Raises: UsageError `plan-not-understood`.
    """
    given = doc.get("metrics")
    if given is None:
        return None
    try:
        return tuple(load(MetricRule, one) for one in given)
    except (TypeError, ValidationError) as error:
        raise UsageError(
            "plan-not-understood",
            f"the agent does not understand these metrics: {error}",
            remedy="the command line and the agent must be of one version: rebake agent stop, then try again",
        ) from error


def answers(ports: Ports, memory: Memory, rules: Sequence[MetricRule]) -> list[Doc]:
    """What each metric's source says of the cohorts that there are, in the order of the rules."""
    cohorts = cohorts_of(memory.environment, memory.world.instances)
    service, name, now = memory.environment.service, memory.environment.environment, ports.clock.now()
    if not rules:
        return []
    with ThreadPoolExecutor(min(len(rules), AT_A_TIME)) as pool:
        questions = [Question(service, name, rule, cohorts) for rule in rules]
        found = list(pool.map(lambda question: read_once(ports.sources.by_kind, question, now), questions))
    return [_answer(question, reading) for question, reading in zip(questions, found, strict=True)]


def _answer(question: Question, reading: Reading) -> Doc:
    rule = question.rule
    sides = {name: _side(getattr(reading, name)) for name in COHORTS if name in question.cohorts}
    problem = reading.problem
    if problem is None and question.cohorts and all(getattr(reading, name).empty for name in question.cohorts):
        problem = "the source answers, and has no data of any cohort"
    return {
        "metric": rule.name,
        "form": rule.form,
        "observe": rule.observe,
        "asked": dump(rule.ask),
        "cohorts": {} if reading.problem is not None else sides,
        "problem": problem,
        "remedy": reading.remedy,
    }


def _side(side: Side) -> Doc:
    runs, failures = side.trials
    return {
        "numbers": dict(side.numbers),
        "counters": {unit: list(pair) for unit, pair in side.counters.items()},
        "trials": {"runs": runs, "failures": failures},
    }
