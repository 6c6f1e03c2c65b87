"""How the judge saw a rollout, drawn: as text and as a picture, from the tape alone; and judged again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.unit.rollout.world import KEY, Shop

from rebake.cli.chart import chart
from rebake.judge.course import Event, course_of, explanation, few_events, thinned
from rebake.judge.picture import picture
from rebake.judge.rerun import happened, rerun
from rebake.judge.samples import JudgeSettings
from rebake.judge.tape import Beginning, entries_of, unpack
from rebake.rollout.plan import Strategy
from rebake.rollout.states import State
from rebake.rollout.taping import read_tape

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
STEPS = Strategy("canary", steps=(500, 2500), hold_ms=20_000)
SVG = "{http://www.w3.org/2000/svg}"


class Told:
    """A rollout that ended, its tape and its explanation."""

    def __init__(self, error_rate: float, *, killed_after: float | None = None, strategy: Strategy = STEPS) -> None:
        shop = Shop()
        shop.serving(A)
        shop.platform.behaviour(B).error_rate = error_rate
        rollout = shop.deploy(B, strategy=strategy, soak_ms=10_000)
        shop.until_state(State.HOLDING)
        if killed_after is not None:
            end = shop.clock.now() + killed_after
            shop.until(lambda: shop.clock.now() >= end)
            shop.start_engine()
        self.view = shop.until_over(rollout)
        tape = read_tape(shop.ledger, KEY, rollout)
        assert tape is not None
        self.tape = tape
        self.beginning = Beginning.from_json(json.loads(unpack(tape["began"]))[1])
        self.entries = list(entries_of(tape["parts"]))
        moves = [(tape["zero_at"] + 1.0, "holding: the candidate serves 5 %")]
        course = course_of(self.entries, needed=100.0)
        self.doc = explanation(self.view, tape, course, moves)


@pytest.fixture(scope="module")
def bad() -> Told:
    return Told(0.3)


@pytest.fixture(scope="module")
def good() -> Told:
    return Told(0.0)


def drawn(doc: Any) -> ElementTree.Element:
    """The picture as a parser sees it: it must be whole XML."""
    return ElementTree.fromstring(picture(doc))


def said(root: ElementTree.Element) -> str:
    return "\n".join("".join(text.itertext()) for text in root.iter(f"{SVG}text"))


def test_the_picture_is_whole_xml_and_holds_the_course_and_the_verdict(bad: Told) -> None:
    root = drawn(bad.doc)
    assert root.tag == f"{SVG}svg"
    text = said(root)
    assert f"shop/production, rollout {bad.view['rollout']}: rolled-back" in text
    assert "taken back after" in text
    assert "100 takes it back" in text
    assert "harmful: evidence" in text
    assert f"candidate: {bad.view['requests']['candidate']['errors']} failures of" in text
    assert root.get("aria-label", "").endswith("rolled-back")
    lines = {(line.get("class") or "").split()[0]: line.get("d") or "" for line in root.iter(f"{SVG}path")}
    assert {"stable", "candidate", "evidence", "area"} <= lines.keys()
    assert lines["evidence"].count("L") >= 1, "evidence is a line of several points"
    for path in lines.values():
        places = [float(n) for n in path.replace("M", " ").replace("L", " ").translate(_LETTERS).split()]
        assert all(0.0 <= place <= 1000.0 for place in places), path


_LETTERS = str.maketrans("HVZ", "   ")


def test_evidence_rises_to_what_takes_it_back_and_the_chart_shows_it(bad: Told) -> None:
    course = bad.doc["course"]
    assert course[-1]["evidence"] >= 100.0 > course[0]["evidence"]
    lines = chart(bad.doc, width=100)
    text = "\n".join(lines)
    assert lines[0].endswith("rolled-back") or "rolled-back" in lines[0]
    assert bad.view["reason"] in lines[1]
    assert "100 takes it back" in text
    assert "█" in text
    assert "harmful: evidence" in text
    assert max(len(line) for line in lines[2:]) <= 130


def test_the_chart_of_a_plain_terminal_is_ascii(bad: Told) -> None:
    text = "\n".join(chart(bad.doc, width=40, plain=True))
    drawn_part = text[text.index("evidence against") :]
    assert drawn_part.isascii(), [c for c in drawn_part if not c.isascii()]


def test_a_good_release_is_drawn_with_its_shares(good: Told) -> None:
    weights = {point["weight"] for point in good.doc["course"]}
    assert {0.05, 0.25} <= weights
    assert "promoted" in said(drawn(good.doc))
    assert all(point["evidence"] < 100.0 for point in good.doc["course"])


def test_copies_are_on_the_tape_and_drawn() -> None:
    told = Told(1.0, strategy=replace(STEPS, mirror_basis_points=5000, mirror_ms=20_000))
    assert told.view["outcome"] == "rolled-back"
    assert told.doc["course"][-1]["evidence"] >= 100.0
    assert "copied requests" in said(drawn(told.doc))
    assert rerun(told.beginning, told.entries).evidence == told.view["verdict"]["evidence"]


def test_names_that_callers_choose_cannot_break_the_picture(bad: Told) -> None:
    hostile = "GET /<script>&\"'\x00\x1b]]>{id}"
    course = [{**point, "metrics": {hostile: 7.0}} for point in bad.doc["course"]]
    events = [{"t": 1.0, "what": "state", "text": hostile}]
    doc = {**bad.doc, "course": course, "events": events, "reason": hostile, "service": hostile}
    root = drawn(doc)
    known = {f"{SVG}{name}" for name in ("svg", "style", "rect", "text", "line", "path")}
    assert {child.tag for child in root.iter()} <= known


@pytest.mark.parametrize("points", [0, 1, 2])
def test_a_course_of_hardly_any_points_is_drawn(bad: Told, points: int) -> None:
    doc = {**bad.doc, "course": bad.doc["course"][:points], "events": []}
    assert drawn(doc).tag == f"{SVG}svg"
    assert chart(doc, width=60)


def test_without_a_tape_the_evidence_alone_is_drawn(bad: Told) -> None:
    doc = explanation(bad.view, None, course_of((), needed=100.0), ())
    assert doc["tape"] is None
    assert [p["evidence"] for p in doc["course"]] == [e for _, e in bad.view["evidence"]]
    assert "not kept any more" in "\n".join(chart(doc))
    drawn(doc)


def test_a_long_course_keeps_its_peaks_and_its_ends(bad: Told) -> None:
    point = course_of(bad.entries, needed=100.0).points[0]
    many = [replace(point, t=float(t), evidence=1.0 + (t == 777)) for t in range(5000)]
    few = thinned(many, 240)
    assert len(few) <= 241
    assert (few[0].t, few[-1].t) == (0.0, 4999.0)
    assert 777.0 in [p.t for p in few]


def test_a_ramp_of_many_weights_is_told_in_few_lines() -> None:
    events = [Event(float(t), "weight" if t % 7 else "brake", str(t)) for t in range(1000)]
    told = few_events(events)
    assert len(told) <= 40
    assert any("more events are left out here" in event.text for event in told)


# Judged again


def test_the_same_settings_give_the_same_outcome(bad: Told, good: Told) -> None:
    for told in (bad, good):
        then, now = happened(told.entries, needed=100.0), rerun(told.beginning, told.entries)
        assert replace(now, reason="") == replace(then, reason="", held_seconds=now.held_seconds)
        assert now.held_seconds == pytest.approx(then.held_seconds, abs=1.0)
        assert now.evidence == told.view["verdict"]["evidence"]


@pytest.mark.parametrize("killed_after", [0.3, 2.0, 5.5])
def test_a_rollout_whose_agent_was_killed_in_the_middle_is_judged_again_to_the_same_digit(killed_after: float) -> None:
    told = Told(0.02, killed_after=killed_after, strategy=replace(STEPS, hold_ms=120_000))
    now, then = rerun(told.beginning, told.entries), happened(told.entries, needed=100.0)
    assert now.outcome == then.outcome == told.view["outcome"] == "rolled-back"
    assert (now.second, now.evidence) == (then.second, then.evidence)
    assert now.evidence == told.view["verdict"]["evidence"]
    assert now.reason == told.view["verdict"]["reason"]
    assert sum(point["t"] for point in told.doc["course"]) > 0


def with_settings(beginning: Beginning, **changes: Any) -> Beginning:
    return replace(beginning, settings=replace(beginning.settings, **changes))


def test_other_margins_take_it_back_earlier_later_or_never(bad: Told) -> None:
    usual = rerun(bad.beginning, bad.entries)
    strict = rerun(with_settings(bad.beginning, false_rollbacks=0.1), bad.entries)
    wide = rerun(with_settings(bad.beginning, error_extra=0.5), bad.entries)
    assert (usual.outcome, strict.outcome) == ("rolled-back", "rolled-back")
    assert strict.second <= usual.second
    assert wide.outcome == "undecided"
    assert wide.second >= usual.second


def test_a_stricter_judge_would_have_held_a_release_that_was_promoted(good: Told) -> None:
    assert rerun(good.beginning, good.entries).outcome == "promoted"
    many = with_settings(good.beginning, min_requests=10**6)
    assert rerun(many, good.entries).outcome == "held"


def test_another_ramp_says_when_it_would_be_over_and_that_this_is_an_estimate(good: Told) -> None:
    outcome = rerun(Beginning(JudgeSettings()), good.entries, profile="fast")
    assert outcome.outcome in ("promoted", "undecided")
    assert outcome.estimated is (outcome.outcome == "promoted")
