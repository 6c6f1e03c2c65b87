"""Seeded release groups with every fault, and mistakes in the engine that break a group's promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rebake.rollout import events, groups, writing
from rebake.rollout.states import Event
from rebake.testing.simulation.groups import simulate_group

Patch = pytest.MonkeyPatch
CHUNKS = 4


@pytest.mark.parametrize("number", range(CHUNKS))
def test_a_group_keeps_its_promises_in_every_seed(number: int) -> None:
    for seed in range(7000 + number, 7024, CHUNKS):
        outcome = simulate_group(seed)
        assert not outcome.violations, (seed, outcome.violations, outcome.history[-40:])


def test_groups_end_in_every_way() -> None:
    endings = {ending for seed in range(1, 16) for ending in simulate_group(seed).endings}
    assert endings >= {"promoted", "rolled-back", "stopped"}


def pass_every_barrier(patch: Patch) -> None:
    patch.setattr(events, "_wait", lambda _look, seen, *_rest, **_named: seen)


def leave_the_others_when_one_goes_back(patch: Patch) -> None:
    patch.setattr(groups, "gone_back", lambda *_: None)


def give_no_word(patch: Patch) -> None:
    """Each ends its soak when it has soaked itself."""
    patch.setattr(events, "_vote", lambda _look: events.Seen(Event.SOAKED, "soaked"))


def say_nothing_of_going_back(patch: Patch) -> None:
    patch.setattr(writing, "going_back", lambda _rollout: None)


MISTAKES: dict[Callable[[Patch], None], int] = {
    pass_every_barrier: 30,
    leave_the_others_when_one_goes_back: 30,
    give_no_word: 30,
    say_nothing_of_going_back: 30,
}
"""Each mistake, and the number of seeds within which it must be caught."""


@pytest.mark.parametrize(("mistake", "limit"), MISTAKES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_that_breaks_a_groups_promise_is_caught(
    monkeypatch: Patch, mistake: Callable[[Patch], None], limit: int
) -> None:
    mistake(monkeypatch)
    assert any(simulate_group(seed).violations for seed in range(1, limit + 1))
