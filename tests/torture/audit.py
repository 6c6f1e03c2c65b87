"""Rules that a ledger must keep whatever was killed: read from the entries alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rebake.ledger.ports import Entry
from rebake.rollout.states import FINAL, TABLE, Event, State

_FIRST_USERS = frozenset({State.SHIFTING})


def transitions(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Transitions by rollout, in their order."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "transition" and entry.rollout is not None:
            found[entry.rollout].append(entry)
    return dict(found)


def endings(entries: Sequence[Entry]) -> dict[str, State]:
    """How each rollout that has ended did so."""
    last = {rollout: State(steps[-1].body["to"]) for rollout, steps in transitions(entries).items()}
    return {rollout: state for rollout, state in last.items() if state in FINAL}


def broken_rules(entries: Sequence[Entry], *, clock_set: bool = False) -> list[str]:
    """Every promise that these entries break, as sentences.

    Args:
        clock_set: somebody set the clock meanwhile: an entry may then be older than the one before it.
    """
    found = [*([] if clock_set else _time(entries)), *_one_at_a_time(entries), *_users_only_after_checks(entries)]
    for rollout, steps in transitions(entries).items():
        found += _journey(rollout, steps)
    return found


def _time(entries: Sequence[Entry]) -> list[str]:
    """Each environment is looked at by one thread at a time; several of them write in between each other. What people
    ask for bears the time at which they asked, though it may be written a moment later."""
    by_place: dict[tuple[str | None, str | None], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "request":
            continue
        by_place[entry.service, entry.environment].append(entry)
    pairs = [pair for of_one in by_place.values() for pair in itertools.pairwise(of_one)]
    return [f"entry {b.seq} is {a.at_ms - b.at_ms} ms older than entry {a.seq}" for a, b in pairs if b.at_ms < a.at_ms]


def _journey(rollout: str, steps: Sequence[Entry]) -> list[str]:
    """Each step is a cell of the table, they join, and the last state is final."""
    found, state = [], None
    for step in steps:
        body = step.body
        before = State(body["from"]) if body["from"] is not None else None
        after = State(body["to"])
        if before != state and not (state is None and after in FINAL):
            found.append(f"{rollout}: entry {step.seq} goes on from {before}, but it was in {state}")
        if "event" in body and not _is_cell(before, after, Event(body["event"])):
            found.append(f"{rollout}: entry {step.seq}: no cell of the table leads from {before} to {after}: {body}")
        if state in FINAL:
            found.append(f"{rollout}: entry {step.seq} goes on after its end")
        state = after
    if state not in FINAL:
        found.append(f"{rollout} did not end: {state}")
    return found


def _is_cell(before: State | None, after: State, event: Event) -> bool:
    if before is None:
        return False
    cell = TABLE[before, event]
    return cell.to == after or (before is State.RETURNING and event is Event.RETURNED and after in FINAL)


def _one_at_a_time(entries: Sequence[Entry]) -> list[str]:
    found: list[str] = []
    under_way: dict[tuple[str | None, str | None], str] = {}
    for entry in entries:
        if entry.kind != "transition" or entry.rollout is None:
            continue
        body: Any = entry.body
        where = entry.service, entry.environment
        if body["from"] is None and body["to"] == State.WAITING:
            if where in under_way:
                found.append(f"{entry.rollout} began while {under_way[where]} was under way")
            under_way[where] = entry.rollout
        elif State(body["to"]) in FINAL and entry.rollout == under_way.get(where):
            del under_way[where]
    return found


def _users_only_after_checks(entries: Sequence[Entry]) -> list[str]:
    """No route gives a fleet users before its rollout was told that they may meet it."""
    found: list[str] = []
    allowed: set[str] = set()
    for entry in entries:
        if entry.kind == "transition" and entry.rollout and State(entry.body["to"]) in _FIRST_USERS:
            allowed.add(entry.rollout)
        if entry.kind == "intent" and entry.body["do"] == "ApplyRoute":
            early = [f for f, weight in entry.body["weights"].items() if weight and f not in allowed]
            found += [f"entry {entry.seq} gives users to {fleet}, which was not let to them" for fleet in early]
    return found
