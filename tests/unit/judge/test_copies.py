"""Copies of users' requests: pairs are judged before the candidate has users, and never count as users' requests."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from rebake.judge import copies
from rebake.judge.eprocess import Floats, advance, capped_pair_bets, log_pair_factors, staked_by
from rebake.judge.judge import Judge
from rebake.judge.metrics import ERROR_BETS
from rebake.judge.replay import Replay
from rebake.judge.samples import Arm, JudgeSettings, Pairs, Tick, Verdict
from rebake.judge.tape import Beginning, play, tick_entry, tick_of

Ints = npt.NDArray[np.int64]
RULES = JudgeSettings()
RUNS, TICKS, EACH = 4000, 240, 20


def judge(share: float = copies.SHARE) -> Judge:
    return Judge(RULES, history=Arm(36_000, 36), copies_share=share)


def mirrored(t: float, pairs: Pairs) -> Tick:
    return Tick(t, 1.0, 0.0, pairs=pairs)


def good(n: int) -> Pairs:
    return Pairs(n, endpoints={"GET /": (n, 0, 0, 0)}, instances=("c1",))


def crashed(n: int) -> Pairs:
    return Pairs(n, failed=(0, n, 0), endpoints={"GET /": (n, 0, n, 0)}, instances=("c1",))


def counted(n: int, both: Ints, ours: Ints, theirs: Ints) -> Floats:
    return np.stack([np.full(len(both), n), both, ours, theirs]).astype(np.float64)[..., None]


def alarms(stable: Floats, candidate: Floats, shared: float, seed: int) -> float:
    """Share of runs in which pairs alone ever reach 100, with the failure rates of each tick.

    Args:
        stable, candidate: rates by tick. shared: how much of stable's failures both halves of a pair share.
    """
    chance = np.random.default_rng(seed)
    bets = np.tile(np.array(ERROR_BETS), (RUNS, 1, 1))
    ratio, extra = np.full((RUNS, 1), RULES.error_ratio), np.full((RUNS, 1), RULES.error_extra)
    bets = capped_pair_bets(bets, extra, ratio)
    wealth, staked, highest = np.zeros_like(bets), 0.0, np.zeros(RUNS)
    for t, (p0, p1) in enumerate(zip(stable, candidate, strict=True)):
        both = chance.binomial(EACH, shared * min(p0, p1), RUNS)
        ours = chance.binomial(EACH - both, (p1 - shared * min(p0, p1)) / (1.0 - shared * min(p0, p1)))
        theirs = np.minimum(
            chance.binomial(EACH - both, (p0 - shared * min(p0, p1)) / (1.0 - shared * min(p0, p1))),
            EACH - both - ours,
        )
        new, staked = staked_by(t + 1.0) - staked, staked_by(t + 1.0)
        factors = log_pair_factors(bets, counted(EACH, both, ours, theirs), extra=extra, ratio=ratio)
        wealth = advance(wealth, new / bets.shape[-1], factors)
        highest = np.maximum(highest, wealth.sum(axis=(1, 2)) + 1.0 - staked)
    return float((highest >= 100.0).mean())


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_candidate_at_the_margin_is_taken_back_on_pairs_in_less_than_one_run_of_a_hundred(shared: float) -> None:
    """As bad as the margins allow, for good and in an outage of 30 points that both have."""
    usual = np.full(TICKS, 0.01)
    outage = usual.copy()
    outage[60:120] = 0.3
    for seed, stable in enumerate((usual, outage, np.zeros(TICKS))):
        at_the_margin = RULES.error_ratio * stable + RULES.error_extra
        # Binomial(4000, 1 %): three standard deviations are 0.5 points.
        assert alarms(stable, at_the_margin, shared, seed) <= 0.015


def test_pairs_beyond_the_margin_are_seen_in_nearly_every_run() -> None:
    assert alarms(np.full(TICKS, 0.01), np.full(TICKS, 0.06), 0.5, 1) >= 0.98


def test_a_crash_is_known_from_a_dozen_copies_and_no_request_of_users_was_needed() -> None:
    j = judge()
    j.update(mirrored(0.0, good(5)))
    verdict = j.update(mirrored(1.0, crashed(16)))
    assert verdict.kind == "harmful"
    assert (verdict.candidate, verdict.stable, verdict.copies) == ((0, 0), (0, 0), (21, 16))
    assert verdict.reason.startswith(
        "16 bad answers of 21 copied requests on the candidate (76 %) against 0 of 21 copied requests on stable (0 %)"
    )
    assert "GET / (16 of 21)" in verdict.reason
    assert "false-alarm bound 1 %" in verdict.reason


@pytest.mark.parametrize(
    ("pairs", "complaint"),
    [
        (Pairs(16, unanswered=(0, 16, 0)), "requests without an answer in time"),
        (Pairs(16, refused=(0, 16, 0)), "refusals (4xx)"),
    ],
)
def test_copies_that_hang_or_are_refused_are_harm_too(pairs: Pairs, complaint: str) -> None:
    j = judge()
    verdicts = [j.update(mirrored(float(t), pairs)) for t in range(3)]
    assert verdicts[-1].kind == "harmful"
    assert complaint in verdicts[-1].reason


def test_what_both_halves_suffer_blames_nobody() -> None:
    j = judge()
    verdict = j.update(mirrored(0.0, good(20)))
    for t in range(1, 60):
        verdict = j.update(mirrored(float(t), Pairs(20, failed=(15, 0, 1), unanswered=(3, 0, 0))))
    assert verdict.kind == "healthy"
    assert verdict.evidence <= 1.0


def test_healthy_needs_as_many_pairs_as_a_step_needs_requests() -> None:
    j = judge()
    assert j.update(mirrored(0.0, Pairs())).reason == "no copied requests on the candidate yet: no data is no verdict"
    few = j.update(mirrored(1.0, good(3)))
    assert (few.kind, few.reason.partition(";")[0]) == ("undecided", "3 of 20 copied requests that this step needs")
    assert j.update(mirrored(2.0, good(20))).kind == "healthy"
    j.begin_step()
    first = j.update(Tick(3.0, 1.0, 0.1, Arm(90, 0), Arm(10, 0)))
    assert first.reason.startswith("10 of 20 candidate requests that this step needs")


def test_a_long_harmless_stage_of_copies_leaves_the_bets_on_users_untouched() -> None:
    """A release that fails what cannot be copied is taken back as soon as without copies, but for a fifth of wealth."""

    def failures_needed(j: Judge, start: float) -> int:
        for n in range(1, 20):
            verdict = j.update(Tick(start + n, 1.0, 0.005, Arm(199, 0), Arm(1, 1)))
            if verdict.kind == "harmful":
                return n
        raise AssertionError("never")

    tried = judge()
    for t in range(300):
        tried.update(mirrored(float(t), good(100)))
    tried.begin_step()
    assert failures_needed(tried, 300.0) <= failures_needed(Judge(RULES, history=Arm(36_000, 36)), 0.0) + 1


def test_copies_where_none_were_announced_are_not_bet_on() -> None:
    """Shares are fixed before the first request."""
    j = Judge(RULES)
    assert [j.update(mirrored(float(t), crashed(50))).evidence for t in range(5)] == [1.0] * 5


def test_a_judge_that_was_killed_among_copies_goes_on_as_if_nothing_had_happened() -> None:
    whole, killed = judge(), judge()
    for t in range(6):
        whole.update(mirrored(float(t), good(4)))
        killed.update(mirrored(float(t), good(4)))
        killed = Judge.restore(RULES, json.loads(json.dumps(killed.state())), copies_share=copies.SHARE)
    last = mirrored(6.0, crashed(9))
    assert whole.update(last) == killed.update(last)


def test_the_tape_of_copies_plays_again_to_the_same_digit() -> None:
    beginning = Beginning(history=Arm(36_000, 36), copies_share=copies.SHARE)
    first = beginning.judge()
    ticks = [mirrored(float(t), good(3) if t % 4 else crashed(2)) for t in range(12)]
    verdicts: list[Verdict] = [first.update(tick) for tick in ticks]
    entries = [json.loads(json.dumps(tick_entry(tick))) for tick in ticks]
    assert [tick_of(entry[1]) for entry in entries] == ticks
    again = Beginning.from_json(json.loads(json.dumps(beginning.to_json()))).judge()
    assert [verdict for _, verdict in play(again, entries)] == verdicts


def test_the_ramp_begins_after_the_copies() -> None:
    replay = Replay(RULES, rate_hint=100.0)
    replay.judge = judge()
    for t in range(100):
        assert replay.feed(mirrored(float(t), good(20))) == ("continue", 0.0)
    assert replay.ramp.weight <= 0.01
    assert replay.feed(mirrored(100.0, crashed(30)))[0] == "rollback"


@pytest.mark.parametrize("absurd", [Pairs(-5, failed=(9, 9, 9)), Pairs(3, failed=(-1, 10**30, 7)), Pairs(10**30)])
def test_absurd_pairs_are_clamped(absurd: Pairs) -> None:
    verdict = judge().update(mirrored(0.0, absurd))
    assert 0.0 <= verdict.evidence < 1e300
