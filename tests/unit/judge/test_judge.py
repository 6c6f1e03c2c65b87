"""What the judge says in the situations people meet."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rebake.judge.judge import Judge, judge_alone
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Tick, Verdict

RULES = JudgeSettings()


def latency(rng: np.random.Generator, n: int, slower: float = 1.0) -> list[int]:
    times = np.log(rng.lognormal(np.log(100 * slower), 0.6, n)) / np.log(1.05)
    buckets = np.ceil(times).astype(int).clip(0, LATENCY_BUCKETS - 1)
    return [int(x) for x in np.bincount(buckets, minlength=LATENCY_BUCKETS)]


def run(judge: Judge, ticks: int, *, start: float = 0.0, weight: float = 0.1, n: int = 100, **rates: float) -> Verdict:
    """Feed ticks in which the cohorts fail at the given rates (`stable`, `candidate`), routed at `share`."""
    rng = np.random.default_rng(3)
    for t in range(ticks):
        mine = int(rng.binomial(n, rates.get("share", weight)))
        stable = Arm(n - mine, int(rng.binomial(n - mine, rates.get("stable", 0.0))))
        candidate = Arm(mine, int(rng.binomial(mine, rates.get("candidate", 0.0))))
        verdict = judge.update(Tick(start + t, 1.0, weight, stable, candidate))
        if verdict.kind == "harmful":
            break
    return verdict


def test_two_early_failures_at_a_small_share_take_a_release_back_and_one_only_brakes() -> None:
    judge = Judge(RULES, history=Arm(72_000, 0))
    for t in range(3):
        judge.update(Tick(float(t), 1.0, 0.005, Arm(199, 0), Arm(0, 0)))
    first = judge.update(Tick(3.0, 1.0, 0.005, Arm(199, 0), Arm(1, 1)))
    assert first.kind == "undecided"
    assert first.brake
    second = judge.update(Tick(4.0, 1.0, 0.005, Arm(199, 0), Arm(1, 1)))
    assert second.kind == "harmful"
    assert second.evidence >= second.needed == 100


def test_a_harmful_verdict_stays_whatever_comes_after() -> None:
    judge = Judge(RULES)
    assert run(judge, 60, candidate=1.0).kind == "harmful"
    first = judge.update(Tick(100.0, 1.0, 0.1, Arm(90, 0), Arm(10, 0))).reason
    assert run(judge, 300, start=101.0).kind == "harmful"
    assert judge.update(Tick(900.0, 1.0, 0.1, Arm(90, 0), Arm(10, 0))).reason == first


def test_the_sentence_of_a_rollback_has_both_cohorts_the_evidence_the_bound_and_the_worst_endpoint() -> None:
    history = Arm(72_000, 40, {"GET /": (50_000, 30), "POST /orders": (22_000, 10)})
    judge = Judge(RULES, history=history)
    for t in range(20):
        stable = Arm(195, 0, {"GET /": (140, 0), "POST /orders": (55, 0)})
        candidate = Arm(2, 1, {"GET /": (1, 0), "POST /orders": (1, 1)})
        verdict = judge.update(Tick(float(t), 1.0, 0.01, stable, candidate))
        if verdict.kind == "harmful":
            break
    assert verdict.kind == "harmful"
    n, bad = verdict.candidate[0], verdict.candidate[1]
    assert f"{bad} bad answers of {n} on the candidate (50 %) against 0 of {verdict.stable[0]} on stable (0 %)" in (
        verdict.reason
    )
    assert "of 100 needed; false-alarm bound 1 %" in verdict.reason
    assert verdict.reason.endswith(f"worst endpoint POST /orders ({bad} of {n // 2})")


def test_no_requests_are_no_verdict_for_ever() -> None:
    judge = Judge(RULES, history=Arm(72_000, 72))
    for t in range(5000):
        verdict = judge.update(Tick(float(t), 1.0, 0.1))
    assert verdict.kind == "undecided"
    assert verdict.evidence == pytest.approx(1.0)
    assert "no data is no verdict" in verdict.reason
    assert verdict.bound is None


def test_healthy_needs_enough_requests_at_each_step() -> None:
    judge = Judge(RULES)
    assert judge.update(Tick(0.0, 1.0, 0.1, Arm(171, 0), Arm(19, 0))).kind == "undecided"
    assert judge.update(Tick(1.0, 1.0, 0.1, Arm(9, 0), Arm(1, 0))).kind == "healthy"
    judge.begin_step()
    verdict = judge.update(Tick(2.0, 1.0, 0.2, Arm(40, 0), Arm(10, 0)))
    assert verdict.kind == "undecided"
    assert "10 of 20 candidate requests that this step needs" in verdict.reason


def test_all_traffic_on_one_cohort_is_no_comparison() -> None:
    for weight, stable, candidate in ((1.0, Arm(), Arm(1000, 1000)), (0.0, Arm(1000, 1000), Arm())):
        verdict = Judge(RULES).update(Tick(0.0, 1.0, weight, stable, candidate))
        assert verdict.kind == "undecided"
        assert verdict.evidence == 1.0


def test_an_outage_of_a_shared_dependency_blames_nobody_and_holds() -> None:
    judge = Judge(RULES, history=Arm(72_000, 72))
    run(judge, 120, stable=0.001, candidate=0.001)
    verdict = run(judge, 60, start=120.0, stable=0.3, candidate=0.3)
    assert verdict.kind == "undecided"
    assert verdict.evidence < 4
    assert verdict.brake
    assert "both cohorts fail" in verdict.reason
    after = run(judge, 400, start=180.0, stable=0.001, candidate=0.001)
    assert after.kind == "healthy"


def test_a_broken_stable_never_blocks_its_fix() -> None:
    verdict = run(Judge(RULES, history=Arm(7200, 7)), 120, stable=0.9, candidate=0.0)
    assert verdict.kind == "healthy"
    assert not verdict.brake


def test_no_error_in_the_hour_before_is_no_division_by_zero() -> None:
    assert run(Judge(RULES, history=Arm(72_000, 0)), 300).kind == "healthy"
    assert run(Judge(RULES, history=Arm(72_000, 0)), 300, candidate=0.05).kind == "harmful"
    assert run(Judge(RULES, history=Arm(0, 0)), 300, candidate=0.05).kind == "harmful"


def test_a_share_that_is_not_what_was_set_is_a_routing_fault_and_suspends_judging() -> None:
    judge = Judge(RULES)
    verdict = run(judge, 100, weight=0.1, share=0.2)
    assert verdict.fault is not None
    assert verdict.kind == "undecided"
    assert verdict.brake
    assert "routing fault" in verdict.reason
    assert run(judge, 100, start=100.0, weight=0.1, share=0.2, candidate=1.0).kind == "undecided"


def test_a_candidate_that_hangs_holds_the_ramp_and_is_taken_back_when_its_requests_time_out() -> None:
    judge = Judge(RULES, history=Arm(72_000, 72))
    for t in range(60):
        verdict = judge.update(Tick(float(t), 1.0, 0.05, Arm(19, 0), Arm(0, 0)))
    assert verdict.kind == "undecided"
    assert verdict.fault is not None
    assert "it may hang" in verdict.fault
    for t in range(60, 70):
        verdict = judge.update(Tick(float(t), 1.0, 0.05, Arm(19, 0), Arm(1, 1)))
    assert verdict.kind == "harmful"


def test_a_candidate_that_gets_too_few_requests_is_not_blamed_for_what_both_cohorts_suffer() -> None:
    judge = Judge(RULES, history=Arm(72_000, 72))
    verdict = run(judge, 100, weight=0.2, share=0.05, stable=0.3, candidate=0.3)
    assert verdict.fault is not None
    for rate in (0.0, 0.5, 0.0):
        verdict = run(judge, 200, start=100.0, weight=0.2, share=0.05, stable=rate, candidate=rate)
        assert verdict.kind == "undecided"


def test_an_exact_share_is_no_routing_fault() -> None:
    verdict = run(Judge(RULES), 2000, weight=0.02, n=500)
    assert verdict.fault is None
    assert verdict.kind == "healthy"


def test_a_slow_start_is_forgiven_and_lasting_slowness_is_not() -> None:
    rng = np.random.default_rng(5)
    history = Arm(20_000, 0, {}, latency(rng, 20_000))

    def feed(judge: Judge, seconds: range, slower: float) -> Verdict:
        for t in seconds:
            stable, candidate = Arm(180, 0, {}, latency(rng, 180)), Arm(20, 0, {}, latency(rng, 20, slower))
            verdict = judge.update(Tick(float(t), 1.0, 0.1, stable, candidate))
            if verdict.kind == "harmful":
                break
        return verdict

    judge = Judge(RULES, history=history)
    assert feed(judge, range(80), 3.0).evidence < 4
    assert feed(judge, range(80, 300), 1.0).kind == "healthy"
    verdict = feed(Judge(RULES, history=history), range(400), 1.3)
    assert verdict.kind == "harmful"
    assert "answers slower than stable's" in verdict.reason


def test_thresholds_are_learnt_from_stable_when_there_is_no_history() -> None:
    rng = np.random.default_rng(6)
    judge = Judge(RULES, kinds=("errors", "latency"))
    for t in range(400):
        stable, candidate = Arm(180, 0, {}, latency(rng, 180)), Arm(20, 0, {}, latency(rng, 20, 1.5))
        verdict = judge.update(Tick(float(t), 1.0, 0.1, stable, candidate))
        if verdict.kind == "harmful":
            break
    assert verdict.kind == "harmful"
    assert t >= 90, "not before the candidate is warm"


def test_one_dead_endpoint_is_named_even_when_it_is_first_seen_now() -> None:
    judge = Judge(RULES, kinds=("errors", "endpoints"))
    for t in range(200):
        stable = Arm(180, 0, {"GET /": (171, 0), "POST /new": (9, 0)})
        candidate = Arm(20, 1, {"GET /": (19, 0), "POST /new": (1, 1)})
        verdict = judge.update(Tick(float(t), 1.0, 0.1, stable, candidate))
        if verdict.kind == "harmful":
            break
    assert verdict.candidate[1] <= 6
    assert "worst endpoint POST /new" in verdict.reason
    assert next(iter(verdict.worst)) == "endpoint POST /new"


def test_an_unbounded_number_of_endpoints_needs_bounded_memory() -> None:
    judge = Judge(RULES, kinds=("errors", "endpoints"))
    for t in range(300):
        names = {f"GET /{t}/{i}": (1, 0) for i in range(10)}
        verdict = judge.update(Tick(float(t), 1.0, 0.5, Arm(10, 0, names), Arm(10, 0, names)))
    assert len(judge.rows.book.rows) == 65
    assert len(verdict.worst) <= 8
    assert judge.evidence <= 1.0


def test_the_bound_on_extra_failures_shrinks_with_the_requests_and_covers_the_truth() -> None:
    few, many = run(Judge(RULES), 10).bound, run(Judge(RULES), 300).bound
    assert few is not None
    assert many is not None
    assert 0.001 < many < 0.005 < few < 0.2
    judge = Judge(JudgeSettings(error_extra=0.05))
    verdict = run(judge, 300, stable=0.01, candidate=0.03)
    assert verdict.bound is not None
    assert 0.02 <= verdict.bound < 0.05
    assert "more failures than stable (95 %)" in judge.promotion_text()


def test_a_promotion_says_what_this_traffic_cannot_show() -> None:
    judge = Judge(RULES, rate_hint=0.2)
    assert "without a comparison" in judge.promotion_text()
    run(judge, 10)
    assert judge.promotion_text().endswith(
        "at your traffic (0.2 requests/s) harm below 1.3 points cannot be seen in an hour"
    )


def test_a_promotion_on_much_traffic_names_the_margin_and_on_hardly_any_says_that_nothing_can_be_seen() -> None:
    busy, idle = Judge(RULES), Judge(RULES, rate_hint=0.001)
    assert "less than 0.1 points is within the margin (judge.errors.extra)" in run(busy, 300).left
    assert "an hour is too short to see any harm" in run(idle, 10).left
    empty = Judge(RULES).update(Tick(0.0, 1.0, 0.5, Arm(10, 0), Arm(0, 0)))
    assert empty.left == "promoted without a comparison: no request of the candidate was judged beside stable's"


def test_ten_thousand_million_requests_are_judged_without_losing_a_digit_that_matters() -> None:
    judge = Judge(RULES, history=Arm(10**10, 10**7))
    verdict = judge.update(Tick(0.0, 1.0, 0.5, Arm(5 * 10**9, 5 * 10**6), Arm(5 * 10**9, 5 * 10**6)))
    assert verdict.kind == "healthy"
    assert verdict.evidence < 1
    verdict = judge.update(Tick(1.0, 1.0, 0.5, Arm(5 * 10**9, 5 * 10**6), Arm(5 * 10**9, 10**8)))
    assert verdict.kind == "harmful"


def test_a_stricter_bound_needs_more_evidence() -> None:
    strict = Judge(JudgeSettings(false_rollbacks=0.0001))
    verdict = run(strict, 100, candidate=0.3)
    assert verdict.needed == pytest.approx(10_000)
    assert verdict.kind == "harmful"
    assert verdict.evidence >= 10_000


def test_a_candidate_without_a_working_stable_is_undecided_with_its_own_counts() -> None:
    verdict = judge_alone(RULES, Arm(10, 10))
    assert verdict.kind == "undecided"
    assert "no stable to compare with" in verdict.reason
    assert verdict.candidate == (10, 10)


def test_what_another_try_answered_counts_against_the_candidate_and_is_said_also_after_a_kill() -> None:
    judge = Judge(RULES, history=Arm(10_000, 0))
    judge.update(Tick(0.0, 1.0, 0.5, stable=Arm(10, 0), candidate=Arm(9, 1, shielded=1)))
    judge = Judge.restore(RULES, json.loads(json.dumps(judge.state())))
    verdict = judge.update(Tick(1.0, 1.0, 0.5, stable=Arm(30, 0), candidate=Arm(30, 30, shielded=2)))
    assert verdict.kind == "harmful"
    assert verdict.candidate == (39, 31)
    assert "3 of the candidate's answered well by another try" in verdict.reason
