"""A release group under the real command line, agent, Envoy and processes: it goes on, and goes back, together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rebake.tour.load import Load, Report
from tests.e2e.pair import SECOND, Pair
from tests.e2e.site import until

pytestmark = pytest.mark.real
STEPS = "{canary: {steps: [20%, 50%], hold: 500ms}}"
JUDGED = "{canary: {steps: [50%], hold: 10m}}"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    built = Pair(tmp_path)
    built.begin()
    yield built
    left = built.clear()
    assert not left, f"left running: {left}"


@pytest.fixture
def loads(pair: Pair) -> Iterator[list[Load]]:
    """Users of both members."""
    with ExitStack() as stack:
        yield [stack.enter_context(load) for load in pair.loads(60.0)]


def lost(loads: list[Load]) -> list[int]:
    reports: list[Report] = [load.stop() for load in loads]
    assert all(report.answered > 50 for report in reports)
    return [report.lost for report in reports]


def test_a_group_is_promoted_together_and_undone_together(pair: Pair, loads: list[Load]) -> None:
    pair.source("v1")
    pair.describe_both(STEPS, "2s")
    done = pair.deploy_group()
    assert done.code == 0, done.err
    assert [m["outcome"] for m in done.doc["members"]] == ["promoted", "promoted"]
    pair.until_ended()  # in the soak one user in five is still on stable
    assert pair.texts() == ["v1", "v1"]
    undone = pair.rebake("undo", "--group", "all", "--json")
    assert undone.code == 0, undone.err
    assert pair.texts() == ["v0", "v0"]
    assert lost(loads) == [0, 0]


def test_one_harmful_verdict_takes_the_whole_group_back(pair: Pair, loads: list[Load]) -> None:
    pair.source("v1")
    pair.describe_both(JUDGED, "5m", second_env="{FAIL_EVERY: '2'}")
    done = pair.deploy_group()
    assert done.code == 3, done.err
    first, second = done.doc["members"]
    assert (second["outcome"], second["taken_along"]) == ("rolled-back", False)
    assert (first["outcome"], first["taken_along"]) == ("stopped", True)
    assert f"shop/{SECOND} goes back" in first["reason"]
    pair.until_ended()
    assert pair.texts() == ["v0", "v0"]
    assert lost(loads) == [0, 0]
    pair.describe_both("all-at-once", "0s")
    again = pair.deploy_group()
    assert again.code == 0, "the settings that did harm are in quarantine; who was only taken along comes again"


def test_harm_in_the_soak_of_one_takes_all_back_from_the_soak(pair: Pair, loads: list[Load]) -> None:
    pair.source("v1", sours=True)
    pair.describe_both(STEPS, "10m")
    done = pair.deploy_group()
    assert done.code == 0, done.err
    assert [m["state"] for m in done.doc["members"]] == ["soaking", "soaking"]
    pair.sour(SECOND)
    view = pair.until_ended(90.0)
    first, second = view["members"]
    assert (second["outcome"], second["taken_along"]) == ("rolled-back", False)
    assert (first["outcome"], first["taken_along"]) == ("stopped", True)
    assert view["outcome"] == "rolled-back"
    assert pair.texts() == ["v0", "v0"]
    assert lost(loads) == [0, 0]


def test_a_group_goes_on_after_its_agent_was_killed_at_a_barrier(pair: Pair, loads: list[Load]) -> None:
    pair.source("v1")
    pair.describe_both("{canary: {steps: [20%, 50%], hold: 2s}}", "1s")
    assert pair.deploy_group("--detach").code == 0
    until(lambda: "holding" in [m["state"] for m in pair.group()["members"]])
    pair.kill_agent()
    view = pair.until_ended(90.0)
    assert [m["outcome"] for m in view["members"]] == ["promoted", "promoted"]
    assert pair.texts() == ["v1", "v1"]
    assert lost(loads) == [0, 0]
