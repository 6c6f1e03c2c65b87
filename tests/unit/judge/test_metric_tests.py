"""The two tests for metrics of the service's own: what they may not believe, and what they must find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rebake.judge.metric_tests import MOST_WON, NumberTest, ShareTest, Spread, worse_pairs

ALARM = 100.0


def _gauges(
    seed: int, candidates: int, stables: int, memory_seconds: float, harm: float = 1.0
) -> Iterator[tuple[float, dict[str, float], dict[str, float]]]:
    """An hour of readings, one in 10 s: noise of 20 % that is remembered, and what instances differ by (3 %)."""
    chance = np.random.default_rng(seed)
    keep = math.exp(-10.0 / memory_seconds) if memory_seconds else 0.0
    units = candidates + stables
    own, noise, common = chance.normal(0, 0.03, units), chance.normal(0, 1, units), 0.0
    for i in range(360):
        noise = keep * noise + math.sqrt(1 - keep * keep) * chance.normal(0, 1, units)
        common = 0.98 * common + 0.1 * chance.normal()
        values = 100.0 * np.exp(common + own + 0.2 * noise)
        ours = {f"c{j}": harm * v for j, v in enumerate(values[:candidates])}
        yield 10.0 * i, ours, {f"s{j}": v for j, v in enumerate(values[candidates:])}


def _most(seed: int, candidates: int, stables: int, memory_seconds: float) -> float:
    test, most = NumberTest(0.2, 0.0, True, 30.0), 1.0
    for now, ours, theirs in _gauges(seed, candidates, stables, memory_seconds):
        test.update(now, ours, theirs)
        most = max(most, test.wealth.evidence)
    return most


@pytest.mark.parametrize("memory_seconds", [0, 30, 120, 300])
@pytest.mark.parametrize(("candidates", "stables"), [(2, 2), (2, 6)])
def test_gauges_that_wander_alike_raise_no_alarm(candidates: int, stables: int, memory_seconds: float) -> None:
    alarms = sum(_most(seed, candidates, stables, memory_seconds) >= ALARM for seed in range(12))
    assert alarms == 0


def test_without_spans_and_spread_the_same_gauges_would_raise_alarms() -> None:
    """What the spans are for: each reading for itself believes what the one before said."""
    alarms = 0
    for seed in range(12):
        test, most = NumberTest(0.0, 0.0, True, 0.0), 1.0
        for now, ours, theirs in _gauges(seed, 2, 2, 300):
            test.spread = Spread()
            test.update(now, ours, theirs)
            most = max(most, test.wealth.evidence)
        alarms += most >= ALARM
    assert alarms >= 4


def test_a_number_that_doubled_is_found_within_minutes() -> None:
    found = []
    for seed in range(5):
        test = NumberTest(0.2, 0.0, True, 30.0)
        for now, ours, theirs in _gauges(seed, 2, 2, 30, harm=2.0):
            test.update(now, ours, theirs)
            if test.wealth.evidence >= ALARM:
                found.append(now)
                break
    assert len(found) == 5
    assert max(found) <= 900


def test_where_lower_is_worse_a_higher_number_is_no_harm() -> None:
    for harm, expected in ((0.4, True), (2.0, False)):
        test = NumberTest(0.2, 0.0, False, 30.0)
        for now, ours, theirs in _gauges(1, 2, 2, 10, harm):
            test.update(now, ours, theirs)
        assert (test.wealth.evidence >= ALARM) is expected


def test_a_difference_within_the_margin_of_its_own_unit_is_none() -> None:
    """A queue that is empty on stable: no percent of nothing would do."""
    test = NumberTest(0.2, 5.0, True, 10.0)
    for i in range(100):
        test.update(10.0 * i, {"c": 4.0}, {"s": 0.0})
    assert test.wealth.evidence < 1.0


def test_instances_that_differ_for_good_widen_the_margin() -> None:
    test = NumberTest(0.05, 0.0, True, 30.0)
    for i in range(60):
        test.update(10.0 * i, {"c0": 115.0, "c1": 120.0}, {"s0": 80.0, "s1": 120.0, "s2": 100.0})
    assert test.widened > 0.3
    assert test.wealth.evidence < 2.0


def test_equal_numbers_win_and_lose_nothing() -> None:
    assert worse_pairs([1.0, 1.0], [1.0, 1.0], True) == 0.5
    test = NumberTest(0.0, 0.0, True, 10.0)
    for i in range(50):
        test.update(10.0 * i, {"c": 7.0}, {"s": 7.0})
    assert test.wealth.evidence == pytest.approx(1.0)


def _shares(draw: Callable[[int, np.random.Generator], tuple[float, float]], seed: int) -> float:
    """An hour of intervals of 10 s with about 20 and 80 events."""
    chance = np.random.default_rng(seed)
    test, most = ShareTest(1.1, 0.001), 1.0
    for i in range(360):
        p1, p0 = draw(i, chance)
        n1, n0 = chance.poisson(20), chance.poisson(80)
        test.update(10.0 * i, 10.0, (chance.binomial(n1, p1), n1), (chance.binomial(n0, p0), n0))
        most = max(most, test.wealth.evidence)
    return most


def test_shares_that_are_alike_raise_no_alarm_however_they_move() -> None:
    def drifting(i: int, chance: np.random.Generator) -> tuple[float, float]:
        p = 0.02 + 0.3 * (i % 60 > 50)
        return p, p

    assert sum(_shares(drifting, seed) >= ALARM for seed in range(40)) <= 2


def test_an_outage_that_a_scrape_sees_on_the_candidate_first_takes_nothing_back() -> None:
    """The candidate's counters are one interval ahead of stable's, and every ten minutes all fails for a minute."""

    def skewed(i: int, chance: np.random.Generator) -> tuple[float, float]:
        bad = [0.9 if (j % 60) < 6 and j >= 60 else 0.01 for j in (i + 1, i)]
        return bad[0], bad[1]

    assert max(_shares(skewed, seed) for seed in range(10)) < ALARM


def test_one_interval_never_decides() -> None:
    test = ShareTest(1.1, 0.001)
    test.update(10.0, 10.0, (1e6, 1e6), (0.0, 1e6))
    assert test.wealth.evidence <= math.exp(MOST_WON)


def test_a_share_that_fails_outright_is_found_in_six_to_nine_intervals() -> None:
    test, count = ShareTest(1.1, 0.001), 0
    while test.wealth.evidence < ALARM:
        count += 1
        test.update(10.0 * count, 10.0, (20.0, 20.0), (0.0, 80.0))
    assert 4 <= count <= 9


def test_nothing_on_one_side_is_no_comparison() -> None:
    test = ShareTest(1.1, 0.001)
    assert not test.update(10.0, 10.0, (0.0, 0.0), (5.0, 80.0))
    assert not test.update(20.0, 10.0, (20.0, 20.0), (0.0, 0.0))
    assert test.wealth.evidence == pytest.approx(1.0)


@pytest.mark.parametrize("absurd", [float("nan"), float("inf"), -3.0, 1e300])
def test_absurd_counts_are_clamped(absurd: float) -> None:
    test = ShareTest(1.1, 0.001)
    test.update(10.0, 10.0, (absurd, 10.0), (0.0, absurd))
    test.update(20.0, 10.0, (absurd, absurd), (absurd, 10.0))
    assert math.isfinite(test.wealth.evidence)
