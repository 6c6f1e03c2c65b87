"""The judge's promise: whatever traffic does, a release within the margins is blamed with probability 1 % at most."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rebake.judge.eprocess import Counts, capped_bets, log_factors, odds, staked_by
from rebake.judge.judge import Judge
from rebake.judge.metrics import BODY_BETS, ERROR_BETS, TAIL_BETS, newcomer_share
from rebake.judge.routing import log_ratios
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Tick

shares = st.floats(0.0, 1.0)
weights = st.floats(0.0001, 0.9999)
counts = st.integers(0, 10**6)


def factor(weight: float, center: float, ratio: float, extra: float, bets: tuple[float, ...], **one: float) -> Any:
    """What one request multiplies the wealth by, for each bet."""
    arrays = {"center": np.array([center]), "ratio": np.array([ratio]), "extra": np.array([extra])}
    odd = odds(weight)
    capped = capped_bets(np.array([bets]), odd=odd, **arrays)
    names = ("candidate_n", "candidate_hits", "stable_n", "stable_hits", "candidate_partial", "partial")
    table = Counts(**{n: np.array([one.get(n, 0.0)]) for n in names})
    return np.exp(log_factors(capped, table, odd=odd, **arrays))[0]


@given(
    stable=shares,
    weight=weights,
    center=shares,
    ratio=st.floats(1.0, 3.0),
    extra=st.floats(0.0, 0.5),
    worse=st.floats(0.0, 1.0),
    bets=st.sampled_from([ERROR_BETS, BODY_BETS, TAIL_BETS]),
)
def test_one_request_gains_nothing_on_average_when_the_candidate_is_within_the_margin(
    stable: float, weight: float, center: float, ratio: float, extra: float, worse: float, bets: tuple[float, ...]
) -> None:
    candidate = min(1.0, ratio * stable + extra) * worse
    common = (weight, center, ratio, extra, bets)
    mean = weight * (
        candidate * factor(*common, candidate_n=1, candidate_hits=1) + (1 - candidate) * factor(*common, candidate_n=1)
    ) + (1 - weight) * (
        stable * factor(*common, stable_n=1, stable_hits=1) + (1 - stable) * factor(*common, stable_n=1)
    )
    assert (mean <= 1 + 1e-9).all()
    assert (mean >= 0).all()


@given(weight=weights, center=shares, partial=shares, above=shares, cut=shares)
def test_a_latency_that_falls_into_the_cut_bucket_gains_nothing_on_average(
    weight: float, center: float, partial: float, above: float, cut: float
) -> None:
    cut = min(cut, 1 - above)
    stable = min(1.0, above + partial * cut)
    common = (weight, center, 1.0, 0.0005, TAIL_BETS)
    mean = weight * (
        above * factor(*common, candidate_n=1, candidate_hits=1)
        + cut * factor(*common, candidate_n=1, candidate_partial=1, partial=partial)
        + (1 - above - cut) * factor(*common, candidate_n=1)
    ) + (1 - weight) * (
        stable * factor(*common, stable_n=1, stable_hits=1) + (1 - stable) * factor(*common, stable_n=1)
    )
    assert (mean <= 1 + 1e-9).all()


@given(
    a=st.tuples(counts, counts, counts, counts), b=st.tuples(counts, counts, counts, counts), weight=weights, c=shares
)
def test_counts_of_a_tick_weigh_the_same_as_its_requests_one_by_one(
    a: tuple[int, ...], b: tuple[int, ...], weight: float, c: float
) -> None:
    center, ratio, extra = np.array([c]), np.array([1.1]), np.array([0.001])
    bets = capped_bets(np.array([ERROR_BETS]), center, extra, ratio, odds(weight))

    def log(n1: int, k1: int, n0: int, k0: int) -> Any:
        table = Counts(*(np.array([float(x)]) for x in (n1 + k1, k1, n0 + k0, k0)))
        return log_factors(bets, table, center=center, extra=extra, ratio=ratio, odd=odds(weight))

    both = log(*(x + y for x, y in zip(a, b, strict=True)))
    np.testing.assert_allclose(both, log(*a) + log(*b), rtol=1e-9, atol=1e-6)


@given(stable=shares, weight=weights, real=shares, bets=st.sampled_from([ERROR_BETS, BODY_BETS, TAIL_BETS]))
def test_bets_centred_on_zero_gain_nothing_however_few_requests_the_candidate_really_gets(
    stable: float, weight: float, real: float, bets: tuple[float, ...]
) -> None:
    real, candidate, common = weight * real, min(1.0, 1.1 * stable + 0.001), (weight, 0.0, 1.1, 0.001, bets)
    mine = candidate * factor(*common, candidate_n=1, candidate_hits=1) + (1 - candidate) * factor(
        *common, candidate_n=1
    )
    theirs = stable * factor(*common, stable_n=1, stable_hits=1) + (1 - stable) * factor(*common, stable_n=1)
    assert (real * mine + (1 - real) * theirs <= 1 + 1e-9).all()


@given(weight=weights, share=st.floats(0.95, 1.05))
def test_a_tolerably_wrong_share_gives_no_evidence_of_a_routing_fault(weight: float, share: float) -> None:
    high = min(weight * 1.05, (1 + weight) / 2)
    real = min(weight * share, high)
    mean = real * np.exp(log_ratios(weight, 1, 0)) + (1 - real) * np.exp(log_ratios(weight, 0, 1))
    assert (mean <= 1 + 1e-9).all()


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=2))
def test_wealth_put_at_stake_grows_and_never_exceeds_all_there_is(clocks: list[float]) -> None:
    first, then = sorted(clocks)
    assert 0.5 <= staked_by(first) <= staked_by(then) <= 1.0


def test_newcomers_share_exactly_the_reserve() -> None:
    assert math.isclose(sum(newcomer_share(i) for i in range(1000)), 1.0)


def spread(rng: np.random.Generator, n: int, rate: float) -> Arm:
    """Requests of one cohort over two endpoints, with their latencies."""
    first = int(rng.binomial(n, 0.7))
    errors = (int(rng.binomial(first, rate)), int(rng.binomial(n - first, rate)))
    times = np.clip(np.log(rng.lognormal(math.log(100), 0.6, n - sum(errors))) / math.log(1.05), 0, 225)
    latency = np.bincount(np.ceil(times).astype(int), minlength=LATENCY_BUCKETS)
    return Arm(n, sum(errors), {"GET /a": (first, errors[0]), "GET /b": (n - first, errors[1])}, latency.tolist())


def test_the_mean_evidence_against_a_harmless_release_is_at_most_one() -> None:
    """Monte Carlo over a world that misleads: error rates jump for both cohorts, and the weight follows them."""
    rng = np.random.default_rng(7)
    history = spread(rng, 4000, 0.002)
    ends, peaks = [], []
    for _ in range(150):
        judge = Judge(JudgeSettings(error_ratio=1.0, error_extra=0.0), history=history)
        peak, weight = 1.0, 0.05
        for t in range(45):
            rate = 0.3 if 20 <= t < 30 else 0.002
            n = int(rng.binomial(40, weight))
            tick = Tick(100.0 + t, 1.0, weight, spread(rng, 40 - n, rate), spread(rng, n, rate))
            verdict = judge.update(tick)
            peak = max(peak, verdict.evidence)
            weight = 0.5 if tick.stable.errors > tick.candidate.errors else 0.05
        ends.append(min(verdict.evidence, 100.0))
        peaks.append(peak)
    assert np.mean(ends) <= 1.0 + 4 * np.std(ends) / math.sqrt(len(ends))
    for level in (5.0, 20.0):
        ville = 1.0 / level
        assert np.mean(np.array(peaks) >= level) <= ville + 4 * math.sqrt(ville * (1 - ville) / len(peaks))
    assert max(peaks) > 1.2, "the evidence must move at all, or this test shows nothing"


wild = st.one_of(st.integers(-5, 50), st.sampled_from([0, 1, 10**10, 10**18, -(10**12)]))
arms = st.builds(
    Arm,
    n=wild,
    errors=wild,
    endpoints=st.dictionaries(st.sampled_from(["GET /", "POST /x", ""]), st.tuples(wild, wild), max_size=3),
    latency=st.lists(wild, max_size=LATENCY_BUCKETS + 20),
)
ticks = st.builds(
    Tick,
    t=st.one_of(st.floats(-10, 1e7), st.just(math.nan), st.just(math.inf)),
    dt=st.one_of(st.floats(-1, 1e6), st.just(math.nan)),
    weight=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, -1.0, 2.0, math.nan, 1e-300, 1 - 1e-16])),
    stable=arms,
    candidate=arms,
)


@settings(max_examples=150, deadline=None)
@given(stream=st.lists(ticks, max_size=8), history=st.one_of(st.none(), arms))
def test_absurd_ticks_never_raise_and_never_make_evidence_out_of_nothing(
    stream: list[Tick], history: Arm | None
) -> None:
    judge = Judge(JudgeSettings(), history=history, kinds=("errors", "endpoints", "latency"))
    for tick in stream:
        verdict = judge.update(tick)
        assert verdict.kind in ("healthy", "harmful", "undecided")
        assert verdict.evidence >= 0
        assert math.isfinite(verdict.evidence)
        json.dumps(verdict.to_json(), allow_nan=False)
        if tick.weight in (0.0, 1.0) and verdict.kind != "harmful":
            assert verdict.kind == "undecided"


@settings(max_examples=60, deadline=None)
@given(stream=st.lists(ticks, min_size=1, max_size=6), cut=st.integers(0, 5), history=st.one_of(st.none(), arms))
def test_a_judge_restored_from_its_state_goes_on_as_if_nothing_had_happened(
    stream: list[Tick], cut: int, history: Arm | None
) -> None:
    whole = Judge(JudgeSettings(), history=history, kinds=("errors", "endpoints", "latency"))
    for tick in stream[:cut]:
        whole.update(tick)
    restored = Judge.restore(JudgeSettings(), json.loads(json.dumps(whole.state(), allow_nan=False)))
    for tick in stream[cut:]:
        assert restored.update(tick) == whole.update(tick)
    assert restored.state() == whole.state()
