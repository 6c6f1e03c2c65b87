"""When a job is due, on days when clocks are set too."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebake.rollout.plan import Schedule
from rebake.rollout.schedule import following, latest, mistake_in

NIGHTLY = Schedule(cron="30 2 * * *", zone="Europe/Berlin")
HOURLY = Schedule(cron="0 * * * *", zone="Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_every_names_multiples_of_itself() -> None:
    schedule = Schedule(every_ms=900_000)
    assert following(schedule, at("2026-03-01 10:07")) == at("2026-03-01 10:15")
    assert following(schedule, at("2026-03-01 10:15")) == at("2026-03-01 10:30")
    assert latest(schedule, at("2026-03-01 10:15")) == at("2026-03-01 10:15")
    assert latest(schedule, at("2026-03-01 10:14")) == at("2026-03-01 10:00")


def test_a_nightly_job_runs_on_the_night_without_that_hour_and_once_on_the_one_with_two() -> None:
    assert following(NIGHTLY, at("2026-03-28 12:00")) == at("2026-03-29 01:00"), "03:00 by the clock on the wall"
    assert following(NIGHTLY, at("2026-03-29 01:00")) == at("2026-03-30 00:30")
    first = following(NIGHTLY, at("2026-10-24 12:00"))
    assert first == at("2026-10-25 00:30")
    assert following(NIGHTLY, first) == at("2026-10-26 01:30")


def test_an_hourly_job_runs_in_both_of_the_hours_that_a_clock_shows_twice() -> None:
    assert following(HOURLY, at("2026-10-25 00:00")) == at("2026-10-25 01:00")
    assert following(HOURLY, at("2026-03-29 00:00")) == at("2026-03-29 01:00")


@given(
    cron=st.sampled_from(["*/5 * * * *", "0 3 * * *", "30 2 * * *", "0 0 1 * *", "15 8-18 * * mon-fri", "0 0 29 2 *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    moment=st.floats(1.6e9, 2.2e9),
)
def test_the_latest_and_the_following_slot_have_none_between_them(cron: str, zone: str, moment: float) -> None:
    schedule = Schedule(cron=cron, zone=zone)
    before, after = latest(schedule, moment), following(schedule, moment)
    assert before is not None
    assert after is not None
    assert before <= moment < after
    assert following(schedule, before) == after


@pytest.mark.parametrize("cron", ["", "* * * *", "60 * * * *", "* * * * * *", "@daily", "0 0 31 2 *", "a b c d e"])
def test_what_is_no_cron_line_is_told(cron: str) -> None:
    assert mistake_in(cron)
