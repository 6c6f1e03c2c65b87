"""Metrics of the service's own beside the requests: what they weigh, what it means that there are none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rebake.judge.custom import CustomMetrics, Split
from rebake.judge.judge import OWN_METRICS_SHARE, Judge
from rebake.judge.metric_readings import Reading, Side, grown
from rebake.judge.metric_rules import REQUESTS, CommandAsk, EndpointAsk, MetricRule
from rebake.judge.samples import Arm, JudgeSettings, Tick

SHARE = MetricRule("jobs", EndpointAsk(hits="failed_total", total="jobs_total"))
NUMBER = MetricRule("age", EndpointAsk(value="age_seconds"))
PROBE = MetricRule("probe", CommandAsk(("probe",)))
HALF = Split(weight=0.5, candidates=2, stables=2, steady="a")


def _counters(at: float, candidate: tuple[float, float], stable: tuple[float, float], name: str = "jobs") -> Reading:
    return Reading(name, at, Side(counters={"s": stable}), Side(counters={"c": candidate}))


def _numbers(at: float, candidate: float, stable: float) -> Reading:
    return Reading("age", at, Side(numbers={"s0": stable, "s1": stable}), Side(numbers={"c0": candidate}))


def _judged(judge: Judge, ticks: int = 40) -> None:
    for t in range(ticks):
        judge.update(Tick(float(t), 1.0, 0.5, stable=Arm(20, 0), candidate=Arm(20, 0)))


def test_a_metric_that_fails_on_the_candidate_alone_takes_it_back_and_names_the_test() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([SHARE]))
    _judged(judge)
    for i in range(15):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (20.0 * i, 20.0 * i), (0.0, 20.0 * i))], HALF)
    assert verdict.kind == "harmful"
    assert "metric jobs" in verdict.reason
    assert "weaker test" in verdict.reason
    assert verdict.own_metrics[0].evidence > 400


def test_observe_only_is_shown_and_never_decides() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([replace(SHARE, observe=True)]))
    _judged(judge)
    for i in range(30):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (20.0 * i, 20.0 * i), (0.0, 20.0 * i))], HALF)
    assert verdict.kind == "healthy"
    assert verdict.own_metrics[0].evidence > 1e6


@pytest.mark.parametrize("missing", ["undecided", "ignore"])
def test_a_source_that_says_nothing_is_no_pass_unless_the_file_says_ignore(missing: str) -> None:
    rule = replace(SHARE, missing=missing)  # type: ignore[arg-type]
    judge = Judge(JudgeSettings(), custom=CustomMetrics([rule], "rebake judge metrics production"))
    _judged(judge)
    failed = Reading("jobs", 40.0, problem="GET http://127.0.0.1:9/metrics: Connection refused")
    verdict = judge.hear(40.0, [failed], HALF)
    if missing == "ignore":
        assert verdict.kind == "healthy"
        return
    assert verdict.kind == "undecided"
    assert verdict.evidence <= 1.0
    for part in ("metric jobs", "Connection refused", "rebake judge metrics production"):
        assert part in verdict.reason


def test_data_that_ends_is_missed_after_three_intervals() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([SHARE]))
    _judged(judge)
    for i in range(4):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (0.0, 20.0 * i), (0.0, 20.0 * i))], HALF)
    assert verdict.kind == "healthy"
    assert judge.hear(60.0).kind == "healthy"
    assert judge.hear(70.0).kind == "undecided"


def test_a_new_weight_must_be_heard_at() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([SHARE]))
    for i in range(4):
        judge.hear(10.0 * i, [_counters(10.0 * i, (0.0, 20.0 * i), (0.0, 20.0 * i))], HALF)
    judge.begin_step()
    _judged(judge)
    assert judge.hear(31.0).kind == "undecided"


def test_counters_that_stand_still_on_the_candidate_are_no_data() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([SHARE]))
    _judged(judge)
    for i in range(10):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (0.0, 5.0), (0.0, 20.0 * i))], HALF)
    assert verdict.kind == "undecided"
    assert verdict.own_metrics[0].state == "missing"


def test_an_instance_that_started_again_is_left_out_of_that_interval() -> None:
    change = grown({"a": (5.0, 100.0), "b": (1.0, 50.0)}, {"a": (0.0, 3.0), "b": (2.0, 70.0), "new": (9.0, 9.0)})
    assert change.by_unit == {"b": (1.0, 20.0)}
    assert change.restarted


def test_the_total_of_requests_is_judged_by_the_weight_that_dealt_them() -> None:
    rule = MetricRule("errors", EndpointAsk(hits="exceptions_total", total=REQUESTS))
    metrics = CustomMetrics([rule])
    for i in range(12):
        reading = _counters(10.0 * i, (10.0 * i, 0.0), (0.0, 0.0), "errors")
        metrics.take(reading, replace(HALF, requests=(10.0 * i, 10.0 * i)))
    assert metrics.evidence > 100
    assert metrics.said(0.0)[0].test.startswith("test by the weights")


def test_requests_that_another_weight_dealt_are_not_pooled() -> None:
    rule = MetricRule("errors", EndpointAsk(hits="exceptions_total", total=REQUESTS))
    metrics = CustomMetrics([rule])
    for i in range(12):
        reading = _counters(10.0 * i, (10.0 * i, 0.0), (0.0, 0.0), "errors")
        metrics.take(reading, replace(HALF, requests=(10.0 * i, 10.0 * i), steady=str(i)))
    assert metrics.evidence == pytest.approx(1.0)


def test_a_number_that_goes_with_traffic_is_not_compared_where_the_candidate_carries_more() -> None:
    heavy = replace(HALF, weight=0.8)
    for loaded, harmful in ((True, False), (False, True)):
        metrics = CustomMetrics([replace(NUMBER, loaded=loaded, interval_ms=30_000)])
        for i in range(40):
            metrics.take(_numbers(30.0 * i, 90.0, 20.0), heavy)
        assert (metrics.evidence > 100) is harmful
        assert metrics.unheard(1200.0) is None
    assert metrics.said(1200.0)[0].state == "compared"


def test_a_candidate_that_has_just_begun_is_still_warming_up() -> None:
    metrics = CustomMetrics([NUMBER])
    for i in range(9):
        metrics.take(_numbers(10.0 * i, 900.0, 20.0), HALF)
    assert metrics.evidence == pytest.approx(1.0)
    assert metrics.unheard(80.0) is None


def test_a_command_that_fails_on_the_candidate_is_found_and_on_both_is_not() -> None:
    for both, harmful in ((False, True), (True, False)):
        metrics = CustomMetrics([PROBE])
        for i in range(20):
            stable = Side(trials=(1.0, 1.0 if both else 0.0))
            metrics.take(Reading("probe", 10.0 * i, stable, Side(trials=(1.0, 1.0))), HALF)
        assert (metrics.evidence > 100) is harmful


def test_where_lower_is_worse_it_is_what_lacks_that_counts() -> None:
    rule = replace(SHARE, worse="lower")
    metrics = CustomMetrics([rule])
    for i in range(15):
        metrics.take(_counters(10.0 * i, (2.0 * i, 20.0 * i), (19.0 * i, 20.0 * i)), HALF)
    assert metrics.evidence > 100


def test_a_judge_without_such_metrics_says_the_same_bit_for_bit() -> None:
    plain, empty = Judge(JudgeSettings()), Judge(JudgeSettings(), custom=CustomMetrics(()))
    for t in range(50):
        tick = Tick(float(t), 1.0, 0.2, stable=Arm(80, t % 3), candidate=Arm(20, t % 5 == 0))
        assert plain.update(tick) == empty.update(tick)
        empty.hear(float(t))
    assert json.dumps(plain.state()) == json.dumps(empty.state())
    assert "custom" not in plain.state()


def test_quiet_metrics_cost_the_requests_a_fifth_of_their_weight_and_no_more() -> None:
    judge, plain = Judge(JudgeSettings(), custom=CustomMetrics([SHARE])), Judge(JudgeSettings())
    for t in range(3):
        tick = Tick(float(t), 1.0, 0.5, stable=Arm(20, 0), candidate=Arm(20, 2))
        judge.update(tick)
        plain.update(tick)
    assert judge.evidence == pytest.approx((1 - OWN_METRICS_SHARE) * plain.evidence + OWN_METRICS_SHARE)


def test_without_a_route_the_metrics_alone_decide() -> None:
    judge = Judge(JudgeSettings(), custom=CustomMetrics([SHARE]), by_requests=False)
    alone = Split(weight=None)
    for i in range(6):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (0.0, 20.0 * i), (0.0, 20.0 * i))], alone)
    assert verdict.kind == "healthy"
    for i in range(6, 16):
        verdict = judge.hear(10.0 * i, [_counters(10.0 * i, (20.0 * i - 100, 20.0 * i), (0.0, 20.0 * i))], alone)
    assert verdict.kind == "harmful"
    assert "metric jobs" in verdict.reason


def test_what_was_remembered_goes_on_as_if_nothing_had_happened() -> None:
    rules = [SHARE, NUMBER, PROBE]

    def readings(i: int) -> list[Reading]:
        probe = Reading("probe", 10.0 * i, Side(trials=(1.0, 0.0)), Side(trials=(1.0, float(i % 2))))
        return [_counters(10.0 * i, (3.0 * i, 20.0 * i), (0.0, 20.0 * i)), _numbers(10.0 * i, 5.0 + i % 3, 4.0), probe]

    whole = Judge(JudgeSettings(), custom=CustomMetrics(rules))
    for i in range(30):
        whole.hear(10.0 * i, readings(i), HALF)
    torn = Judge(JudgeSettings(), custom=CustomMetrics(rules))
    for i in range(30):
        torn.hear(10.0 * i, readings(i), HALF)
        state = json.loads(json.dumps(torn.state()))
        torn = Judge.restore(JudgeSettings(), state, custom=CustomMetrics(rules))
    assert torn.custom.evidence == pytest.approx(whole.custom.evidence)
    assert torn.hear(300.0).own_metrics == whole.hear(300.0).own_metrics


def test_a_state_of_a_version_without_metrics_is_read() -> None:
    old = Judge(JudgeSettings()).state()
    judge = Judge.restore(JudgeSettings(), old, custom=CustomMetrics([SHARE]))
    assert judge.hear(1.0).own_metrics[0].state == "missing"
