"""Metrics of the service's own, in the real engine over a simulated world."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rebake.errors import Transient
from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.metric_rules import EndpointAsk, MetricRule
from rebake.judge.ports import Question
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.metering import Sources
from rebake.rollout.plan import JudgeRules
from rebake.rollout.states import State
from rebake.testing.simulated import InlineJobs
from tests.unit.rollout.world import CANARY, Shop

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
JOBS = MetricRule("jobs", EndpointAsk(hits="failed_total", total="jobs_total"), interval_ms=1000)


class Source:
    """Says what it is told to, by cohort; both cohorts do 20 jobs a reading."""

    def __init__(self, failing: float = 0.0) -> None:
        self.failing = failing
        self.silent = False
        self.asked: list[Question] = []

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        self.asked.append(question)
        if self.silent:
            raise Transient("metric-not-answered", "GET http://10.0.0.1/metrics: refused")
        total = 20.0 * len(self.asked)
        failed = {"stable": 0.0, "candidate": self.failing * total}
        return {n: Side(counters={"i": (failed[n], total)}) for n in question.cohorts}


def rules(*metrics: MetricRule) -> JudgeRules:
    return JudgeRules(metrics=metrics)


def said_of(shop: Shop) -> dict[str, Any]:
    """What the verdict shows of the one metric."""
    said: dict[str, Any] = shop.engine.view("shop/production")["rollout"]["verdict"]["own_metrics"][0]
    return said


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def shop(source: Source) -> Shop:
    shop = Shop()
    shop.sources = Sources({"endpoint": source}, InlineJobs())
    shop.start_engine()
    shop.serving(A)
    return shop


def test_a_candidate_whose_jobs_fail_is_taken_back_though_its_answers_are_good(shop: Shop, source: Source) -> None:
    source.failing = 1.0
    view = shop.until_over(shop.deploy(B, strategy=CANARY, judge=rules(JOBS)))
    assert view["outcome"] == "rolled-back"
    assert "metric jobs" in view["reason"]
    assert "weaker test" in view["reason"]
    assert shop.environment.stable is not None
    assert shop.environment.stable.revision.release == A


def test_a_good_one_is_promoted_and_asked_about_with_the_addresses_of_both(shop: Shop, source: Source) -> None:
    rollout = shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
    shop.until_state(State.SOAKING)
    cohorts = source.asked[-1].cohorts
    assert cohorts["candidate"].fleet == rollout
    assert all(len(cohort.instances) == 2 for cohort in cohorts.values())
    shop.until(lambda: said_of(shop)["state"] == "compared")
    assert said_of(shop)["name"] == "jobs"


def test_a_source_that_is_silent_holds_the_rollout_and_says_what_to_try(shop: Shop, source: Source) -> None:
    source.silent = True
    shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
    shop.until_state(State.ASKING)
    rollout = shop.environment.rollout
    assert rollout is not None
    assert "http://10.0.0.1/metrics: refused" in rollout.reason
    assert "rebake judge metrics production" in rollout.reason
    source.silent = False
    shop.until_state(State.SOAKING)


@pytest.mark.parametrize("changed", [{"missing": "ignore"}, {"observe": True}])
def test_a_silent_source_that_need_not_be_heard_holds_nobody(
    shop: Shop, source: Source, changed: dict[str, Any]
) -> None:
    source.silent = True
    shop.deploy(B, strategy=CANARY, judge=rules(replace(JOBS, **changed)))
    shop.until_state(State.SOAKING)


def test_harm_that_is_only_observed_takes_nothing_back(shop: Shop, source: Source) -> None:
    source.failing = 1.0
    shop.deploy(B, strategy=CANARY, judge=rules(replace(JOBS, observe=True)))
    shop.until_state(State.SOAKING)


def test_evidence_survives_a_restart_of_the_engine(shop: Shop, source: Source) -> None:
    shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
    shop.until_state(State.HOLDING)
    shop.until(lambda: len(source.asked) >= 5)
    before = said_of(shop)
    shop.start_engine()
    shop.engine.tick("shop/production")
    after = said_of(shop)
    assert after["evidence"] == pytest.approx(before["evidence"], rel=0.2)
    assert "0 bad of" in after["text"]
    shop.until_state(State.SOAKING)


def test_an_engine_without_that_source_says_so(shop: Shop) -> None:
    shop.sources = Sources({}, InlineJobs())
    shop.start_engine()
    shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
    shop.until_state(State.ASKING)
    assert "no source for endpoint" in shop.where()


@pytest.fixture
def threads() -> Iterator[ThreadJobs]:
    jobs = ThreadJobs(2)
    yield jobs
    jobs.close()


def test_a_source_that_hangs_keeps_no_tick_waiting_and_is_asked_once(threads: ThreadJobs) -> None:
    answer, asked = threading.Event(), []

    class Hanging:
        def read(self, question: Question) -> Mapping[CohortName, Side]:
            asked.append(question)
            answer.wait(60)
            return {}

    shop = Shop()
    shop.sources = Sources({"endpoint": Hanging()}, threads)
    shop.start_engine()
    shop.serving(A)
    try:
        shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
        shop.until_state(State.ASKING)  # a minute of ticks while the one reading is still under way
        assert len(asked) == 1
    finally:
        answer.set()


def test_a_source_with_a_defect_is_no_data_and_no_end_of_the_engine(shop: Shop) -> None:
    class Broken:
        def read(self, question: Question) -> Mapping[CohortName, Side]:
            raise ZeroDivisionError("oh")

    shop.sources = Sources({"endpoint": Broken()}, InlineJobs())
    shop.start_engine()
    shop.deploy(B, strategy=CANARY, judge=rules(JOBS))
    shop.until_state(State.ASKING)
    assert "ZeroDivisionError: oh" in shop.where()


def test_a_rollout_that_is_over_is_not_read_any_more(shop: Shop, source: Source) -> None:
    shop.until_over(shop.deploy(B, strategy=CANARY, judge=rules(JOBS)), 600)
    count = len(source.asked)
    for _ in range(100):
        shop.tick()
    assert len(source.asked) == count
