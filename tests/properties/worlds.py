"""Every world that can be built, also absurd ones: fleets nobody knows, weights over 100 %, times before and after now,
a state remembered with parts that do not fit it, observations that miss half or show what cannot be."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.unit.rollout.world import plan

from rebake.core.clock import Boot
from rebake.judge.samples import Verdict
from rebake.platforms.model import Drift, Instance
from rebake.release.manifest import Revision, Settings
from rebake.rollout.plan import Dates, HttpCheck, Plan, Schedule, Strategy, Window
from rebake.rollout.states import State
from rebake.rollout.world import (
    Command,
    Environment,
    Failure,
    Fleet,
    Freeze,
    Job,
    Leaving,
    Mate,
    Membership,
    Place,
    Rollout,
    Run,
    World,
)
from rebake.traffic.ports import Counters, RouteObservation

any_world = settings(
    max_examples=250 * int(os.environ.get("REBAKE_EXAMPLES", "1")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""REBAKE_EXAMPLES=20 tries twenty times as many; with REBAKE_EXPLORE=1 also --hypothesis-seed counts."""

NOW = 1_800_000_000.0
FLEETS = ("r-1", "r-2", "r-3", "r-nobody-knows", "")
IDS = st.sampled_from([f"{fleet}-{n}" for fleet in FLEETS for n in (1, 2, 3)] + ["stranger-1", "stranger-2"])
TIMES = st.one_of(
    st.sampled_from((NOW, NOW - 1, NOW - 40, NOW + 5, NOW + 3600, NOW - 1e9, 0.0)),
    st.floats(NOW - 120, NOW + 120),
)
MAYBE = st.one_of(st.none(), TIMES)
SHARES = st.one_of(st.sampled_from((0, 1, 500, 9999, 10_000, 10_001, 70_000, -1)), st.integers(-20_000, 40_000))
WINDOW_SHUT = (Window(days=()),)
WINDOW_OPEN = (Window(zone="Europe/Berlin"),)
WINDOW_ABSURD = (Window((9, -1), -5, 9000, "Nowhere/Land"), Window((0, 6), 3000, 100, "UTC"))
MEMBER = Membership("g-1", "all", "lockstep", ("shop/production", "web/production"), 0)
BOOTS = st.one_of(st.none(), st.builds(Boot, st.sampled_from(("this", "that")), TIMES))
TIMES_OF = st.dictionaries(IDS, TIMES, max_size=3)


def revisions() -> st.SearchStrategy[Revision]:
    release = st.sampled_from("abc").map(lambda c: "sha256:" + c * 64)
    return release.map(lambda digest: Revision("shop", "production", digest, Settings()))


def strategies() -> st.SearchStrategy[Strategy]:
    return st.sampled_from(
        (
            Strategy("all-at-once"),
            Strategy("blue-green"),
            Strategy("canary", steps=(500, 2500), hold_ms=1000),
            Strategy("canary", profile="fast"),
            Strategy("shadow", mirror_basis_points=2000, mirror_ms=1000),
            Strategy("canary", steps=(2500,), hold_ms=1000, mirror_basis_points=2000, mirror_ms=1000),
        )
    )


SCHEDULES = (
    Schedule(every_ms=1000, timeout_ms=3000),
    Schedule(every_ms=7000, overlap="allow", missed="skip"),
    Schedule(cron="* * * * *", zone="Europe/Berlin"),
)


def _run_by_a_schedule(made: Plan, schedule: Schedule | None) -> Plan:
    return made if made.routed else replace(made, schedule=schedule)


def plans() -> st.SearchStrategy[Plan]:
    return st.builds(_run_by_a_schedule, _plans(), st.sampled_from((None, *SCHEDULES)))


def _plans() -> st.SearchStrategy[Plan]:
    return st.builds(
        plan,
        listen=st.sampled_from(("127.0.0.1:8080", "127.0.0.1:8080", "")),
        strategy=strategies(),
        instances=st.integers(1, 3),
        checks=st.sampled_from(((), (HttpCheck("smoke", "/"),))),
        undecided=st.sampled_from(("hold-on", "promote", "roll-back")),
        undecided_limit_ms=st.sampled_from((0, 1000)),
        soak_ms=st.sampled_from((0, 5000)),
        hold_back_basis_points=st.sampled_from((0, 2000)),
        when_busy=st.sampled_from(("supersede", "wait")),
        after=st.sampled_from((None, "staging")),
        approval=st.booleans(),
        window=st.sampled_from(((), (), WINDOW_SHUT, WINDOW_OPEN, WINDOW_ABSURD)),
        freeze=st.sampled_from(((), (), (Dates(NOW - 5, NOW + 5, "feast"),), (Dates(NOW + 5, NOW - 5, "absurd"),))),
    )


def fleets() -> st.SearchStrategy[Fleet]:
    return st.builds(
        Fleet,
        id=st.sampled_from(FLEETS),
        revision=revisions(),
        plan=plans(),
        next=st.integers(-1, 4),
        failures=st.lists(st.builds(Failure, IDS, TIMES, st.just("exit 1"), st.booleans()), max_size=4).map(tuple),
        good_at=TIMES,
        leaving=TIMES_OF,
        sick=TIMES_OF,
        pending=TIMES_OF,
        starting=TIMES_OF,
    )


def runs() -> st.SearchStrategy[Run]:
    fleet = st.shared(st.sampled_from(FLEETS), key="run")
    return st.builds(
        Run,
        instance=st.builds(lambda name, number: f"{name}-{number}", fleet, st.integers(90, 99)),
        slot=TIMES,
        fleet=fleet,
        rollout=st.sampled_from((None, *FLEETS)),
        share=SHARES,
        began=TIMES,
        seen=st.booleans(),
        missing=MAYBE,
        ended=MAYBE,
        outcome=st.sampled_from((None, "done", "failed", "cut", "unknown")),
    )


def rollouts() -> st.SearchStrategy[Rollout]:
    return st.builds(
        Rollout,
        id=st.sampled_from(FLEETS),
        kind=st.sampled_from(("deploy", "undo")),
        revision=revisions(),
        plan=plans(),
        requested_by=st.just("ann"),
        requested_at=TIMES,
        state=st.sampled_from(State),
        entered_at=TIMES,
        weight=SHARES,
        step=st.integers(-3, 9),
        step_at=MAYBE,
        users_at=MAYBE,
        ramped_at=MAYBE,
        ending=st.sampled_from((None, State.STOPPED, State.ROLLED_BACK, State.FAILED)),
        asking=st.sampled_from((None, "approval", "undecided")),
        promoted_at=MAYBE,
        held=st.sampled_from((None, "frozen")),
        held_until=MAYBE,
        let_through=st.sampled_from((None, "ann")),
        let_through_at=MAYBE,
        group=st.sampled_from((None, None, MEMBER, replace(MEMBER, order="ordered", me=7))),
        mark=st.sampled_from((-1, 0, 1, 1000, 1001, 1002, 1003, 10**9)),
        agreed=st.booleans(),
        hurried=st.booleans(),
    )


def environments() -> st.SearchStrategy[Environment]:
    """Two fleets never have one name: an instance belongs to one of them. Anything else may be remembered."""
    fleet = st.one_of(st.none(), fleets())
    drawn = st.builds(
        Environment,
        service=st.just("shop"),
        environment=st.just("production"),
        stable=fleet,
        candidate=fleet,
        rollout=st.one_of(st.none(), rollouts()),
        queue=st.lists(rollouts(), max_size=2).map(tuple),
        previous=st.lists(fleets(), max_size=2).map(tuple),
        leaving=st.lists(st.builds(Leaving, fleets(), st.just("gone"), MAYBE), max_size=2).map(tuple),
        stable_lost_at=MAYBE,
        candidate_lost_at=MAYBE,
        fell_at=MAYBE,
        down=st.booleans(),
        place=st.sampled_from((None, Place("home", "machine", "/home"))),
        boot=BOOTS,
        slot=MAYBE,
        runs=st.lists(runs(), max_size=3, unique_by=lambda run: run.instance).map(tuple),
    )
    return drawn.map(_told_apart)


def _told_apart(environment: Environment) -> Environment:
    """Fleets are named after the rollouts that raised them: no two alike, and none after one that is still to come."""
    stable, candidate, rollout = environment.stable, environment.candidate, environment.rollout
    if rollout is not None and rollout.id == "r-1":
        environment = replace(environment, rollout=replace(rollout, id="r-2"))
    if stable is not None:
        environment = replace(environment, stable=replace(stable, id="r-1"))
    if candidate is not None:
        environment = replace(environment, candidate=replace(candidate, id="r-2"))
    gone = tuple(replace(g, fleet=replace(g.fleet, id=f"r-{n}")) for n, g in enumerate(environment.leaving, 3))
    queue = tuple(replace(waiting, id=f"r-{n}") for n, waiting in enumerate(environment.queue, 3 + len(gone)))
    return replace(environment, leaving=gone, queue=queue)


def instances() -> st.SearchStrategy[Instance]:
    return st.builds(
        Instance,
        id=IDS,
        fleet=st.sampled_from(FLEETS),
        revision=st.just("sha256:" + "f" * 64),
        state=st.sampled_from(("starting", "running", "stopping", "exited")),
        address=st.sampled_from((None, "127.0.0.1:9000")),
        healthy=st.sampled_from((None, True, False)),
        was_healthy=st.booleans(),
        started_at=TIMES,
        drift=st.sampled_from(((), (Drift("file-changed", "app/main.py"),))),
    )


def routes() -> st.SearchStrategy[RouteObservation]:
    known = st.dictionaries(st.sampled_from(FLEETS), st.frozensets(IDS, max_size=3), max_size=3)
    counted = st.builds(Counters, st.integers(-5, 1000), st.integers(-5, 2000))
    return st.builds(
        RouteObservation,
        version=st.sampled_from((None, "sha256:" + "0" * 64)),
        weights=st.dictionaries(st.sampled_from(FLEETS), SHARES, max_size=3),
        healthy=known,
        unhealthy=known,
        active=st.dictionaries(st.sampled_from(FLEETS), st.integers(-1, 3), max_size=2),
        counters=st.dictionaries(st.sampled_from(FLEETS), counted, max_size=2),
        listening=st.booleans(),
    )


def verdicts() -> st.SearchStrategy[Verdict]:
    return st.builds(
        Verdict,
        kind=st.sampled_from(("healthy", "harmful", "undecided")),
        evidence=st.floats(0, 1000),
        needed=st.just(100.0),
        brake=st.booleans(),
        reason=st.just("numbers"),
        stable=st.tuples(st.integers(0, 100), st.integers(0, 10)),
        candidate=st.tuples(st.integers(0, 100), st.integers(0, 10)),
    )


def commands() -> st.SearchStrategy[Command]:
    return st.builds(
        Command,
        id=st.sampled_from(("c-1", "c-2", "c-3")),
        verb=st.sampled_from(("begin", "stop", "undo", "approve", "down", "resize")),
        by=st.just("ann"),
        at=TIMES,
        rollout=st.one_of(st.none(), rollouts().map(lambda r: replace(r, state=State.WAITING, weight=0, step=-1))),
        rollout_id=st.sampled_from((None, "r-4")),
        plan=st.one_of(st.none(), plans()),
    )


def mates() -> st.SearchStrategy[Mate]:
    marks = st.sampled_from((-5, -1, 0, 1, 1000, 1001, 1002, 1003))
    return st.builds(Mate, st.integers(-1, 9), marks, st.sampled_from((None, None, "harmful")))


def worlds(most_commands: int = 3) -> st.SearchStrategy[World]:
    jobs = st.dictionaries(
        st.sampled_from([f"{kind}:{fleet}{name}" for fleet in FLEETS for kind, name in JOBS]),
        st.builds(Job, st.sampled_from(("running", "done", "failed")), st.just("detail")),
        max_size=3,
    )
    blocked = st.dictionaries(st.sampled_from(("launch:r-2-1", "route:x")), st.just(("no", None)), max_size=1)
    return st.builds(
        World,
        instances=st.lists(instances(), max_size=6, unique_by=lambda i: i.id).map(tuple),
        route=st.one_of(st.none(), routes()),
        unheard=st.sampled_from(["", "nobody answers"]),
        unseen=st.sampled_from(["", "nobody answers"]),
        jobs=jobs,
        blocked=blocked,
        boot=BOOTS,
        quarantined=st.sampled_from((frozenset(), frozenset({Revision("shop", "production", A).digest}))),
        succeeded=st.sampled_from((frozenset(), frozenset({f"staging/{A}"}))),
        verdict=st.one_of(st.none(), verdicts()),
        requests_per_second=st.sampled_from((0.0, 3.0, 1e9)),
        commands=st.lists(commands(), max_size=most_commands).map(tuple),
        looked_away=st.booleans(),
        mates=st.lists(mates(), max_size=2).map(tuple),
        freezes=st.lists(
            st.builds(Freeze, st.sampled_from(("*", "shop/production")), st.just("ann"), TIMES, TIMES, st.just("calm")),
            max_size=2,
        ).map(tuple),
    )


A = "sha256:" + "a" * 64
JOBS = (("prepare", ""), ("check", ":smoke"))
