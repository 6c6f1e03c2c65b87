"""The table of states and events: total, connected, and with a way out of everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.rollout.events import RULES
from rebake.rollout.states import EXIT_CODES, FINAL, MEANING, STAYING, TABLE, Event, State, draw, next_state

MANUAL = Path(__file__).parents[2] / "docs" / "rollout-states.md"
ENDINGS = (State.ROLLED_BACK, State.STOPPED, State.FAILED)


def _ways(state: State) -> set[State]:
    to = {cell.to for (at, _), cell in TABLE.items() if at is state and cell.to is not None}
    return to | set(ENDINGS) if state is State.RETURNING else to


def test_every_state_and_event_has_a_cell() -> None:
    assert set(TABLE) == {(s, e) for s in State for e in Event}
    assert set(MEANING) == set(State)
    assert set(EXIT_CODES) == FINAL


def test_every_state_can_be_reached() -> None:
    reached, edge = {State.WAITING}, [State.WAITING]
    while edge:
        found = _ways(edge.pop()) - reached
        reached |= found
        edge += found
    assert reached == set(State)


@pytest.mark.parametrize("state", [s for s in State if s not in FINAL])
def test_every_state_that_is_not_final_has_a_way_out(state: State) -> None:
    """By a stop, or, where a stop is refused or has nothing left to do, by itself."""
    stop = TABLE[state, Event.STOP]
    if stop.to is not None:
        assert stop.to in (State.RETURNING, State.STOPPED)
        return
    assert state in (State.FINISHING, State.RETURNING)
    assert _ways(state) & FINAL
    assert RULES[state]


@pytest.mark.parametrize("state", sorted(FINAL))
def test_nothing_leaves_a_final_state(state: State) -> None:
    assert all(TABLE[state, event].to is None for event in Event)
    assert state not in RULES


@pytest.mark.parametrize("state", [s for s in State if s not in FINAL])
@pytest.mark.parametrize("event", Event)
def test_following_the_table_always_gives_a_state(state: State, event: Event) -> None:
    for ending in (None, *ENDINGS):
        after, kept = next_state(state, event, ending)
        assert isinstance(after, State)
        assert after is not State.RETURNING or state is State.RETURNING or kept in ENDINGS


def test_no_user_meets_a_candidate_that_was_not_checked() -> None:
    """SHIFTING is entered from CHECKING, or by way of a person, an earlier step or, in a group, the soak."""
    entered = {state for (state, _), cell in TABLE.items() if cell.to is State.SHIFTING}
    assert entered == {State.CHECKING, State.ASKING, State.SHIFTING, State.HOLDING, State.SOAKING}
    begun = {state for (state, event), cell in TABLE.items() if cell.to is State.CHECKING and event not in STAYING}
    assert begun == {State.LAUNCHING}


def test_an_event_that_leaves_a_rollout_where_it_is_leads_nowhere_else() -> None:
    for (state, event), cell in TABLE.items():
        assert event not in STAYING or cell.to in (None, state)


def test_the_manual_is_drawn_from_the_table() -> None:
    assert MANUAL.read_text() == draw(), "run: python -m rebake.rollout.states > docs/rollout-states.md"
