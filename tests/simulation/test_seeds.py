"""Seeded rollouts with every fault: the promises hold in each of them. REBAKE_SEEDS=FIRST+COUNT runs others."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from rebake.rollout import events
from rebake.testing.simulation import Happening, Outcome, Scenario, draw, shrink, simulate
from rebake.testing.simulation.__main__ import explain, main
from rebake.testing.simulation.scenario import COMMITS, LOOKS, MODES, STORE
from rebake.testing.simulation.shrink import as_test

CHUNKS = 8
DEFAULT = "200000+200"


def _chunk(number: int) -> list[int]:
    first, _, count = os.environ.get("REBAKE_SEEDS", DEFAULT).partition("+")
    return list(range(int(first) + number, int(first) + int(count), CHUNKS))


@pytest.mark.parametrize("number", range(CHUNKS))
def test_every_promise_holds_in_every_seed(number: int) -> None:
    for seed in _chunk(number):
        if simulate(draw(seed)).violations:
            pytest.fail(explain(seed), pytrace=False)


def test_a_seed_gives_the_same_run_every_time() -> None:
    for seed in (7, 35, 251):
        first, second = simulate(draw(seed)), simulate(draw(seed))
        assert (first.ticks, first.endings, first.rollouts) == (second.ticks, second.endings, second.rollouts)


def test_runs_reach_every_ending_and_every_kind_of_trouble() -> None:
    outcomes = [simulate(draw(seed)) for seed in range(1, 61)]
    endings = {ending for outcome in outcomes for ending in outcome.endings}
    assert {"promoted", "rolled-back", "stopped", "failed", "refused"} <= endings
    modes = {h.mode for outcome in outcomes for h in outcome.scenario.happenings if h.what == "fault"}
    assert modes == {*MODES, *LOOKS, *COMMITS, *STORE}
    troubles = {h.mode if h.what == "aim" else h.what for outcome in outcomes for h in outcome.scenario.happenings}
    assert troubles >= {"die", "die-all", "hang", "lie", "rot", "sour", "quota", "clock", "edge-restart", "stranger"}
    assert troubles >= {"reroute", "pardon", "quiet", "drift", "reboot"}


def test_a_failing_history_shrinks_to_what_it_needs() -> None:
    def fails(scenario: Scenario) -> bool:
        return {"die", "undo"} <= {h.what for h in scenario.happenings}

    happenings = tuple(Happening(n, what) for n, what in enumerate(("deploy", "die", "stop", "undo", "down", "hang")))
    small = shrink(Scenario(1, 50, 2, happenings), fails)
    assert [h.what for h in small.happenings] == ["die", "undo"]
    assert small.engines == 1
    text = as_test(small, "5: lost")
    compile(text, "pasted", "exec")
    assert "Happening(step=1, what='die'" in text


def test_the_command_tells_how_many_rollouts_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1+3"]) == 0
    said = capsys.readouterr().out
    assert "3 seeds" in said
    assert "0 seeds failed" in said


def test_the_command_goes_on_until_so_many_rollouts_have_ended(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--rollouts", "30", "--workers", "2"]) == 0
    found = re.search(r"(\d+) seeds, (\d+) rollouts ended", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 1
    assert 30 <= int(found[2]) < 60


def test_a_failing_seed_prints_its_shortest_history_and_a_test_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "served", lambda *_: True)
    assert main(["--seeds", "1+8"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^FAILED seed \d+: promise 5", said, re.MULTILINE)
    text = said[said.index("def test_seed_") : said.index("FAILED seed")]
    named: dict[str, Any] = {"Scenario": Scenario, "Happening": Happening, "simulate": simulate}
    exec(text, named)
    ready = next(value for name, value in named.items() if name.startswith("test_seed_"))
    with pytest.raises(AssertionError):
        ready()
    monkeypatch.undo()
    ready()


# Histories that failed once, shrunk. What a seed's plans and pace are is drawn by `scenario`: after a change there a
# history may be another one, and harmless.


def _run(seed: int, steps: int, engines: int, *happenings: Happening) -> Outcome:
    return simulate(Scenario(seed, steps, engines, happenings))


def test_a_commit_that_was_done_and_reported_failed_loses_no_rollout() -> None:
    outcome = _run(4, 1, 1, Happening(0, "deploy", "a"), Happening(0, "fault", "commit", "failed-done", 3))
    assert outcome.violations == []
    assert outcome.endings == {"promoted": 3}  # and the two that prove the healed engine


def test_a_look_that_misses_the_instances_does_not_empty_the_route() -> None:
    partial = Happening(14, "fault", "observe", "partial", 3)
    assert _run(12, 15, 1, Happening(0, "deploy", "a"), partial).violations == []


def test_an_instance_too_many_is_not_retired_while_the_balancer_has_it() -> None:
    trouble = (
        Happening(0, "deploy", "a"),
        Happening(14, "fault", "commit", "failed-done", 1),
        Happening(15, "resize", "b", "", 7),
        Happening(15, "fault", "commit", "full", 3),
    )
    assert _run(147, 21, 1, *trouble).violations == []


def test_an_engine_takes_over_what_its_dead_peer_began() -> None:
    assert _run(771, 78, 2, Happening(76, "deploy", "c", "", 48)).violations == []


def test_a_route_that_arrives_after_its_fleets_left_is_removed() -> None:
    late = (
        Happening(15, "deploy", "e", "", 86),
        Happening(29, "deploy", "a", "", 16),
        Happening(31, "fault", "apply", "delayed", 4),
        Happening(32, "deploy", "e", "", 92),
    )
    assert _run(359, 33, 1, *late).violations == []


def test_a_revision_taken_back_is_not_begun_again_in_the_same_look() -> None:
    same = (
        Happening(11, "deploy", "b", "", 59),
        Happening(73, "deploy", "b", "", 79),
        Happening(75, "deploy", "b", "", 31),
    )
    assert _run(393, 76, 1, *same).violations == []


def test_a_clock_set_back_an_hour_delays_nothing_by_an_hour() -> None:
    back = Happening(68, "clock", "candidate", "", -3600)
    assert _run(912, 69, 1, Happening(48, "deploy", "a", "", 80), Happening(65, "deploy", "f", "", 5), back).ticks < 300


def test_a_silent_balancer_is_not_taken_for_one_without_requests_in_flight() -> None:
    silent = (
        Happening(0, "deploy", "a", "", 0),
        Happening(14, "fault", "commit", "pause-after", 3),
        Happening(23, "fault", "commit", "failed-done", 2),
        Happening(26, "fault", "apply", "delayed", 2),
        Happening(35, "undo", "f", "", 11),
        Happening(47, "fault", "commit", "full", 3),
        Happening(52, "down", "d", "", 23),
        Happening(61, "fault", "read", "failed", 2),
    )
    assert _run(2270, 62, 1, *silent).violations == []


def test_an_instance_seen_starting_late_has_its_whole_start_time() -> None:
    """A look that is a while old, by a clock that is ahead of the platform's."""
    ahead = (
        Happening(19, "undo", "a", "", 73),
        Happening(23, "clock", "stable", "", 32),
        Happening(23, "deploy", "a", "", 4),
        Happening(27, "fault", "commit", "pause-after", 2),
        Happening(36, "drift", "stable", "", 27),
        Happening(39, "fault", "observe", "stale", 2),
        Happening(45, "fault", "observe", "stale", 6),
    )
    assert _run(3104, 46, 2, *ahead).violations == []


def test_a_route_that_was_decided_long_ago_is_not_written() -> None:
    """4: r-001-3 of stable was taken out of the route, healthy and wanted"""
    scenario = Scenario(
        seed=2382,
        steps=95,
        engines=1,
        happenings=(
            Happening(0, "deploy", "a"),
            Happening(28, "fault", "retire", "twice", 2),
            Happening(29, "resize", "e", value=79),
            Happening(59, "fault", "retire", "failed-done", 5),
            Happening(60, "deploy", "f", value=10),
            Happening(67, "fault", "retire", "pause-before", 1),
            Happening(74, "fault", "launch", "kill-during", 4),
            Happening(83, "deploy", "d", value=11),
            Happening(86, "reboot", mode="back", value=2),
        ),
    )
    assert simulate(scenario).violations == []


def test_a_balancer_that_tells_half_of_what_it_knows_ends_no_instance() -> None:
    """5: r-002-1 was retired while users were sent to it"""
    scenario = Scenario(
        seed=22736,
        steps=39,
        engines=1,
        happenings=(
            Happening(0, "deploy", "a"),
            Happening(3, "fault", "launch", "pause-after", 3),
            Happening(21, "fault", "launch", "failed-late", 2),
            Happening(22, "deploy", "f", value=15),
            Happening(33, "drift", "candidate", value=6),
            Happening(37, "fault", "commit", "pause-before", 1),
            Happening(37, "fault", "apply", "delayed", 4),
            Happening(38, "fault", "read", "partial", 1),
        ),
    )
    assert simulate(scenario).violations == []


def test_a_route_is_decided_anew_where_the_store_took_long() -> None:
    """4: r-003-3 of stable was taken out of the route, healthy and wanted"""
    scenario = Scenario(
        seed=7001112,
        steps=57,
        engines=1,
        happenings=(
            Happening(10, "deploy", "a", value=70),
            Happening(12, "undo", "d", value=65),
            Happening(12, "deploy", "d", value=18),
            Happening(52, "fault", "retire", "failed", 3),
            Happening(54, "reboot", "forgotten", value=1),
            Happening(56, "fault", "commit", "pause-after", 1),
        ),
    )
    assert simulate(scenario).violations == []
