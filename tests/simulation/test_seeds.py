"""Seeded rollouts with every fault: the promises hold in each of them. REBAKE_SEEDS=FIRST+COUNT runs others."""

from __future__ import annotations

import os

import pytest

from rebake.testing.simulation import Happening, Outcome, Scenario, draw, shrink, simulate
from rebake.testing.simulation.__main__ import explain, main
from rebake.testing.simulation.shrink import as_test

CHUNKS = 8
DEFAULT = "100000+400"


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
    assert {"kill-before", "kill-after", "lost", "twice", "failed", "failed-done", "delayed", "pause-after"} <= modes


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


# Histories that failed once, shrunk


def _run(seed: int, steps: int, engines: int, *happenings: Happening) -> Outcome:
    return simulate(Scenario(seed, steps, engines, happenings))


def test_a_commit_that_was_done_and_reported_failed_loses_no_rollout() -> None:
    outcome = _run(4, 1, 1, Happening(0, "deploy", "a"), Happening(0, "fault", "commit", "failed-done", 3))
    assert outcome.violations == []
    assert outcome.endings == {"promoted": 1}


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
