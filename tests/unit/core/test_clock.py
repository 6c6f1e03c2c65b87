"""The machine's clock: nobody can set it while it is read, and two of them tell by how much it was set in between."""

from __future__ import annotations

import time

import pytest

from rebake.core.clock import Boot, SystemClock, set_between

HOUR = 3600.0


def test_a_clock_that_is_set_does_not_show_in_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    before, boot = clock.now(), clock.boot()
    monkeypatch.setattr(time, "time", lambda: before + HOUR)
    assert 0.0 <= clock.now() - before < 60.0
    assert clock.boot() == boot


def test_the_next_life_goes_by_the_new_time_and_tells_by_how_much_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    first = SystemClock()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - HOUR)
    second = SystemClock()
    assert second.now() - first.now() == pytest.approx(-HOUR, abs=1.0)
    assert set_between(first.boot(), second.boot()) == pytest.approx(-HOUR, abs=1.0)


def test_two_lives_under_one_clock_are_not_taken_for_a_set_clock() -> None:
    assert set_between(SystemClock().boot(), SystemClock().boot()) == 0.0


def test_of_another_boot_or_an_unknown_one_nothing_is_told() -> None:
    known = Boot("a", 100.0)
    assert set_between(known, Boot("b", 100.0 + HOUR)) == 0.0
    assert set_between(None, known) == set_between(known, None) == 0.0
