"""The live picture, the lines elsewhere, and the overview: what a person gets to see of each view."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from tests.cli.fake import environment_view, promoted, rolled_back, rollout_view

from rebake.cli import overview
from rebake.cli.follow import Lines, follow
from rebake.cli.live import bar, picture
from rebake.cli.story import ending, evidence_lines, progress_line, result
from rebake.cli.words import environment_details, evidence_line, history_rows, table


def drawn(view: dict[str, Any], phases: list[tuple[str, float]]) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    console.print(picture(view, phases, 12.3))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_picture_holds_phases_weights_cohorts_checks_and_time() -> None:
    text = drawn(rollout_view(), [("raising", 1.1), ("checking", 2.0)])
    assert "guestbook/production  revision b2b2b2b2b2b2  12.3 s" in text
    assert "✓ raising  1.1 s" in text
    assert "shifting, step 1 of 4: the candidate serves 5 % of the users" in text
    assert "950 requests  1 error" in text
    assert "✓ smoke" in text
    assert "━" in text


def test_the_picture_of_a_failing_candidate_shows_its_log_and_the_evidence() -> None:
    failing = rolled_back() | {"checks": [{"name": "smoke", "state": "failed", "evidence": ["500"]}]}
    text = drawn(failing, [])
    assert "KeyError: 'author'" in text
    assert "✗ smoke" in text
    assert "harmful: evidence 134 of 100 needed" in text


def test_the_picture_of_a_first_deploy_has_no_stable() -> None:
    nothing = rollout_view(route={}, instances={}, requests={}, checks=[], verdict=None, evidence=[])
    assert "stable" in drawn(nothing, [])


@pytest.mark.parametrize(("stable", "candidate"), [(1.0, 0.0), (0.999, 0.001), (0.5, 0.5), (0.0, 1.0), (0.0, 0.0)])
def test_the_bar_is_always_whole(stable: float, candidate: float) -> None:
    text = bar(stable, candidate, 20).plain
    assert len(text) == 20
    assert ("━" in text) == (stable + candidate > 0)


def test_a_candidate_with_almost_nothing_is_still_seen() -> None:
    spans = bar(0.999, 0.001, 20).spans
    assert any("yellow" in str(span.style) and span.end > span.start for span in spans)


def judged(evidence: list[list[float]], **verdict: Any) -> dict[str, Any]:
    said = {"verdict": "undecided", "evidence": evidence[-1][1], "needed": 100.0, "reason": "in doubt: 1 of 9"}
    return rollout_view(verdict={**said, **verdict}, evidence=evidence)


def test_evidence_beyond_what_is_needed_stays_in_its_line() -> None:
    found = evidence_line(judged([[0, 0.01], [1, 1e9]]), width=40)
    assert found is not None
    assert found[1] == "undecided: evidence over a million of 100 needed"
    long = evidence_line(judged([[t, 1.0] for t in range(1000)]), width=40)
    assert long is not None
    assert len(long[0]) == 40
    assert evidence_line(rollout_view(evidence=[])) is None


def test_status_shows_the_evidence_growing_and_what_the_judge_says() -> None:
    lines = environment_details(environment_view(rollout=judged([[0, 1.0], [1, 5.0], [2, 30.0]], brake=True)))
    assert any("undecided, braked: evidence 30 of 100 needed" in line for line in lines)
    assert any("in doubt: 1 of 9" in line for line in lines)


def test_what_cannot_show_blocks_gets_plain_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    found = evidence_line(judged([[0, 1.0], [1, 100.0]]))
    assert found is not None
    assert found[0] == "_#"


def test_the_judges_sentence_is_told_once() -> None:
    view = rolled_back()
    view = view | {"reason": f"taken back after {view['verdict']['reason']}"}
    told = "\n".join(ending(view))
    assert told.count(view["verdict"]["reason"]) == 1
    assert "stable   :" in told
    assert view["verdict"]["reason"] in "\n".join(evidence_lines(rolled_back()))  # for another cause, it is told


def test_lines_come_for_changes_not_for_counts() -> None:
    said: list[str] = []
    views = [
        rollout_view(state="raising", step=0),
        rollout_view(state="raising", step=0, seconds=2.0),
        rollout_view(),
        rollout_view(requests={"stable": {"total": 5, "errors": 0}, "candidate": {"total": 9, "errors": 9}}),
        rollout_view(step=2, route={"stable": 0.75, "candidate": 0.25}),
        promoted(),
    ]
    lines = Lines(said.append)
    for view in views:
        lines.show(view)
    assert len(said) == 4
    assert said[0].startswith("[   1.50 s]  raising")
    assert "candidate 25%" in said[2]


def test_a_rollout_that_waits_for_a_person_says_what_to_type() -> None:
    asking = rollout_view(state="asking", reason="a person must approve")
    command = "rebake approve production"
    assert command in progress_line(asking)
    assert command in drawn(asking, [])
    assert command in "\n".join(environment_details(environment_view(rollout=asking)))


def test_a_line_without_a_reason() -> None:
    for instances in ({}, {"candidate": {"wanted": 0, "healthy": 0}}):  # a job has none between its runs
        line = progress_line(rollout_view(reason=None, instances=instances, route={}))
        assert line == "[   1.50 s]  shifting, step 1 of 4"


def test_following_nothing_ends_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow([], as_json=True) == {}


def test_the_result_has_exactly_the_documented_names() -> None:
    assert set(result(promoted())) == {
        "rollout", "service", "environment", "release", "revision", "outcome", "reason", "verdict", "requests",
        "seconds",
    }  # fmt: skip


def test_the_end_of_a_soak_is_told_apart_from_its_beginning() -> None:
    assert any("soaks now" in text for text in ending(promoted()))
    assert not any("soaks now" in text for text in ending(promoted(ended="2026-01-02T03:05:00.000Z")))


def test_evidence_of_passed_checks_is_not_repeated() -> None:
    assert evidence_lines(rollout_view()) == []


def test_a_verdict_over_no_request_is_not_told() -> None:
    nothing = {"total": 0, "errors": 0}
    ended = rolled_back() | {"requests": {"stable": nothing, "candidate": nothing}, "log_tail": []}
    assert not any("verdict" in text for text in ending(ended))


def test_an_ending_without_a_remedy_still_names_a_next_command() -> None:
    assert ending(rolled_back() | {"remedy": None})[-1].endswith("rebake status production")


def test_details_of_an_environment_with_a_drifted_instance() -> None:
    view = environment_view()
    view["instances"][0] |= {"drift": [{"kind": "file-changed"}], "healthy": None, "pid": None}
    text = "\n".join(environment_details(view))
    assert "not probed" in text
    assert "drifted" in text


def test_an_environment_that_was_taken_down() -> None:
    view = environment_view(stable=None, route={}, platform=None, listen=None, instances=[], last=None, previous=[])
    assert environment_details(view) == ["guestbook/production", "  nothing serves"]


def test_rollouts_that_wait_for_their_turn() -> None:
    lines = environment_details(environment_view(rollout=rollout_view(), waiting=["r-0002", "r-0003"]))
    assert "  waiting for it to end: r-0002, r-0003" in lines


def test_history_of_what_is_under_way() -> None:
    rows = history_rows([rollout_view()])
    assert rows[1][4] == "under way"
    assert len({len(row) for row in rows}) == 1


def test_a_table_of_nothing() -> None:
    assert table([]) == []


def test_the_overview_speaks_only_when_something_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = iter([[environment_view()], [environment_view()], [environment_view(rollout=rollout_view())]])

    def wait(seconds: float) -> None:
        return None

    def look() -> list[Any]:
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    overview.watch(look, wait)
    assert capsys.readouterr().out.count("guestbook/production") == 2
