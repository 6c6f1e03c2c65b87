"""The ramp: small at first, e-fold in 30 s, held at 10 % and 20 % until enough is known, half and half to bake."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rebake.judge.samples import Verdict
from rebake.traffic.ramp import COURSES, Profile, RampState, advance, begin

FINE = Verdict("healthy", 0.9, 100.0, "")
DOUBT = replace(FINE, kind="undecided", brake=True)


def drive(
    rate: float,
    seconds: int,
    *,
    profile: Profile = "default",
    hint: float | None = None,
    verdict: Verdict = FINE,
    lost: bool = False,
) -> list[tuple[float, bool]]:
    """Weights by second when `rate` requests arrive evenly; with `lost`, none of the candidate's are ever seen."""
    state, points = begin(rate if hint is None else hint)
    seen = total = 0.0
    course = []
    for t in range(seconds):
        weight = points / 10_000
        seen += 0.0 if lost else rate * weight
        total += rate
        state, points, finished = advance(profile, state, t + 1.0, 1.0, seen, total, verdict)
        state = RampState.from_json(json.loads(json.dumps(state.to_json())))
        course.append((points / 10_000, finished))
    return course


@pytest.mark.parametrize(
    ("rate", "points"), [(0.0, 10), (0.2, 1000), (2.0, 1000), (20.0, 250), (200.0, 25), (2000.0, 2), (1e6, 2)]
)
def test_it_starts_with_half_a_request_per_second_or_as_near_as_the_route_can_carry(rate: float, points: int) -> None:
    assert begin(rate)[1] == points


@pytest.mark.parametrize("rate", [0.2, 2.0, 20.0, 200.0, 2000.0])
def test_candidate_requests_grow_at_most_e_fold_in_thirty_seconds_once_they_flow(rate: float) -> None:
    weights = [w for w, _ in drive(rate, 3000)]
    assert weights == sorted(weights)
    for before, after in zip(weights, weights[30:], strict=False):
        assert after <= 2.72 * before + 0.0002
    assert weights[-1] == 0.5


def test_it_leaves_ten_and_twenty_percent_only_when_enough_requests_were_judged() -> None:
    weights = [w for w, _ in drive(2.0, 3000)]
    assert weights[98] == pytest.approx(0.1)
    assert weights[110] > 0.1
    assert weights[700] == pytest.approx(0.2)
    assert 0.2 < weights[860] <= 0.5


def test_a_quiet_service_is_not_held_for_ever() -> None:
    course = drive(0.02, 3000)
    assert course[1190][0] == pytest.approx(0.1)
    assert course[1730][0] == pytest.approx(0.2)
    assert course[1800][0] == pytest.approx(0.5)


def test_without_a_single_candidate_request_it_never_leaves_ten_percent_and_never_finishes() -> None:
    course = drive(20.0, 20_000, lost=True)
    assert max(w for w, _ in course) <= 0.1
    assert not any(finished for _, finished in course)


@pytest.mark.parametrize(("profile", "minutes"), [("fast", 3), ("default", 10), ("careful", 10)])
def test_it_finishes_after_the_bake_of_its_profile(profile: Profile, minutes: int) -> None:
    course = drive(200.0, 5000, profile=profile)
    half = next(i for i, (w, _) in enumerate(course) if w >= 0.5)
    done = next(i for i, (_, finished) in enumerate(course) if finished)
    assert done - half == minutes * 60


def test_careful_stays_at_ten_percent_and_a_hundred_requests_per_second_for_fifty_minutes() -> None:
    for rate in (2.0, 200.0, 10_000.0):
        weights = [w for w, _ in drive(rate, 3100, profile="careful")]
        assert max(weights[:2998]) <= 0.1
        assert max(weights[:2998]) * rate <= 101.0
        assert weights[-1] > 0.1


@pytest.mark.parametrize("verdict", [DOUBT, replace(FINE, fault="routing"), replace(FINE, kind="harmful")])
def test_doubt_freezes_the_weight_and_the_bake(verdict: Verdict) -> None:
    frozen = drive(20.0, 600, verdict=verdict)
    assert {w for w, _ in frozen} == {0.025}
    state = RampState(wished=10.0, weight=0.5, rate=20.0, baked=599.5)
    held, points, finished = advance("default", state, 900.0, 1.0, 1000.0, 20.0, verdict)
    assert (held.baked, points, finished) == (599.5, 5000, False)
    assert advance("default", state, 900.0, 1.0, 1000.0, 20.0, FINE)[2]


def test_an_unknown_rate_is_learnt_from_the_first_requests() -> None:
    weights = [w for w, _ in drive(2.0, 30, hint=0.0)]
    assert weights[-1] == pytest.approx(0.1)
    assert [w for w, _ in drive(2000.0, 20, hint=0.0)][-1] < 0.002


def test_a_rate_that_was_told_wrong_is_corrected() -> None:
    weights = [w for w, _ in drive(2.0, 900, hint=2000.0)]
    assert weights[0] < 0.001
    assert weights[-1] >= 0.1


def test_every_profile_bakes() -> None:
    assert all(course.bake_seconds > 0 for course in COURSES.values())
