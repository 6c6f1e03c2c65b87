"""Latency is not judged while an instance is new: per instance, also for one that replaces another in the middle."""

from __future__ import annotations

import json

from rebake.judge.judge import Judge
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Pairs, Tick, Verdict
from rebake.judge.warm_up import WarmUp

RULES = JudgeSettings()
FAST, SLOW = 95, 130


def arm(**instances: tuple[int, int]) -> Arm:
    """By instance, how many requests and in which latency bucket they were answered."""
    parts = {name: Arm(n, latency=_counts(n, bucket)) for name, (n, bucket) in instances.items()}
    total = [sum(part.latency[i] for part in parts.values()) for i in range(LATENCY_BUCKETS)] if parts else []
    return Arm(sum(part.n for part in parts.values()), latency=total, instances=parts)


def _counts(n: int, bucket: int) -> list[int]:
    return [n if i == bucket else 0 for i in range(LATENCY_BUCKETS)]


def fresh() -> Judge:
    return Judge(RULES, history=arm(s1=(20_000, FAST), s2=(20_000, FAST)))


def run(judge: Judge, begin: int, end: int, candidate: Arm, stable: Arm | None = None) -> Verdict:
    for t in range(begin, end):
        verdict = judge.update(Tick(float(t), 1.0, 0.5, stable or arm(s1=(10, FAST), s2=(10, FAST)), candidate))
        if verdict.kind == "harmful":
            break
    return verdict


def test_an_instance_that_replaces_another_in_the_middle_warms_up_anew() -> None:
    judge = fresh()
    assert run(judge, 0, 200, arm(c1=(10, FAST), c2=(10, FAST))).kind == "healthy"
    verdict = run(judge, 200, 285, arm(c1=(10, FAST), c3=(10, SLOW)))
    assert verdict.kind == "healthy", verdict.reason
    assert run(judge, 285, 400, arm(c1=(10, FAST), c3=(10, FAST))).kind == "healthy"


def test_an_instance_that_stays_slow_after_its_warm_up_is_taken_back() -> None:
    judge = fresh()
    assert run(judge, 0, 200, arm(c1=(10, FAST), c2=(10, FAST))).kind == "healthy"
    verdict = run(judge, 200, 500, arm(c1=(10, FAST), c3=(10, SLOW)))
    assert verdict.kind == "harmful"
    assert "slower than stable's" in verdict.reason


def test_failures_of_a_new_instance_are_judged_at_once() -> None:
    judge = fresh()
    run(judge, 0, 200, arm(c1=(10, FAST), c2=(10, FAST)))
    failing = Arm(10, 10, instances={"c3": Arm(10, 10)})
    assert run(judge, 200, 210, failing).kind == "harmful"


def test_each_instance_of_one_wave_counts_from_its_own_first_request() -> None:
    warm_up = WarmUp()
    ticks = [Tick(float(t), 1.0, 0.1, candidate=arm(c1=(1, FAST))) for t in range(60)]
    ticks += [Tick(float(t), 1.0, 0.1, candidate=arm(c1=(1, FAST), c2=(1, FAST))) for t in range(60, 170)]
    cold = [warm_up.cold(tick, tick.t, tick.t + 1.0) for tick in ticks]
    assert cold == [t < 149 for t in range(170)]


def test_copies_warm_instances_up_before_users_come() -> None:
    warm_up = WarmUp()
    for t in range(95):
        warm_up.cold(Tick(float(t), 1.0, 0.0, pairs=Pairs(1, instances=("c1",))), float(t), t + 1.0)
    assert not warm_up.cold(Tick(95.0, 1.0, 0.1, candidate=arm(c1=(1, FAST))), 95.0, 96.0)


def test_an_instance_of_stable_that_is_replaced_warms_up_too_and_those_found_serving_do_not() -> None:
    warm_up = WarmUp()
    both = arm(s1=(1, FAST), s2=(1, FAST))
    for t in range(95):
        warm_up.cold(Tick(float(t), 1.0, 0.1, both, arm(c1=(1, FAST))), float(t), t + 1.0)
    assert not warm_up.cold(Tick(95.0, 1.0, 0.1, both, arm(c1=(1, FAST))), 95.0, 96.0)
    assert warm_up.cold(Tick(96.0, 1.0, 0.1, arm(s1=(1, FAST), s3=(1, SLOW)), Arm()), 96.0, 97.0)
    assert warm_up.cold(Tick(97.0, 1.0, 0.1, arm(s1=(1, FAST)), arm(c1=(1, FAST))), 97.0, 98.0)


def test_whether_a_tick_is_judged_does_not_depend_on_who_answers_in_it() -> None:
    """Else ticks in which the candidate got nothing would be the ones that are counted."""
    warm_up = WarmUp()
    for t in range(95):
        warm_up.cold(Tick(float(t), 1.0, 0.1, candidate=arm(c1=(1, FAST))), float(t), t + 1.0)
    warm_up.cold(Tick(95.0, 1.0, 0.1, candidate=arm(c2=(1, SLOW))), 95.0, 96.0)
    assert warm_up.cold(Tick(96.0, 1.0, 0.1), 96.0, 97.0)


def test_a_warm_up_that_was_kept_goes_on() -> None:
    warm_up = WarmUp(arm(s1=(1, FAST)))
    warm_up.cold(Tick(0.0, 1.0, 0.1, arm(s2=(1, FAST)), arm(c1=(1, FAST))), 0.0, 1.0)
    again = WarmUp.restore(json.loads(json.dumps(warm_up.state())))
    assert again.state() == warm_up.state()
    assert [w.cold(Tick(89.0, 1.0, 0.1), 89.0, 90.0) for w in (warm_up, again)] == [False, False]
