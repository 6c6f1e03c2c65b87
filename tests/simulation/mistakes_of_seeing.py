"""Mistakes in what an engine believes: what it could not see, what it asked for, what is of another rollout or boot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rebake.rollout import decide as deciding
from rebake.rollout import fleets
from rebake.rollout.observing import Observer

Patch = pytest.MonkeyPatch


def take_a_platform_that_does_not_answer_for_an_empty_one(patch: Patch) -> None:
    instances = Observer.instances

    def mistaken(self: Observer, memory: Any) -> Any:
        seen, unseen = instances(self, memory)
        return ((), "") if unseen else (seen, "")

    patch.setattr(Observer, "instances", mistaken)


def read_no_quarantine(patch: Patch) -> None:
    patch.setattr(Observer, "_quarantined", lambda *_: frozenset())


def judge_by_the_evidence_of_the_rollout_before(patch: Patch) -> None:
    begin = Observer.judge_this_one

    def mistaken(self: Observer, memory: Any) -> None:
        known, rollout = memory.judging, memory.environment.rollout
        if known is None or rollout is None:
            kept = known
            begin(self, memory)
            memory.judging = memory.judging or kept
        else:
            known.rollout = rollout.id

    patch.setattr(Observer, "judge_this_one", mistaken)


def forget_what_was_asked_for(patch: Patch) -> None:
    patch.setattr(fleets, "_still_pending", lambda fleet, *_: replace(fleet, pending={}))


def forget_the_boot(patch: Patch) -> None:
    patch.setattr(deciding, "dated", lambda environment, *_: environment)


MISTAKES_OF_SEEING: dict[Callable[[Patch], None], int] = {
    take_a_platform_that_does_not_answer_for_an_empty_one: 50,
    read_no_quarantine: 100,
    judge_by_the_evidence_of_the_rollout_before: 50,
    forget_what_was_asked_for: 50,
    forget_the_boot: 2000,
}
"""Each mistake, and the number of seeds within which it must be caught."""
