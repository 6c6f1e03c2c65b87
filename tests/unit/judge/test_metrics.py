from __future__ import annotations

import numpy as np
import pytest

from rebake.judge.metrics import (
    bucket_counts,
    kind_shares,
    kinds_of,
    plain_counts,
    quantile_bucket,
    slow_candidate,
    threshold,
)
from rebake.judge.samples import LATENCY_BUCKETS, Arm


def test_a_growth_of_whole_buckets_cuts_no_bucket() -> None:
    limit = threshold("p90", 100, 1.05**2 - 1)
    assert (limit.bucket, limit.shifted) == (100, 103)
    assert limit.partial == pytest.approx(1.0)
    counts = [0.0] * LATENCY_BUCKETS
    counts[102] = 5
    hits, cut = slow_candidate(counts, limit)
    assert hits + limit.partial * cut == pytest.approx(5), "all of bucket 102 lies above stable's limit plus 2 buckets"
    counts[101:103] = [5, 0]
    hits, cut = slow_candidate(counts, limit)
    assert hits + cut == 0


def test_a_growth_of_seven_percent_cuts_the_second_bucket() -> None:
    limit = threshold("p50", 100, 0.07)
    assert limit.shifted == 102
    assert limit.partial == pytest.approx(1 - (np.log(1.07) / np.log(1.05) - 1))


def test_answers_slower_by_the_allowed_growth_count_about_as_often_as_stables() -> None:
    rng = np.random.default_rng(1)
    times = rng.lognormal(np.log(100), 0.6, 400_000)

    def buckets(values: np.ndarray) -> list[int]:
        counts = np.bincount(np.ceil(np.log(values) / np.log(1.05)).astype(int), minlength=LATENCY_BUCKETS)
        return [int(count) for count in counts]

    limit = threshold("p90", quantile_bucket(buckets(times), 0.9), 0.1)
    hits, cut = slow_candidate(buckets(times * 1.1), limit)
    stable = sum(buckets(times)[limit.bucket :])
    assert (hits + limit.partial * cut) / len(times) == pytest.approx(stable / len(times), abs=0.0005)


def test_quantiles_are_placed_on_the_nearest_bucket_edge() -> None:
    counts = [0] * LATENCY_BUCKETS
    counts[50], counts[60], counts[90] = 50, 49, 1
    assert quantile_bucket(counts, 0.5) == 51
    assert quantile_bucket(counts, 0.99) == 61
    assert quantile_bucket([0] * 225 + [1], 0.99) == 225


def test_missing_and_surplus_buckets_are_put_right() -> None:
    assert bucket_counts([]).sum() == 0
    assert bucket_counts([1] * 300).sum() == 300
    assert bucket_counts([1] * 300)[-1] == 75
    assert bucket_counts([-5, 2]).tolist()[:2] == [0, 2]


def test_a_tick_may_say_fewer_buckets_than_a_limit_asks_for() -> None:
    limit = threshold("p99", 3, 0.0)
    assert slow_candidate(plain_counts([1, 2]), limit) == (0.0, 0.0)
    assert slow_candidate(plain_counts([0, 0, 0, 4, 5]), limit) == (5.0, 4.0)


def test_metrics_that_the_samples_do_not_carry_give_their_weight_to_the_others() -> None:
    assert kinds_of(None) == ("errors",)
    assert kind_shares(("errors",)) == {"errors": 1.0}
    whole = Arm(10, 0, {"GET /": (10, 0)}, [10])
    assert kind_shares(kinds_of(whole)) == pytest.approx({"errors": 0.5, "endpoints": 0.2, "latency": 0.3})
