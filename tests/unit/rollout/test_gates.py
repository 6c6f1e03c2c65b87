"""Windows and freezes: when they hold, across midnight and when clocks are set; and what passes through them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rebake.core.codec import dump
from rebake.ledger.ports import Put
from rebake.rollout.gates import is_open, opens_at
from rebake.rollout.plan import Dates, Strategy, Window
from rebake.rollout.states import State
from rebake.rollout.world import Freeze
from tests.unit.rollout.world import CANARY, KEY, Shop

A, B, C = ("sha256:" + c * 64 for c in "abc")
OFFICE = Window((0, 1, 2, 3), 9 * 60, 16 * 60, "Europe/Berlin")
SHUT = (Window(days=(6,), opens=0, closes=1),)
"""The simulated clock begins on a Friday: two days are left."""


@pytest.fixture
def shop() -> Shop:
    return Shop()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-26 08:00", True),  # Thursday, 9:00 in Berlin
        ("2026-11-26 07:59", False),
        ("2026-11-26 14:59", True),
        ("2026-11-26 15:00", False),
        ("2026-11-27 10:00", False),  # Friday
        ("2026-07-02 07:00", True),  # in summer 9:00 comes an hour earlier
        ("2026-07-02 06:59", False),
    ],
)
def test_a_window_is_one_of_its_own_zone(moment: str, expected: bool) -> None:
    assert is_open((OFFICE,), at(moment)) is expected


def test_over_a_weekend_it_opens_on_monday() -> None:
    assert opens_at((OFFICE,), at("2026-11-26 15:00")) == at("2026-11-30 08:00")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-27 21:59", False),
        ("2026-11-27 22:00", True),  # Friday evening
        ("2026-11-28 01:59", True),  # still Friday's
        ("2026-11-28 02:00", False),
        ("2026-11-28 22:30", False),  # Saturday has none
        ("2026-11-27 01:00", False),  # Thursday had none
    ],
)
def test_a_window_that_crosses_midnight_belongs_to_the_day_on_which_it_opens(moment: str, expected: bool) -> None:
    assert is_open((Window((4,), 22 * 60, 2 * 60),), at(moment)) is expected


def test_an_hour_that_the_clock_skips_is_skipped() -> None:
    """On 2026-03-29 the clock in Berlin goes from 2:00 to 3:00, which is 1:00 in UTC."""
    night = (Window((6,), 2 * 60 + 30, 4 * 60, "Europe/Berlin"),)
    assert opens_at(night, at("2026-03-28 20:00")) == at("2026-03-29 01:00")
    assert not is_open(night, at("2026-03-29 00:59"))
    assert is_open(night, at("2026-03-29 01:59"))
    assert not is_open(night, at("2026-03-29 02:00"))


def test_an_hour_that_the_clock_shows_twice_counts_twice() -> None:
    """On 2026-10-25 the clock in Berlin shows 2:00 to 3:00 at 0:00 and again at 1:00 in UTC."""
    night = (Window((6,), 2 * 60, 2 * 60 + 30, "Europe/Berlin"),)
    assert [is_open(night, at(f"2026-10-25 {t}")) for t in ("00:10", "00:40", "01:10", "01:40")] == [
        True,
        False,
        True,
        False,
    ]
    assert opens_at(night, at("2026-10-25 00:40")) == at("2026-10-25 01:00")


def test_the_next_opening_is_the_first_moment_at_which_it_is_open() -> None:
    windows = (OFFICE, Window((4,), 22 * 60, 2 * 60, "America/New_York"), Window((6,), 90, 170, "Europe/Berlin"))
    began = datetime(2026, 3, 20, 3, 17, tzinfo=UTC)
    for hours in range(0, 24 * 12, 7):
        now = (began + timedelta(hours=hours)).timestamp()
        if not is_open(windows, now):
            minutes = (m for m in range(1, 8 * 1440) if is_open(windows, now // 60 * 60 + m * 60))
            assert opens_at(windows, now) == now // 60 * 60 + next(minutes) * 60


def test_outside_of_its_window_nothing_is_raised_and_people_are_told_until_when(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B, window=SHUT)
    shop.until_state(State.WAITING)
    shop.tick()
    view = shop.engine.rollout_view(KEY, rollout)
    assert view is not None
    assert view["held"]["until"] == "2027-01-17T00:00:00.000Z"
    assert "outside of its window (sun 00:00-00:01 UTC)" in view["reason"]
    assert "rebake approve production" in view["remedy"]
    for _ in range(20):
        shop.tick(5.0)
    assert shop.state is State.WAITING
    assert len(shop.platform.processes) == 2
    shop.clock.at = at("2027-01-17 00:00")
    shop.until_state(State.SOAKING, 50)


def test_a_window_that_closes_between_two_steps_holds_the_next_one_while_the_judge_watches(shop: Shop) -> None:
    shop.serving(A)
    window = (Window(opens=0, closes=8 * 60 + 2),)  # the clock begins at 8:00
    rollout = shop.deploy(B, strategy=CANARY, window=window, undecided_limit_ms=900_000)
    shop.until_state(State.HOLDING)
    shop.clock.at = 1_800_000_000.0 + 125
    shop.until(lambda: shop.where().startswith("holding: outside"))
    for _ in range(60):
        shop.tick(1.0)
    assert shop.weights() == {A: 9500, B: 500}
    shop.platform.behaviour(B).error_rate = 0.5
    assert shop.until_over(rollout)["outcome"] == "rolled-back"


def test_the_judges_own_ramp_stands_still_while_it_is_frozen(shop: Shop) -> None:
    shop.serving(A)
    shop.deploy(B, strategy=Strategy("canary", profile="fast"))
    shop.until_state(State.HOLDING)
    for _ in range(100):
        shop.tick()
    freeze(shop, 600)
    shop.tick()
    before = shop.weights()[B]
    for _ in range(300):
        shop.tick(1.0)
    assert shop.weights()[B] == before
    assert "frozen by ann" in shop.where()
    shop.until(lambda: shop.weights()[B] > before, 700)
    assert shop.weights()[B] < 5000  # it goes on from where it stood, and does not catch up


def freeze(shop: Shop, seconds: float, scope: str = "*") -> None:
    now = shop.clock.now()
    shop.ledger.commit([], [Put("freeze", scope, dump(Freeze(scope, "ann", now, now + seconds, "calm")))], at=now)


@pytest.mark.parametrize("scope", ["*", KEY])
def test_a_freeze_holds_until_it_is_over(shop: Shop, scope: str) -> None:
    shop.serving(A)
    freeze(shop, 100, scope)
    rollout = shop.deploy(B)
    shop.until(lambda: "frozen by ann" in shop.where())
    began = shop.clock.now()
    shop.until_state(State.SOAKING)
    assert shop.clock.now() - began >= 95
    assert shop.engine.rollout_view(KEY, rollout)["held"] is None  # type: ignore[index]


def test_a_freeze_of_another_environment_holds_nothing_here(shop: Shop) -> None:
    freeze(shop, 1000, "shop/staging")
    assert shop.until_over(shop.deploy(A), 60)["outcome"] == "promoted"


def test_dates_in_the_file_freeze_too(shop: Shop) -> None:
    shop.serving(A)
    now = shop.clock.now()
    shop.deploy(B, freeze=(Dates(now - 5, now + 50, "holidays"),))
    shop.until(lambda: "frozen by rebake.yaml" in shop.where() and "holidays" in shop.where())
    shop.until_state(State.SOAKING)
    assert shop.clock.now() >= now + 50


def test_a_person_lets_one_rollout_through_and_the_ledger_says_who(shop: Shop) -> None:
    shop.serving(A)
    freeze(shop, 10_000)
    shop.deploy(B, window=SHUT)
    shop.until(lambda: "frozen" in shop.where())
    shop.command("approve")
    shop.until_state(State.SOAKING, 60)
    told = [note for note in shop.notes("transition") if note.get("event") == "let-through"]
    assert [note["reason"] for note in told] == ["let through by ann"]
    assert any("let through by ann: making" in note["reason"] for note in shop.notes("transition"))


def test_a_freeze_that_comes_after_the_approval_holds_again(shop: Shop) -> None:
    shop.serving(A)
    freeze(shop, 10_000)
    shop.deploy(B, strategy=CANARY)
    shop.until(lambda: "frozen" in shop.where())
    shop.command("approve")
    shop.until_state(State.HOLDING)
    freeze(shop, 10_000)
    shop.until(lambda: shop.where().startswith("holding: frozen"))


@pytest.mark.parametrize("state", [State.WAITING, State.HOLDING])
def test_a_stop_passes_through_a_freeze(shop: Shop, state: State) -> None:
    shop.serving(A)
    if state is State.WAITING:
        freeze(shop, 10_000)
    rollout = shop.deploy(B, strategy=CANARY)
    shop.until_state(state)
    freeze(shop, 10_000)
    shop.tick()
    shop.command("stop")
    assert shop.until_over(rollout, 60)["outcome"] == "stopped"


def test_an_undo_passes_through_a_freeze_and_a_window(shop: Shop) -> None:
    shop.serving(A, window=(Window(),))
    shop.serving(B)
    freeze(shop, 10_000)
    shop.command("undo", rollout_id="r-9001")
    assert shop.until_over("r-9001", 60)["outcome"] == "promoted"
    assert shop.stable_release == A


def test_a_window_does_not_hold_the_fix_of_a_broken_stable_and_says_why(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(A).healthy = False
    shop.until(lambda: shop.environment.stable_lost_at is not None)
    for _ in range(30):
        shop.tick()
    rollout = shop.deploy(B, strategy=CANARY, window=SHUT)
    shop.until(lambda: shop.weights().get(B) == 10_000, 60)
    reasons = [str(n["reason"]) for n in shop.notes("transition") if n.get("event") == "gate-open"]
    assert "a window does not hold its fix" in reasons[-1]
    assert shop.until_over(rollout)["outcome"] == "promoted"


def test_a_freeze_holds_also_the_fix_of_a_broken_stable_until_a_person_lets_it_through(shop: Shop) -> None:
    shop.serving(A)
    shop.platform.behaviour(A).healthy = False
    freeze(shop, 10_000)
    shop.deploy(B)
    for _ in range(100):
        shop.tick()
    assert shop.state is State.WAITING
    shop.command("approve")
    shop.until(lambda: shop.weights().get(B) == 10_000, 60)


def test_a_candidate_that_met_users_takes_over_from_a_broken_stable_although_it_is_frozen(shop: Shop) -> None:
    """A gate holds progress, never a rescue."""
    shop.serving(A)
    shop.deploy(B, strategy=replace(CANARY, hold_ms=1000))
    shop.until_state(State.HOLDING)
    freeze(shop, 10_000)
    shop.until(lambda: "frozen" in shop.where())
    shop.platform.behaviour(A).healthy = False
    shop.until(lambda: shop.weights().get(B) == 10_000, 60)


def test_a_soak_whose_end_moves_no_user_ends_in_a_freeze_and_one_that_would_waits(shop: Shop) -> None:
    shop.serving(A)
    rollout = shop.deploy(B)
    shop.until_state(State.SOAKING)
    freeze(shop, 10_000)
    assert shop.until_over(rollout, 100)["outcome"] == "promoted"
    shop.ledger.commit([], [Put("freeze", "*", None)], at=shop.clock.now())
    shop.until(lambda: not shop.environment.leaving)
    shop.deploy(C, strategy=CANARY, hold_back_basis_points=2000)
    shop.until_state(State.SOAKING)
    freeze(shop, 10_000)
    for _ in range(100):
        shop.tick(1.0)
    assert shop.weights() == {B: 2000, C: 8000}


def test_a_newer_request_in_a_frozen_soak_moves_nobody(shop: Shop) -> None:
    shop.serving(A)
    shop.deploy(B, strategy=CANARY, hold_back_basis_points=2000)
    shop.until_state(State.SOAKING)
    freeze(shop, 300)
    newer = shop.deploy(C)
    for _ in range(100):
        shop.tick()
    assert shop.weights() == {A: 2000, B: 8000}
    assert shop.until_over(newer, 900)["outcome"] == "promoted"
