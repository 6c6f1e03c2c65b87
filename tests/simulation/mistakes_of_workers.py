"""Mistakes that only fleets without a route can meet; each eighth seed is about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rebake.rollout import decide as deciding
from rebake.rollout import events, route, shares
from rebake.rollout.actions import Retire
from rebake.rollout.fleets import healthy, keep
from rebake.rollout.states import Event, State

from .mistakes import ignore_the_services_own_metrics

Patch = pytest.MonkeyPatch


def let_the_candidate_work_before_its_checks(patch: Patch) -> None:
    size = shares.candidate_size

    def mistaken(environment: Any) -> int:
        return size(environment) or (environment.rollout.plan.instances if environment.rollout is not None else 0)

    patch.setattr(deciding, "candidate_size", mistaken)


def raise_all_workers_at_the_first_step(patch: Patch) -> None:
    patch.setattr(shares, "instances_at", lambda share, _stable, full: full if share else 0)


def make_room_for_the_candidate_by_shrinking_stable(patch: Patch) -> None:
    def mistaken(fleet: Any, world: Any, now: float, wanted: int) -> Any:
        others = [i for i in world.instances if i.fleet != fleet.id and i.state == "running"]
        room = len(healthy(fleet, world)) == wanted and bool(others) and not fleet.plan.routed
        return keep(fleet, world, now, wanted - 1 if room else wanted)

    patch.setattr(deciding, "keep", mistaken)


def end_workers_without_letting_them_finish(patch: Patch) -> None:
    settle = deciding._settle_leaving

    def mistaken(draft: Any) -> None:
        routed = {gone.fleet.id for gone in draft.environment.leaving if gone.fleet.plan.routed}
        settle(draft)
        draft.actions = [
            replace(a, grace_ms=0) if isinstance(a, Retire) and a.instance.rpartition("-")[0] not in routed else a
            for a in draft.actions
        ]

    patch.setattr(deciding, "_settle_leaving", mistaken)


def take_a_step_before_its_workers_are_there(patch: Patch) -> None:
    patch.setattr(route, "at_work_as_asked", lambda *_: True)


def take_idle_workers_as_proof(patch: Patch) -> None:
    proved = events._proved
    told = events._undecided

    def mistaken(look: Any, waited_ms: float, hold_ms: int) -> Any:
        if look.plan.routed:
            return told(look, waited_ms, hold_ms)
        return events.Seen(Event.STEP_OVER, "nothing bad was seen")

    patch.setattr(events, "_proved", lambda look: proved(look) and look.plan.routed)
    patch.setattr(events, "_undecided", mistaken)


def go_on_with_workers_that_come_and_go(patch: Patch) -> None:
    def without(state: Any) -> tuple[Any, ...]:
        return tuple(r for r in events.RULES[state] if r is not events._candidate_lost)

    def mistaken(look: Any) -> Any:
        return events._candidate_lost(look) if look.plan.routed else None

    patch.setattr(events, "RULES", {state: (*without(state), mistaken) for state in events.RULES})


def send_workers_home_while_a_person_is_asked(patch: Patch) -> None:
    patch.setattr(shares, "_may_work", lambda rollout: rollout.state in shares._AT_WORK - {State.ASKING})


def ignore_a_workers_own_metrics(patch: Patch) -> None:
    ignore_the_services_own_metrics(patch, but=lambda plan: plan.routed)


MISTAKES_OF_WORKERS: dict[Callable[[Patch], None], int] = {
    let_the_candidate_work_before_its_checks: 100,
    raise_all_workers_at_the_first_step: 200,
    make_room_for_the_candidate_by_shrinking_stable: 100,
    end_workers_without_letting_them_finish: 100,
    take_a_step_before_its_workers_are_there: 100,
    take_idle_workers_as_proof: 200,
    go_on_with_workers_that_come_and_go: 300,
    ignore_a_workers_own_metrics: 50,
    send_workers_home_while_a_person_is_asked: 50,
}
