"""The rollout's states and events, and the one table that joins them.

The table is total: every state x event has a cell, the ignored and refused ones too. `decide` follows it, the tests
walk it, and docs/rollout-states.md is drawn from it (`python -m rebake.rollout.states`).

How to edit it safely: add the event to `Event`, give it a cell in every state (`_cells` refuses a hole), then teach
`rollout/events.py` when it is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a rollout is. The last five are final."""

    WAITING = "waiting"
    PREPARING = "preparing"
    LAUNCHING = "launching"
    CHECKING = "checking"
    SHIFTING = "shifting"
    HOLDING = "holding"
    ASKING = "asking"
    SOAKING = "soaking"
    FINISHING = "finishing"
    RETURNING = "returning"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    STOPPED = "stopped"
    FAILED = "failed"


FINAL = frozenset({State.PROMOTED, State.ROLLED_BACK, State.REFUSED, State.STOPPED, State.FAILED})

MEANING: Mapping[State, str] = {
    State.WAITING: "accepted; the gates (quarantine, `after`, window, freeze) are asked",
    State.PREPARING: "the release is verified and made ready where it will run",
    State.LAUNCHING: "the candidate's instances start; no user reaches them",
    State.CHECKING: "the checks run against the candidate; no user reaches it",
    State.SHIFTING: "a route was written and is being read back",
    State.HOLDING: "the route stands at one step while the judge watches",
    State.ASKING: "a person must approve, or stop",
    State.SOAKING: "promoted; stable is kept whole and warm and the judge still watches",
    State.FINISHING: "the soak is over; the last of the traffic moves to the candidate",
    State.RETURNING: "the route goes back to stable",
    State.PROMOTED: "the candidate is stable now",
    State.ROLLED_BACK: "taken back by health, a check, the judge or an undo",
    State.REFUSED: "a gate said no; nothing was touched",
    State.STOPPED: "stopped by a person, superseded by a newer request, or taken back with its group",
    State.FAILED: "the platform or the edge could not do it",
}

EXIT_CODES: Mapping[State, int] = {
    State.PROMOTED: 0,
    State.ROLLED_BACK: 3,
    State.REFUSED: 4,
    State.FAILED: 5,
    State.STOPPED: 6,
}


class Event(StrEnum):
    """What can be seen, in the order of importance: people first, then harm, then progress."""

    UNDO = "undo"
    STOP = "stop"
    SUPERSEDED = "superseded"
    APPROVE = "approve"
    LET_THROUGH = "let-through"
    AGREED = "agreed"
    HURRIED = "hurried"
    GROUP_RETURNS = "group-returns"
    QUARANTINED = "quarantined"
    GATE_SHUT = "gate-shut"
    BLOCKED = "blocked"
    CANNOT_START = "cannot-start"
    CHECK_FAILED = "check-failed"
    HARMFUL = "harmful"
    CANDIDATE_LOST = "candidate-lost"
    STABLE_BROKEN = "stable-broken"
    TAKES_OVER = "takes-over"
    RESUMED = "resumed"
    HELD = "held"
    REACHED = "reached"
    GATE_OPEN = "gate-open"
    PREPARED = "prepared"
    READY = "ready"
    NEEDS_APPROVAL = "needs-approval"
    CHECKS_PASSED = "checks-passed"
    SHIFTED = "shifted"
    SHIFTED_LAST = "shifted-last"
    STEP_OVER = "step-over"
    RAMPED = "ramped"
    UNDECIDED_PROMOTE = "undecided-promote"
    UNDECIDED_ROLL_BACK = "undecided-roll-back"
    UNDECIDED_LIMIT = "undecided-limit"
    SOAKED = "soaked"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one event does in one state.

    Attributes:
        to: the next state; None when nothing changes.
        ending: recorded on the way into RETURNING: the final state it will end in.
        refused: told to the person who asked, when the event is a request that cannot be granted here.
    """

    to: State | None = None
    ending: State | None = None
    refused: str | None = None


IGNORED = Cell()

STAYING = frozenset({Event.HELD, Event.RESUMED, Event.LET_THROUGH, Event.REACHED, Event.AGREED, Event.HURRIED})
"""Events that leave a rollout where it is: they are told and remembered, and its state is not entered anew."""

_BACK = {
    "stop": Cell(State.RETURNING, State.STOPPED),
    "harm": Cell(State.RETURNING, State.ROLLED_BACK),
    "fail": Cell(State.RETURNING, State.FAILED),
}
_NOTHING_TO_APPROVE = Cell(refused="nothing waits for an approval now")


def _go(state: State) -> Cell:
    return Cell(state)


def _gated(state: State) -> Mapping[Event, Cell]:
    """A gate in time may hold it here, a person may let it through, and a member of a group waits for the others."""
    return dict.fromkeys((Event.HELD, Event.RESUMED, Event.LET_THROUGH, Event.REACHED), Cell(state))


_ENDERS = (Event.UNDO, Event.STOP, Event.SUPERSEDED, Event.GROUP_RETURNS)
_PEOPLE_STOP = dict.fromkeys(_ENDERS, _BACK["stop"])
_WATCHED = {Event.HARMFUL: _BACK["harm"], Event.CANDIDATE_LOST: _BACK["harm"]}
_AT_ONCE = dict.fromkeys(_ENDERS, Cell(State.STOPPED))
_OVER = {
    Event.UNDO: Cell(refused="this rollout is over"),
    Event.STOP: Cell(refused="this rollout is over"),
    Event.APPROVE: Cell(refused="this rollout is over"),
}

_WRITTEN: Mapping[State, Mapping[Event, Cell]] = {
    State.WAITING: {
        **_gated(State.WAITING),
        **_AT_ONCE,
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.QUARANTINED: Cell(State.REFUSED),
        Event.GATE_SHUT: Cell(State.REFUSED),
        Event.GATE_OPEN: _go(State.PREPARING),
    },
    State.PREPARING: {
        **_PEOPLE_STOP,
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.BLOCKED: _BACK["fail"],
        Event.PREPARED: _go(State.LAUNCHING),
    },
    State.LAUNCHING: {
        **_PEOPLE_STOP,
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.BLOCKED: _BACK["fail"],
        Event.CANNOT_START: _BACK["harm"],
        Event.READY: _go(State.CHECKING),
    },
    State.CHECKING: {
        **_gated(State.CHECKING),
        **_PEOPLE_STOP,
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.BLOCKED: _BACK["fail"],
        Event.CANNOT_START: _BACK["harm"],
        Event.CHECK_FAILED: _BACK["harm"],
        Event.NEEDS_APPROVAL: _go(State.ASKING),
        Event.CHECKS_PASSED: _go(State.SHIFTING),
    },
    State.SHIFTING: {
        **_PEOPLE_STOP,
        **_WATCHED,
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.BLOCKED: _BACK["fail"],
        Event.STABLE_BROKEN: _go(State.SHIFTING),
        Event.SHIFTED: _go(State.HOLDING),
        Event.SHIFTED_LAST: _go(State.SOAKING),
    },
    State.HOLDING: {
        **_gated(State.HOLDING),
        **_PEOPLE_STOP,
        **_WATCHED,
        Event.APPROVE: _go(State.SHIFTING),
        Event.AGREED: _go(State.HOLDING),
        Event.BLOCKED: _BACK["fail"],
        Event.STABLE_BROKEN: _go(State.SHIFTING),
        Event.STEP_OVER: _go(State.SHIFTING),
        Event.RAMPED: _go(State.SHIFTING),
        Event.UNDECIDED_PROMOTE: _go(State.SHIFTING),
        Event.UNDECIDED_ROLL_BACK: _BACK["harm"],
        Event.UNDECIDED_LIMIT: _go(State.ASKING),
    },
    State.ASKING: {
        **_gated(State.ASKING),
        **_PEOPLE_STOP,
        **_WATCHED,
        Event.APPROVE: _go(State.SHIFTING),
        Event.AGREED: _go(State.ASKING),
        Event.CANNOT_START: _BACK["harm"],
        Event.BLOCKED: _BACK["fail"],
        Event.STABLE_BROKEN: _go(State.SHIFTING),
        Event.STEP_OVER: _go(State.SHIFTING),
    },
    State.SOAKING: {
        **_gated(State.SOAKING),
        **_WATCHED,
        Event.UNDO: _BACK["harm"],
        Event.STOP: _BACK["stop"],
        Event.SUPERSEDED: _go(State.FINISHING),
        Event.HURRIED: _go(State.SOAKING),
        Event.GROUP_RETURNS: _BACK["stop"],
        Event.TAKES_OVER: _go(State.SHIFTING),
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.STABLE_BROKEN: _go(State.FINISHING),
        Event.SOAKED: _go(State.FINISHING),
    },
    State.FINISHING: {
        **_WATCHED,
        Event.UNDO: _BACK["harm"],
        Event.STOP: Cell(refused="the candidate is promoted already; `rebake undo` takes it back"),
        Event.APPROVE: _NOTHING_TO_APPROVE,
        Event.SHIFTED_LAST: _go(State.PROMOTED),
    },
    State.RETURNING: {
        Event.APPROVE: Cell(refused="the candidate is being taken back"),
        Event.RETURNED: Cell(),  # to the recorded ending: see `next_state`
    },
    **dict.fromkeys(FINAL, _OVER),
}


def _cells() -> Mapping[tuple[State, Event], Cell]:
    return {(s, e): _WRITTEN[s].get(e, IGNORED) for s in State for e in Event}


TABLE: Mapping[tuple[State, Event], Cell] = _cells()
"""Every state x event. An absent entry above is an ignored event: it has no meaning in that state."""


def next_state(state: State, event: Event, ending: State | None) -> tuple[State, State | None]:
    """Follow the table: the next state and the ending to remember.

    Args:
        ending: what RETURNING was entered for; FAILED if nobody remembers.
    """
    if state is State.RETURNING and event is Event.RETURNED:
        return ending or State.FAILED, ending
    cell = TABLE[state, event]
    return cell.to or state, cell.ending or ending


def draw() -> str:
    """The manual's page: what each state means, a Mermaid diagram and the whole table, all from the values above."""
    lines = [
        "# The rollout's states",
        "",
        "Drawn from `src/rebake/rollout/states.py` by `python -m rebake.rollout.states`; a test keeps both the same.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> waiting",
    ]
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), cell in TABLE.items():
        if cell.to is not None:
            arrows.setdefault((state, cell.to), []).append(event.value)
    for ending in (State.ROLLED_BACK, State.STOPPED, State.FAILED):
        arrows[State.RETURNING, ending] = [Event.RETURNED.value]
    name = {s: s.value.replace("-", "_") for s in State}
    lines += [f"    {name[a]} --> {name[b]}: {', '.join(events)}" for (a, b), events in arrows.items()]
    lines += [f"    {name[s]} --> [*]" for s in State if s in FINAL]
    lines += ["```", "", "| state | meaning | exit code |", "| --- | --- | --- |"]
    lines += [f"| `{s}` | {MEANING[s]} | {EXIT_CODES.get(s, '')} |" for s in State]
    lines += ["", "## Every state and every event", ""]
    lines += [
        "An arrow names the next state, `-` an event without meaning there, a sentence a request that is refused.",
        "",
    ]
    lines += ["| event | " + " | ".join(s.value for s in State) + " |", "| --- |" + " --- |" * len(State)]
    for event in Event:
        cells = []
        for state in State:
            cell = TABLE[state, event]
            text = f"→ {cell.to}" if cell.to else cell.refused or "-"
            if cell.ending:
                text += f" ({cell.ending})"
            if (state, event) == (State.RETURNING, Event.RETURNED):
                text = "→ its ending"
            cells.append(text)
        lines.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(draw(), end="")
