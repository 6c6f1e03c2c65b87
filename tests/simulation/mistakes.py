"""Further mistakes to put into the engine, one promise after the other; `test_mutations` counts the seeds to each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rebake.core.units import FULL
from rebake.judge.custom import CustomMetrics
from rebake.rollout import commands, events, fleets, gates, journey, present, route, writing
from rebake.rollout import decide as deciding
from rebake.rollout import draft as drafts
from rebake.rollout import engine as driving
from rebake.rollout.acting import Actor
from rebake.rollout.actions import Retire
from rebake.rollout.engine import Engine
from rebake.rollout.judging import Judging
from rebake.rollout.memory import Attempt
from rebake.rollout.observing import Observer
from rebake.rollout.states import IGNORED, TABLE, Cell, Event, State
from rebake.traffic import ramp

Patch = pytest.MonkeyPatch


def _rules(patch: Patch, state: State, *left_out: Any, **instead: Any) -> None:
    """Leave rules of a state out, or put others in their place, by name."""
    kept = [instead.get(rule.__name__, rule) for rule in events.RULES[state] if rule not in left_out]
    patch.setattr(events, "RULES", {**events.RULES, state: tuple(kept)})


def _cells(patch: Patch, cells: Mapping[tuple[State, Event], Cell]) -> None:
    changed = {**TABLE, **cells}
    for room in (journey, commands):
        patch.setattr(room, "TABLE", changed)


def _end(patch: Patch, mistaken: Callable[[Any, Any], None]) -> None:
    for room in (journey, commands):
        patch.setattr(room, "end_rollout", mistaken)


# Undo


def lose_what_an_undo_goes_back_to(patch: Patch) -> None:
    end = journey.end_rollout

    def mistaken(draft: Any, rollout: Any) -> None:
        end(draft, rollout)
        draft.update(previous=())

    _end(patch, mistaken)


def ignore_an_undo_in_the_soak(patch: Patch) -> None:
    _cells(patch, {(State.SOAKING, Event.UNDO): IGNORED})


def undo_to_a_revision_in_quarantine(patch: Patch) -> None:
    target = commands.undo_target
    patch.setattr(commands, "undo_target", lambda environment, _quarantined: target(environment, frozenset()))


def undo_to_the_oldest_revision(patch: Patch) -> None:
    target = commands.undo_target

    def mistaken(environment: Any, quarantined: Any) -> Any:
        return target(replace(environment, previous=environment.previous[::-1]), quarantined)

    patch.setattr(commands, "undo_target", mistaken)


def undo_by_way_of_gates_and_checks(patch: Patch) -> None:
    patch.setattr(commands, "undo_plan", lambda plan: plan)


def keep_the_undone_out_of_quarantine(patch: Patch) -> None:
    put = drafts.Draft.put_in_quarantine

    def mistaken(self: Any, revision: str, reason: str) -> None:
        if not reason.startswith("undone"):
            put(self, revision, reason)

    patch.setattr(drafts.Draft, "put_in_quarantine", mistaken)


# Stop, supersede, down, resize


def stop_into_quarantine(patch: Patch) -> None:
    def mistaken(draft: Any, _left: Any, rollout: Any) -> None:
        draft.update(rollout=replace(rollout, weight=0))
        draft.put_in_quarantine(rollout.revision.digest, rollout.reason)

    patch.setattr(journey, "_turn_back", mistaken)


def stop_and_leave_the_queue(patch: Patch) -> None:
    def mistaken(draft: Any, command: Any) -> None:
        if draft.environment.rollout is not None:
            commands._ask_rollout(draft, command, Event.STOP, "stopped")

    patch.setattr(commands, "_stop", mistaken)


def supersede_although_the_file_says_wait(patch: Patch) -> None:
    begin = commands._begin
    patch.setattr(
        commands, "_begin", lambda draft, r: begin(draft, replace(r, plan=replace(r.plan, when_busy="supersede")))
    )


def the_latest_request_first(patch: Patch) -> None:
    take = journey._take_next

    def mistaken(draft: Any) -> None:
        if draft.environment.rollout is None:
            draft.update(queue=draft.environment.queue[::-1])
        take(draft)

    patch.setattr(journey, "_take_next", mistaken)


def refuse_without_a_word(patch: Patch) -> None:
    puts = writing.puts_of

    def mistaken(ledger: Any, memory: Any, world: Any, decision: Any, now: float) -> Any:
        return puts(ledger, memory, world, replace(decision, refused={}), now)

    patch.setattr(driving, "puts_of", mistaken)


def take_down_and_keep_the_rest(patch: Patch) -> None:
    down = commands._down

    def mistaken(draft: Any, command: Any) -> None:
        stable = draft.environment.stable
        down(draft, command)
        draft.update(stable=stable)

    patch.setattr(commands, "_down", mistaken)


def forget_a_change_of_size(patch: Patch) -> None:
    patch.setattr(commands, "_resize", lambda *_: None)


# Gates and holds


def ignore_the_gate(patch: Patch) -> None:
    _rules(patch, State.WAITING, events._gate_shut)


def skip_the_approval(patch: Patch) -> None:
    passed = events._checks_passed

    def mistaken(look: events.Look) -> events.Seen | None:
        plan = replace(look.rollout.plan, approval=False)
        return passed(replace(look, rollout=replace(look.rollout, plan=plan)))

    _rules(patch, State.CHECKING, _checks_passed=mistaken)


def skip_the_hold(patch: Patch) -> None:
    hold = events._hold

    def mistaken(look: events.Look) -> events.Seen | None:
        return events.Seen(Event.STEP_OVER, "proved") if events._proved(look) else hold(look)

    _rules(patch, State.HOLDING, _hold=mistaken)


def leave_a_step_out(patch: Patch) -> None:
    step = journey._next_step

    def mistaken(draft: Any, rollout: Any, event: Event) -> Any:
        return step(draft, replace(rollout, step=rollout.step + 1), event)

    patch.setattr(journey, "_next_step", mistaken)


def hold_nothing_back(patch: Patch) -> None:
    step = journey._next_step

    def mistaken(draft: Any, rollout: Any, event: Event) -> Any:
        return step(draft, replace(rollout, plan=replace(rollout.plan, hold_back_basis_points=0)), event)

    patch.setattr(journey, "_next_step", mistaken)


def promote_what_stays_undecided(patch: Patch) -> None:
    undecided = events._undecided

    def mistaken(look: events.Look, waited_ms: float, hold_ms: int) -> events.Seen | None:
        plan = replace(look.rollout.plan, undecided="promote")
        return undecided(replace(look, rollout=replace(look.rollout, plan=plan)), waited_ms, hold_ms)

    patch.setattr(events, "_undecided", mistaken)


def mirror_nothing(patch: Patch) -> None:
    patch.setattr(route, "mirror_of", lambda _environment: None)


# Harm, and a broken stable


def a_broken_stable_blocks_its_fix(patch: Patch) -> None:
    patch.setattr(events, "stable_broken", lambda _look: False)
    patch.setattr(journey, "stable_broken", lambda _look: False)
    for state in events.RULES:
        _rules(patch, state, events._stable_broken)


def leave_a_dead_stable_dead_during_a_rollout(patch: Patch) -> None:
    keep = deciding._keep_fleets

    def mistaken(draft: Any) -> None:
        stable = draft.environment.stable
        if draft.environment.rollout is None or stable is None:
            keep(draft)
            return
        draft.update(stable=None)
        keep(draft)
        draft.update(stable=stable)

    patch.setattr(deciding, "_keep_fleets", mistaken)


def overlook_a_lost_candidate(patch: Patch) -> None:
    for state in events.RULES:
        _rules(patch, state, events._candidate_lost)


def call_every_candidate_harmful(patch: Patch) -> None:
    distrust = Judging._distrust

    def mistaken(self: Judging, rollout: Any) -> None:
        distrust(self, rollout)
        self.verdict = self.verdict and replace(self.verdict, kind="harmful")

    patch.setattr(Judging, "_distrust", mistaken)


def ignore_the_services_own_metrics(patch: Patch, *, but: Callable[[Any], bool] = lambda _plan: False) -> None:
    """`but`: plans whose metrics are heard all the same."""
    beginning, custom = Judging._beginning, Judging._custom

    def begun(self: Judging, *parts: Any, **named: Any) -> Any:
        made = beginning(self, *parts, **named)
        return made if but(self._plan) else replace(made, metrics=())

    patch.setattr(Judging, "_beginning", begun)
    patch.setattr(Judging, "_custom", lambda self: custom(self) if but(self._plan) else CustomMetrics(()))


def read_no_metric(patch: Patch) -> None:
    patch.setattr(Observer, "_readings", lambda *_: [])


def look_again_at_once(patch: Patch) -> None:
    tick = Engine.tick

    def mistaken(self: Engine, key: str, asked: bool = True) -> float:
        tick(self, key, asked)
        return self.ports.clock.now()

    patch.setattr(Engine, "tick", mistaken)


def begin_the_ramp_at_half(patch: Patch) -> None:
    patch.setattr(journey, "begin", lambda rate: (ramp.begin(rate)[0], FULL // 2))


def ramp_without_a_cap(patch: Patch) -> None:
    patch.setattr(ramp, "cap_at", lambda *_: 1.0)
    patch.setattr(ramp, "GROWTH_SECONDS", 0.1)


# The engine, its fleets and its ledger


def write_no_outcome(patch: Patch) -> None:
    def mistaken(self: Actor, memory: Any, actions: Any) -> bool:
        for action in actions:
            attempt, now = memory.attempts.get(action.id), self.ports.clock.now()
            if attempt is None or now >= attempt.next_at:
                self._fence(memory, now)
                self._try(memory, action)
                memory.attempts[action.id] = Attempt(now, now + 1, None)
        return False

    patch.setattr(Actor, "act", mistaken)


def call_every_effect_done(patch: Patch) -> None:
    outcome = Actor._outcome
    patch.setattr(Actor, "_outcome", lambda self, memory, action, _error: outcome(self, memory, action, None))


def sleep_through_the_soak(patch: Patch) -> None:
    look = deciding.decide

    def mistaken(environment: Any, world: Any, now: float) -> Any:
        decision = look(environment, world, now)
        rollout = decision.environment.rollout
        soaks = rollout is not None and rollout.state is State.SOAKING
        return replace(decision, wake_at=float("inf")) if soaks else decision

    patch.setattr(driving, "decide", mistaken)


def keep_requests_that_were_decided_on(patch: Patch) -> None:
    puts = writing.puts_of

    def mistaken(ledger: Any, memory: Any, world: Any, decision: Any, now: float) -> Any:
        return [put for put in puts(ledger, memory, world, decision, now) if put.kind != "command"]

    patch.setattr(driving, "puts_of", mistaken)


def count_no_success(patch: Patch) -> None:
    puts = writing.puts_of

    def mistaken(ledger: Any, memory: Any, world: Any, decision: Any, now: float) -> Any:
        return puts(ledger, memory, world, replace(decision, succeeded=()), now)

    patch.setattr(driving, "puts_of", mistaken)


def ask_for_one_instance_too_few(patch: Patch) -> None:
    keep = deciding._keep
    patch.setattr(deciding, "_keep", lambda draft, fleet, wanted: keep(draft, fleet, max(1, wanted - 1)))


def cut_the_last_requests_off(patch: Patch) -> None:
    def at_once(actions: Any) -> Any:
        return [replace(a, grace_ms=0) if isinstance(a, Retire) else a for a in actions]

    settle = deciding._settle_leaving

    def mistaken(draft: Any) -> None:
        settle(draft)
        draft.actions[:] = at_once(draft.actions)

    patch.setattr(deciding, "_settle_leaving", mistaken)


def leave_drift_alone(patch: Patch) -> None:
    patch.setattr(fleets, "_note_drift", lambda fleet, _members: fleets.Kept(fleet))
    keep = fleets.keep

    def mistaken(fleet: Any, world: Any, now: float, wanted: int) -> Any:
        blind = tuple(replace(i, drift=()) for i in world.instances)
        return keep(fleet, replace(world, instances=blind), now, wanted)

    patch.setattr(deciding, "keep", mistaken)


def retire_strangers_without_a_word(patch: Patch) -> None:
    note = drafts.Draft.note

    def mistaken(self: Any, kind: str, body: Any, rollout: Any = None) -> None:
        if kind != "drift":
            note(self, kind, body, rollout)

    patch.setattr(drafts.Draft, "note", mistaken)


def leave_a_route_that_somebody_changed(patch: Patch) -> None:
    settle = deciding._settle_route

    def mistaken(draft: Any) -> None:
        seen = draft.world.route
        shares = {f: w for f, w in seen.weights.items() if w} if seen is not None else {}
        wanted = {f: w for f, w in route.weights(draft.environment).items() if w}
        if not shares or shares != wanted:
            settle(draft)

    patch.setattr(deciding, "_settle_route", mistaken)


def give_up_after_one_failure(patch: Patch) -> None:
    patch.setattr(fleets, "GIVE_UP_AFTER", 1)


def restart_without_a_pause(patch: Patch) -> None:
    patch.setattr(fleets, "backoff_seconds", lambda _failures: 0.0)
    patch.setattr(fleets, "GIVE_UP_AFTER", 10**6)


def skip_the_preparation(patch: Patch) -> None:
    _rules(patch, State.PREPARING, _prepared=lambda _look: events.Seen(Event.PREPARED, "ready"))
    patch.setattr(deciding, "Prepare", lambda *_: Retire("retire:nobody", "nobody", 0, "nothing"))


def give_stable_nothing_on_the_way_back(patch: Patch) -> None:
    shares = route.weights

    def mistaken(environment: Any) -> dict[str, int]:
        rollout, candidate = environment.rollout, environment.candidate
        if rollout is None or candidate is None or rollout.state is not State.RETURNING or environment.stable is None:
            return shares(environment)
        return {environment.stable.id: FULL - 1, candidate.id: 1}

    for room in (route, deciding):
        patch.setattr(room, "weights", mistaken)


def ignore_windows(patch: Patch) -> None:
    patch.setattr(gates, "is_open", lambda _windows, _now: True)


def ignore_freezes(patch: Patch) -> None:
    patch.setattr(gates, "_frozen", lambda _plan, _freezes, _now: None)


def hold_before_the_first_user_only(patch: Patch) -> None:
    _rules(patch, State.HOLDING, _hold=events._hold.__wrapped__)  # type: ignore[attr-defined]
    patch.setattr(journey, "shut", lambda _look: None)


def take_every_later_look_for_a_quiet_one(patch: Patch) -> None:
    patch.setattr(driving, "alike", lambda _before, world: not world.commands)


def take_a_freeze_in_a_second_late(patch: Patch) -> None:
    patch.setattr(Engine, "_decide", lambda _self, memory, world, now: deciding.decide(memory.environment, world, now))


def wait_for_a_clock_that_was_set_back(patch: Patch) -> None:
    patch.setattr(deciding, "in_the_present", lambda environment, _now, _boot: environment)


def believe_a_clock_that_was_set(patch: Patch) -> None:
    patch.setattr(present, "set_between", lambda _then, _now: 0.0)


MISTAKES: dict[Callable[[Patch], None], int] = {
    take_every_later_look_for_a_quiet_one: 400,
    take_a_freeze_in_a_second_late: 2000,
    lose_what_an_undo_goes_back_to: 20,
    ignore_an_undo_in_the_soak: 500,
    undo_to_a_revision_in_quarantine: 800,
    undo_to_the_oldest_revision: 20,
    undo_by_way_of_gates_and_checks: 20,
    keep_the_undone_out_of_quarantine: 20,
    stop_into_quarantine: 20,
    stop_and_leave_the_queue: 50,
    supersede_although_the_file_says_wait: 20,
    the_latest_request_first: 20,
    refuse_without_a_word: 20,
    take_down_and_keep_the_rest: 200,
    forget_a_change_of_size: 20,
    ignore_the_gate: 20,
    skip_the_approval: 50,
    skip_the_hold: 20,
    leave_a_step_out: 20,
    hold_nothing_back: 20,
    promote_what_stays_undecided: 20,
    mirror_nothing: 20,
    a_broken_stable_blocks_its_fix: 900,
    leave_a_dead_stable_dead_during_a_rollout: 100,
    overlook_a_lost_candidate: 250,
    call_every_candidate_harmful: 20,
    ignore_the_services_own_metrics: 100,
    read_no_metric: 20,
    look_again_at_once: 20,
    begin_the_ramp_at_half: 50,
    ramp_without_a_cap: 200,
    write_no_outcome: 20,
    call_every_effect_done: 20,
    sleep_through_the_soak: 20,
    keep_requests_that_were_decided_on: 20,
    count_no_success: 20,
    ask_for_one_instance_too_few: 20,
    cut_the_last_requests_off: 20,
    leave_drift_alone: 400,
    retire_strangers_without_a_word: 100,
    leave_a_route_that_somebody_changed: 20,
    give_up_after_one_failure: 20,
    restart_without_a_pause: 20,
    skip_the_preparation: 20,
    give_stable_nothing_on_the_way_back: 20,
    wait_for_a_clock_that_was_set_back: 900,
    believe_a_clock_that_was_set: 900,
    ignore_windows: 50,
    ignore_freezes: 50,
    hold_before_the_first_user_only: 300,
}
"""Each mistake, and the number of seeds within which it must be caught."""
