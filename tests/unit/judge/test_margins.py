from __future__ import annotations

import numpy as np
import pytest

from rebake.judge.judge import Judge
from rebake.judge.margins import error_spread, latency_spread, widened
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings

RULES = JudgeSettings()


def fleet(count: int, n: int, *, rate: float = 0.01, spread: float = 0.0, latency_sd: float = 0.0) -> dict[str, Arm]:
    """Instances that differ in failure rate by `spread` (relative) and in latency by `latency_sd` (logarithm)."""
    rng = np.random.default_rng(4)
    arms = {}
    for i in range(count):
        errors = int(rng.binomial(n, rate * max(0.0, 1 + spread * rng.normal())))
        times = np.log(rng.lognormal(np.log(100) + latency_sd * rng.normal(), 0.6, n)) / np.log(1.05)
        buckets = np.bincount(np.ceil(times).astype(int), minlength=LATENCY_BUCKETS)
        arms[f"i{i}"] = Arm(n, errors, {}, [int(x) for x in buckets])
    return arms


def test_equal_instances_have_no_spread_and_raise_no_margin() -> None:
    arms = list(fleet(20, 50_000).values())
    assert error_spread(arms) < 0.03
    assert latency_spread(arms) < 0.006
    assert widened(RULES, Arm(instances=fleet(20, 50_000))).error_ratio == pytest.approx(1.1)


def test_the_spread_of_unequal_instances_is_found() -> None:
    arms = list(fleet(40, 50_000, spread=0.3, latency_sd=0.1).values())
    assert error_spread(arms) == pytest.approx(0.3, rel=0.3)
    assert latency_spread(arms) == pytest.approx(0.1, rel=0.3)


def test_unequal_instances_raise_the_margins_by_three_standard_errors_of_the_arms() -> None:
    arms = fleet(8, 50_000, spread=0.3, latency_sd=0.1)
    wide = widened(RULES, Arm(instances=arms), candidate_instances=2)
    error = 3 * error_spread(list(arms.values())) * (1 / 2 + 1 / 8) ** 0.5
    assert wide.error_ratio == pytest.approx(1 + error)
    assert all(wide.latency[q] > RULES.latency[q] for q in ("p50", "p90"))
    assert wide.error_extra == RULES.error_extra


def test_too_few_or_silent_instances_say_nothing() -> None:
    assert widened(RULES, None) is RULES
    assert widened(RULES, Arm(instances=fleet(2, 1000, spread=1.0))) is RULES
    silent = {str(i): Arm() for i in range(5)}
    assert widened(RULES, Arm(instances=silent)) == RULES


def test_a_restored_judge_keeps_the_raised_margins() -> None:
    arms = fleet(8, 50_000, spread=0.3, latency_sd=0.1)
    history = Arm(400_000, 4000, {}, [0] * 90 + [1000], arms)
    judge = Judge(RULES, history=history, candidate_instances=2)
    assert judge.settings.error_ratio > 1.3
    assert Judge.restore(RULES, judge.state()).settings == judge.settings
