"""`decide` is total: it never raises and never breaks a promise, whatever it is shown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from rebake.core.units import FULL
from rebake.rollout import fleets
from rebake.rollout.actions import ApplyRoute, Decision, Launch, Retire
from rebake.rollout.decide import decide
from rebake.rollout.route import weights
from rebake.rollout.states import FINAL, TABLE, Event, State
from rebake.rollout.world import Command, Environment, World

from .worlds import NOW, TIMES, any_world, environments, worlds

WITH_USERS = frozenset({State.SHIFTING, State.HOLDING, State.ASKING, State.SOAKING, State.FINISHING})
UNCHECKED = frozenset({State.WAITING, State.PREPARING, State.LAUNCHING, State.CHECKING})


def _keeps_every_promise(before: Environment, world: World, decision: Decision, now: float) -> None:
    _shares_are_shares(decision)
    _only_the_healthy_meet_users(world, decision)
    _no_user_before_the_checks(before, world, decision)
    _no_work_before_the_checks(decision)
    _stable_stays(before, world, decision)
    _instances_are_kept_in_bounds(before, world, decision)
    assert not math.isnan(decision.wake_at)
    assert decision.environment.rollout is None or decision.environment.rollout.state not in FINAL


def _shares_are_shares(decision: Decision) -> None:
    shares = weights(decision.environment)
    assert all(0 <= share <= FULL for share in shares.values())
    stable = decision.environment.stable
    assert stable is None or not stable.plan.routed or sum(shares.values()) == FULL
    for action in decision.actions:
        if isinstance(action, ApplyRoute):
            given_out = [f.weight_basis_points for f in action.route.fleets]
            assert all(share >= 0 for share in given_out)
            assert sum(given_out) in (0, FULL)


def _only_the_healthy_meet_users(world: World, decision: Decision) -> None:
    proved = {i.id for i in world.instances if i.was_healthy and i.state == "running"}
    for action in decision.actions:
        if isinstance(action, ApplyRoute):
            assert {e.instance for f in action.route.fleets for e in f.endpoints} <= proved


def _no_user_before_the_checks(before: Environment, world: World, decision: Decision) -> None:
    """Promise 3: users come only to a candidate that stood before the last door with every check passed."""
    after, rollout = decision.environment, decision.environment.rollout
    if rollout is None or after.candidate is None:
        return
    share = weights(after).get(after.candidate.id, 0)
    assert not share or rollout.state in WITH_USERS
    begun = before.rollout
    if share and begun is not None and begun.id == rollout.id and begun.state in UNCHECKED:
        assert begun.state is not State.WAITING
        for check in rollout.plan.checks:
            job = world.jobs.get(f"check:{rollout.id}:{check.name}")
            assert job is not None
            assert job.state == "done"


def _no_work_before_the_checks(decision: Decision) -> None:
    """Promise 3 without a route: who runs, works, so nothing of the candidate is raised before the last door."""
    candidate, rollout = decision.environment.candidate, decision.environment.rollout
    if candidate is None or rollout is None or rollout.plan.routed or rollout.state in WITH_USERS:
        return
    launched = [a.spec.fleet for a in decision.actions if isinstance(a, Launch)]
    assert candidate.id not in launched


def _stable_stays(before: Environment, world: World, decision: Decision) -> None:
    """Promise 4: stable leaves its place only when its successor was promoted, or a person takes all down."""
    if before.stable is None or any(c.verb == "down" for c in world.commands):
        return
    assert decision.environment.stable is not None
    if decision.environment.stable.id != before.stable.id:
        assert any(ended.state is State.PROMOTED for ended in decision.ended)


def _instances_are_kept_in_bounds(before: Environment, world: World, decision: Decision) -> None:
    launched = [a.spec for a in decision.actions if isinstance(a, Launch)]
    assert world.instances_known or not launched
    after = decision.environment
    wanted = {f.id: max(f.plan.instances, 3) for f in (after.stable, after.candidate) if f is not None}
    for fleet in {spec.fleet for spec in launched}:
        assert sum(spec.fleet == fleet for spec in launched) <= wanted[fleet]
    ids = [spec.id for spec in launched]
    assert len(set(ids)) == len(ids)
    shown = {i.id for i in world.instances}
    assert {a.instance for a in decision.actions if isinstance(a, Retire)} <= shown


@given(environments(), worlds(), st.lists(TIMES, min_size=1, max_size=3))
@any_world
def test_it_never_raises_and_keeps_every_promise(environment: Environment, world: World, times: list[float]) -> None:
    """Also where time goes backwards between two looks, and where a look misses half."""
    for now in (NOW, *times):
        decision = decide(environment, world, now)
        _keeps_every_promise(environment, world, decision, now)
        environment = decision.environment
        seen = world.instances[::2] if len(world.instances) > 1 else world.instances
        world = replace(world, commands=(), instances=seen)
        event(f"rollout {environment.rollout.state if environment.rollout else None}")


@given(environments(), worlds(0))
@any_world
def test_a_stop_is_obeyed_or_refused_aloud(environment: Environment, world: World) -> None:
    """Promise 7, from every state, also in a world that makes no sense."""
    rollout = environment.rollout
    command = Command("c-9", "stop", "ann", NOW)
    decision = decide(environment, replace(world, commands=(command,)), NOW)
    assert not decision.environment.queue
    if rollout is None or "c-9" in decision.refused:
        assert rollout is None or TABLE[rollout.state, Event.STOP].refused
        return
    after = decision.environment.rollout
    assert after is None or after.state is State.RETURNING


@given(environments(), worlds(0))
@any_world
def test_looking_twice_asks_for_nothing_twice(environment: Environment, world: World) -> None:
    """The same look at what was decided launches no instance again, but for a job's run that nobody has seen yet: it is
    asked for by the same name, which starts it once."""
    first = decide(environment, world, NOW)
    second = decide(first.environment, world, NOW)
    ids = [{a.spec.id for a in d.actions if isinstance(a, Launch)} for d in (first, second)]
    assert ids[0] & ids[1] <= {run.instance for run in second.environment.runs if run.ended is None and not run.seen}


@given(environments(), worlds(), TIMES)
@any_world
def test_a_fleet_that_is_told_well_at_once_is_what_the_long_look_finds(
    environment: Environment, world: World, now: float
) -> None:
    short = decide(environment, world, now)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fleets, "all_is_well", lambda *_: False)
        assert decide(environment, world, now) == short
