"""The simulator must be able to fail: each of these mistakes, put into the engine, is caught within a stated number of
seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rebake.core.units import FULL
from rebake.ledger.ports import Fence
from rebake.release.manifest import Settings
from rebake.rollout import commands, draft, events, fleets, journey, route, states
from rebake.rollout import decide as deciding
from rebake.rollout.acting import Actor
from rebake.rollout.engine import Engine, Memory
from rebake.rollout.states import IGNORED, TABLE, Event, State
from rebake.rollout.world import Fleet, Leaving, World
from rebake.testing.simulation import draw, simulate
from rebake.testing.simulation.scenario import HOUR, of_jobs

from .mistakes import MISTAKES, believe_a_clock_that_was_set
from .mistakes_of_jobs import MISTAKES_OF_JOBS
from .mistakes_of_reboots import MISTAKES_OF_REBOOTS, has_a_reboot
from .mistakes_of_seeing import MISTAKES_OF_SEEING
from .mistakes_of_workers import MISTAKES_OF_WORKERS

Patch = pytest.MonkeyPatch


def skip_the_read_back(patch: Patch) -> None:
    patch.setattr(events, "served", lambda *_: True)


def end_the_soak_at_once(patch: Patch) -> None:
    patch.setattr(events, "_soaked", lambda _look: events.Seen(Event.SOAKED, "soaked"))
    patch.setattr(events, "RULES", {**events.RULES, State.SOAKING: (lambda _: events.Seen(Event.SOAKED, "soaked"),)})


def retire_stable_before_the_soak_ends(patch: Patch) -> None:
    enter = journey._enter

    def mistaken(draft: Any, left: Any, rollout: Any, event: Event) -> None:
        enter(draft, left, rollout, event)
        stable = draft.environment.stable
        if rollout.state is State.SOAKING and stable is not None:
            gone = (*draft.environment.leaving, Leaving(stable, "promoted"))
            draft.update(stable=None, leaving=gone)

    patch.setattr(journey, "_enter", mistaken)


def forget_the_fencing_token(patch: Patch) -> None:
    patch.setattr(Engine, "_fence", lambda *_: None)


def act_without_the_token(patch: Patch) -> None:
    patch.setattr(Actor, "_token", staticmethod(lambda _memory: None))


def take_the_lease_for_granted(patch: Patch) -> None:
    fence = Engine._fence

    def mistaken(self: Engine, memory: Any, now: float) -> Fence:
        return memory.fence if memory.fence is not None else fence(self, memory, now)

    patch.setattr(Engine, "_fence", mistaken)


def act_before_recording(patch: Patch) -> None:
    record = Engine._record

    def mistaken(self: Engine, key: str, memory: Any, world: World, decision: Any, now: float) -> bool:
        self._actor.act(memory, decision.actions)
        return record(self, key, memory, world, decision, now)

    patch.setattr(Engine, "_record", mistaken)


def treat_missing_data_as_healthy(patch: Patch) -> None:
    proved = events._proved
    patch.setattr(events, "_proved", lambda look: look.world.verdict is None or proved(look))
    patch.setattr(events, "_hold", _hold_without_evidence)
    patch.setattr(events, "RULES", {**events.RULES, State.HOLDING: (events._blocked, _hold_without_evidence)})


def _hold_without_evidence(look: events.Look) -> events.Seen | None:
    verdict = look.world.verdict
    if verdict is None or verdict.kind == "undecided":
        return events.Seen(Event.STEP_OVER, "nothing bad was seen")
    return events._hold(look) if events._hold is not _hold_without_evidence else None


def promote_although_harmful(patch: Patch) -> None:
    def rules(state: State) -> tuple[Any, ...]:
        return tuple(r for r in events.RULES[state] if r is not events._harmful)

    patch.setattr(events, "_proved", lambda look: look.world.verdict is not None)
    patch.setattr(events, "RULES", {state: rules(state) for state in events.RULES})


def give_weight_before_the_checks_pass(patch: Patch) -> None:
    def mistaken(look: events.Look) -> events.Seen | None:
        return events.Seen(Event.CHECKS_PASSED, "healthy") if events.candidate_ready(look) else None

    patch.setattr(events, "RULES", {**events.RULES, State.CHECKING: (mistaken,)})


def give_weight_before_all_are_healthy(patch: Patch) -> None:
    def mistaken(look: events.Look) -> bool:
        fleet = look.environment.candidate
        return fleet is not None and bool(look.world.of(fleet.id))

    patch.setattr(events, "candidate_ready", mistaken)


def give_the_candidate_a_little_from_the_start(patch: Patch) -> None:
    def mistaken(environment: Any) -> dict[str, int]:
        stable, candidate, rollout = environment.stable, environment.candidate, environment.rollout
        share = max(1, rollout.weight) if rollout is not None and candidate is not None else 0
        shares = {} if stable is None else {stable.id: FULL - share}
        return (
            shares if candidate is None else {**shares, candidate.id: share if stable is not None else rollout.weight}
        )

    patch.setattr(route, "weights", mistaken)
    patch.setattr(deciding, "weights", mistaken)


def _cell(patch: Patch, state: State, event: Event) -> None:
    changed = {**TABLE, (state, event): IGNORED}
    patch.setattr(journey, "TABLE", changed)
    patch.setattr(commands, "TABLE", changed)


def ignore_stop_while_holding(patch: Patch) -> None:
    _cell(patch, State.HOLDING, Event.STOP)


def ignore_stop_while_launching(patch: Patch) -> None:
    _cell(patch, State.LAUNCHING, Event.STOP)


def forget_the_quarantine(patch: Patch) -> None:
    patch.setattr(draft.Draft, "put_in_quarantine", lambda *_: None)


def launch_without_limit(patch: Patch) -> None:
    launch = fleets._launch_missing

    def mistaken(fleet: Fleet, missing: int, now: float) -> fleets.Kept:
        return launch(replace(fleet, failures=(), pending={}), max(missing, 1), now)

    patch.setattr(fleets, "_launch_missing", mistaken)


def use_an_instance_id_twice(patch: Patch) -> None:
    spec = fleets.instance_spec
    patch.setattr(fleets, "instance_spec", lambda fleet, _number: spec(fleet, 1))


def drop_the_drain(patch: Patch) -> None:
    patch.setattr(deciding, "drained", lambda *_: True)
    patch.setattr(route, "drained", lambda *_: True)


def end_a_stop_as_a_roll_back(patch: Patch) -> None:
    follow = states.next_state

    def mistaken(state: State, event: Event, ending: State | None) -> tuple[State, State | None]:
        after, kept = follow(state, event, ending)
        return after, State.ROLLED_BACK if kept is State.STOPPED else kept

    patch.setattr(journey, "next_state", mistaken)


def undo_without_the_settings(patch: Patch) -> None:
    target = commands.undo_target

    def mistaken(*parts: Any) -> Fleet | None:
        found = target(*parts)
        return found and replace(found, revision=replace(found.revision, settings=Settings({"VARIANT": "lost"})))

    patch.setattr(commands, "undo_target", mistaken)


def route_to_instances_never_healthy(patch: Patch) -> None:
    patch.setattr(route, "serving", lambda fleet, world: tuple(i for i in world.of(fleet.id) if i.address))


def _after_the_end(patch: Patch, **changes: Any) -> None:
    end = journey.end_rollout

    def mistaken(draft: Any, rollout: Any) -> None:
        end(draft, rollout)
        draft.update(**changes)

    patch.setattr(journey, "end_rollout", mistaken)
    patch.setattr(commands, "end_rollout", mistaken)


def clear_the_queue_at_the_end(patch: Patch) -> None:
    _after_the_end(patch, queue=())


def forget_the_fleets_that_leave(patch: Patch) -> None:
    _after_the_end(patch, leaving=())


def leave_strangers_alone(patch: Patch) -> None:
    patch.setattr(deciding, "_retire_strangers", lambda _draft: None)


def begin_the_next_at_once(patch: Patch) -> None:
    take = journey._take_next

    def mistaken(draft: Any) -> None:
        if draft.environment.queue:
            draft.update(rollout=None)
        take(draft)

    patch.setattr(journey, "_take_next", mistaken)


def trust_the_memory_after_a_failed_commit(patch: Patch) -> None:
    patch.setattr(Engine, "_forget", lambda *_: None)


def never_read_again_what_another_wrote(patch: Patch) -> None:
    recall = Engine._recall

    def mistaken(self: Engine, key: str) -> Memory:
        known = self._memories.get(key)
        return recall(self, key) if known is None else Memory(known.environment, judging=known.judging)

    patch.setattr(Engine, "_recall", mistaken)


def retire_without_asking_the_balancer(patch: Patch) -> None:
    patch.setattr(fleets, "_registered", lambda *_: False)


def empty_the_route_when_nothing_is_seen(patch: Patch) -> None:
    patch.setattr(deciding, "_blind", lambda *_: False)


def believe_times_that_lie_in_the_future(patch: Patch) -> None:
    patch.setattr(deciding, "in_the_present", lambda environment, _now, _boot: environment)


MUTATIONS: dict[Callable[[Patch], None], int] = {
    skip_the_read_back: 10,
    end_the_soak_at_once: 10,
    retire_stable_before_the_soak_ends: 10,
    forget_the_fencing_token: 10,
    act_without_the_token: 5,
    take_the_lease_for_granted: 100,
    act_before_recording: 5,
    treat_missing_data_as_healthy: 100,
    promote_although_harmful: 100,
    give_weight_before_the_checks_pass: 20,
    give_weight_before_all_are_healthy: 20,
    give_the_candidate_a_little_from_the_start: 10,
    ignore_stop_while_holding: 200,
    ignore_stop_while_launching: 100,
    forget_the_quarantine: 100,
    launch_without_limit: 10,
    use_an_instance_id_twice: 10,
    drop_the_drain: 20,
    end_a_stop_as_a_roll_back: 10,
    undo_without_the_settings: 50,
    route_to_instances_never_healthy: 20,
    clear_the_queue_at_the_end: 20,
    forget_the_fleets_that_leave: 50,
    leave_strangers_alone: 100,
    begin_the_next_at_once: 20,
    trust_the_memory_after_a_failed_commit: 100,
    never_read_again_what_another_wrote: 50,
    retire_without_asking_the_balancer: 900,
    empty_the_route_when_nothing_is_seen: 100,
    believe_times_that_lie_in_the_future: 900,
}
"""Each mistake, and the number of seeds within which it must be caught."""


def seeds_until_caught(limit: int, concerned: Callable[[int], bool] = lambda _seed: True) -> int | None:
    """How many seeds it takes until one of them shows a violation; None when none does.

    Args:
        concerned: which seeds can show it at all: the others need not be run.
    """
    return next((seed for seed in filter(concerned, range(1, limit + 1)) if simulate(draw(seed)).violations), None)


def sets_the_clock_forward(seed: int) -> bool:
    return any(h.what == "clock" and h.value == HOUR for h in draw(seed).happenings)


CONCERNED: dict[Callable[[Patch], None], Callable[[int], bool]] = {
    believe_a_clock_that_was_set: sets_the_clock_forward,
    **dict.fromkeys(MISTAKES_OF_JOBS, of_jobs),
    **dict.fromkeys(MISTAKES_OF_REBOOTS, has_a_reboot),
}
"""Which seeds can show a mistake at all, where few can."""


ALL = MUTATIONS | MISTAKES | MISTAKES_OF_WORKERS | MISTAKES_OF_JOBS | MISTAKES_OF_REBOOTS | MISTAKES_OF_SEEING


@pytest.mark.parametrize(
    ("mutation", "limit"),
    ALL.items(),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_in_the_engine_is_caught(monkeypatch: Patch, mutation: Callable[[Patch], None], limit: int) -> None:
    mutation(monkeypatch)
    concerned = CONCERNED.get(mutation, lambda _seed: True)
    assert seeds_until_caught(limit, concerned) is not None, f"{mutation.__name__} was not caught within {limit} seeds"
