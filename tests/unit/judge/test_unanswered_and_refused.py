"""Releases that fail without failing: they never answer, or they refuse what was granted before."""

from __future__ import annotations

import numpy as np
import pytest

from rebake.judge.judge import Judge
from rebake.judge.metrics import SHARES
from rebake.judge.samples import Arm, JudgeSettings, Tick, Verdict

KINDS = tuple(SHARES)
USUAL = Arm(36_000, 36, refused=720, unanswered=36, redirected=720)
"""An hour of a service at ten requests a second: 2 % refusals and as many redirects, a caller in a thousand leaves
without an answer."""


def course(judge: Judge, seconds: int, weight: float, seed: int = 1, **candidate: float) -> Verdict:
    """Fifty requests a second; `candidate` names what it does more often than stable."""
    chance = np.random.default_rng(seed)
    for t in range(seconds):
        mine = int(chance.binomial(50, weight))
        arms = []
        for n, more in ((50 - mine, {}), (mine, candidate)):
            lost = int(chance.binomial(n, min(1.0, 0.001 + more.get("unanswered", 0.0))))
            refused = int(chance.binomial(n - lost, min(1.0, 0.02 + more.get("refused", 0.0))))
            sent = int(chance.binomial(n - lost - refused, min(1.0, 0.02 + more.get("redirected", 0.0))))
            arms.append(Arm(n - lost, refused=refused, unanswered=lost, redirected=sent))
        verdict = judge.update(Tick(float(t), 1.0, weight, arms[0], arms[1]))
        if verdict.kind == "harmful":
            break
    return verdict


def fresh() -> Judge:
    return Judge(JudgeSettings(), history=USUAL, kinds=KINDS)


def test_a_release_that_answers_nobody_is_taken_back_after_a_few() -> None:
    verdict = course(fresh(), 60, 0.05, unanswered=1.0)
    assert verdict.kind == "harmful"
    assert "requests without an answer in time" in verdict.reason
    assert verdict.candidate == (0, 0), "not one of them was answered"


def test_a_release_that_finds_nothing_any_more_is_taken_back_after_a_few() -> None:
    verdict = course(fresh(), 60, 0.05, refused=1.0)
    assert verdict.kind == "harmful"
    assert "refusals (4xx)" in verdict.reason
    assert verdict.candidate[0] <= 12


def test_a_rule_that_became_a_little_stricter_is_no_harm() -> None:
    assert course(fresh(), 900, 0.3, refused=0.01).kind != "harmful"


@pytest.mark.parametrize("seed", range(8))
def test_who_refuses_and_leaves_callers_as_stable_does_is_not_blamed(seed: int) -> None:
    assert course(fresh(), 1200, 0.2, seed).kind == "healthy"


def test_what_is_remembered_goes_on_as_if_nothing_had_happened() -> None:
    judge = fresh()
    course(judge, 40, 0.2, unanswered=0.01)
    again = Judge.restore(JudgeSettings(), judge.state())
    tick = Tick(40.0, 1.0, 0.2, Arm(40, refused=1), Arm(9, refused=1, unanswered=1))
    assert again.update(tick) == judge.update(tick)


def test_counts_that_cannot_be_are_clamped() -> None:
    absurd = Arm(5, refused=900, unanswered=-7)
    assert fresh().update(Tick(0.0, 1.0, 0.5, absurd, absurd)).kind == "undecided"


def test_a_release_that_sends_everybody_away_is_taken_back_and_a_few_more_redirects_are_no_harm() -> None:
    verdict = course(fresh(), 60, 0.05, redirected=1.0)
    assert verdict.kind == "harmful"
    assert "redirects (3xx)" in verdict.reason
    assert course(fresh(), 900, 0.2, redirected=0.01).kind != "harmful"
