"""Mistakes that only scheduled jobs can meet; each sixteenth seed is about one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rebake.core.units import FULL
from rebake.rollout import runs

Patch = pytest.MonkeyPatch


def run_a_slot_again_and_again(patch: Patch) -> None:
    begin = runs._begin_due

    def mistaken(draft: Any, plan: Any) -> None:
        slot = draft.environment.slot
        begin(draft, plan)
        draft.update(slot=slot if slot is not None else draft.environment.slot)

    patch.setattr(runs, "_begin_due", mistaken)


def leave_slots_out_without_a_word(patch: Patch) -> None:
    patch.setattr(runs, "latest", lambda *_: None)


def begin_a_run_beside_another(patch: Patch) -> None:
    patch.setattr(runs, "_why_not", lambda *_: None)


def draw_runs_for_a_candidate_before_its_checks(patch: Patch) -> None:
    patch.setattr(runs, "runs_share", lambda environment: FULL if environment.candidate is not None else 0)


def give_the_candidate_every_run(patch: Patch) -> None:
    patch.setattr(runs, "drawn", lambda *_: -1)


def cut_runs_off(patch: Patch) -> None:
    clear = runs._clear

    def mistaken(draft: Any) -> None:
        known = draft.environment.runs
        draft.update(runs=())
        clear(draft)
        draft.update(runs=known)

    patch.setattr(runs, "_clear", mistaken)


def call_every_run_done(patch: Patch) -> None:
    over = runs._over
    patch.setattr(runs, "_over", lambda draft, run, _outcome, why: over(draft, run, "done", why))


def start_a_run_that_is_over_again(patch: Patch) -> None:
    followed = runs._followed

    def mistaken(draft: Any, run: Any, instance: Any) -> Any:
        return followed(draft, replace(run, ended=None, seen=False) if run.ended is not None else run, instance)

    patch.setattr(runs, "_followed", mistaken)


def let_runs_go_on_for_ever(patch: Patch) -> None:
    followed = runs._followed

    def mistaken(draft: Any, run: Any, instance: Any) -> Any:
        return followed(draft, replace(run, began=max(run.began, draft.now - 1.0)), instance)

    patch.setattr(runs, "_followed", mistaken)


def make_up_for_what_is_to_be_left_out(patch: Patch) -> None:
    patch.setattr(runs, "LATE_SECONDS", float("inf"))


MISTAKES_OF_JOBS: dict[Callable[[Patch], None], int] = {
    run_a_slot_again_and_again: 60,
    leave_slots_out_without_a_word: 60,
    begin_a_run_beside_another: 200,
    draw_runs_for_a_candidate_before_its_checks: 100,
    give_the_candidate_every_run: 200,
    cut_runs_off: 60,
    call_every_run_done: 200,
    start_a_run_that_is_over_again: 60,
    let_runs_go_on_for_ever: 300,
    make_up_for_what_is_to_be_left_out: 600,
}
