"""When an Envoy that ended is started again: the pure part. Real ones: tests/conformance/test_router_envoy_process."""

from __future__ import annotations

from itertools import accumulate, repeat

from rebake.traffic.envoy.keeper import failures_after, pause_seconds


def pauses(*lives: float) -> list[float]:
    """The pause after each of these lives, in seconds."""
    return [pause_seconds(failures) for failures in accumulate(lives, failures_after, initial=0)][1:]


def test_one_that_is_killed_now_and_then_is_started_again_at_once_each_time() -> None:
    assert pauses(300.0, 1.3, 2.0, 1.1, 1.0, 4.9) == [0.0] * 6


def test_one_that_cannot_stay_up_is_started_again_after_a_growing_pause_that_stays_far_below_half_a_second() -> None:
    found = pauses(*repeat(0.01, 1000))
    assert found[:2] == [0.1, 0.2]
    assert found == sorted(found)
    assert max(found) <= 0.25


def test_one_that_stays_up_again_makes_up_for_those_before_it() -> None:
    assert pauses(0.1, 0.1, 0.1, 7.0, 0.1) == [0.1, 0.2, 0.25, 0.0, 0.1]
