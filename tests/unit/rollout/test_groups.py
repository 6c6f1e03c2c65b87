"""Release groups under one engine: two services that are deployed together, go on together, and go back together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from rebake.core.codec import dump
from rebake.ledger.ports import Put
from rebake.release.manifest import Revision, Settings
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.states import State
from rebake.rollout.world import Command, Environment, Membership, Rollout
from rebake.testing.simulated import (
    InlineJobs,
    ManualClock,
    MemoryLedger,
    SimulatedPlatform,
    SimulatedRouter,
    simulated_release,
)
from tests.unit.rollout.world import plan

A, B, C = ("sha256:" + c * 64 for c in "abc")
STEPS = Strategy("canary", steps=(500, 2500), hold_ms=5000)
SERVICES = ("api", "web")


class Pair:
    """Two services, each with an engine of its own over one ledger."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.platform = SimulatedPlatform(self.clock)
        self.router = SimulatedRouter(self.platform)
        self.ledger = MemoryLedger()
        self.number = 0
        self.engines = {service: self.start(service) for service in SERVICES}
        for service in SERVICES:
            empty = Put("environment", f"{service}/production", dump(Environment(service, "production")))
            self.ledger.commit([], [empty], at=self.clock.now())

    def start(self, service: str) -> Engine:
        ports = Ports(
            self.ledger,
            {"simulated": self.platform},
            {"simulated": self.router},
            InlineJobs(),
            self.clock,
            simulated_release,
            service,
        )
        return Engine(ports)

    def plan(self, service: str, **changes: Any) -> Plan:
        return replace(plan(**changes), service=service, listen=f"127.0.0.1:808{SERVICES.index(service)}")

    def rollout(self, service: str, release: str, **changes: Any) -> Rollout:
        self.number += 1
        revision = Revision(service, "production", release, Settings({}))
        now = self.clock.now()
        return Rollout(f"r-{self.number}", "deploy", revision, self.plan(service, **changes), "ann", now)

    def ask(self, service: str, verb: Any, **parts: Any) -> Put:
        self.number += 1
        command = Command(f"c-{self.number}", verb, "ann", self.clock.now(), **parts)
        return Put("command", f"{service}/production/{command.id}", dump(command))

    def person(self, service: str, verb: Any, **parts: Any) -> None:
        self.ledger.commit([], [self.ask(service, verb, **parts)], at=self.clock.now())

    def together(self, order: Literal["lockstep", "ordered"], **changes: dict[str, Any]) -> dict[str, str]:
        """Deploy release B of one and C of the other; the ids of their rollouts."""
        names = tuple(f"{service}/production" for service in SERVICES)
        releases = dict(zip(SERVICES, (B, C), strict=True))
        rollouts = {s: self.rollout(s, releases[s], **changes.get(s, {})) for s in SERVICES}
        rollouts = {
            s: replace(r, group=Membership("g-1", "shop", order, names, n)) for n, (s, r) in enumerate(rollouts.items())
        }
        puts = [self.ask(s, "begin", rollout=r) for s, r in rollouts.items()]
        self.ledger.commit([], puts, at=self.clock.now())
        return {s: r.id for s, r in rollouts.items()}

    def serving(self, release: str) -> None:
        for service in SERVICES:
            self.person(service, "begin", rollout=self.rollout(service, release))
        self.until(lambda: all(self.stable(s) == release and self.state(s) is None for s in SERVICES))

    def environment(self, service: str) -> Environment:
        return self.engines[service].memory(f"{service}/production").environment

    def stable(self, service: str) -> str | None:
        fleet = self.environment(service).stable
        return None if fleet is None else fleet.revision.release

    def state(self, service: str) -> State | None:
        rollout = self.environment(service).rollout
        return None if rollout is None else rollout.state

    def share(self, service: str) -> int:
        rollout = self.environment(service).rollout
        return rollout.weight if rollout is not None else 0

    def ended(self, ids: dict[str, str], service: str) -> str | None:
        doc = self.ledger.get("rollout", f"{service}/production/{ids[service]}")
        return str(doc["outcome"]) if doc is not None and doc["ended"] else None

    def tick(self, seconds: float = 0.2) -> None:
        for service, engine in self.engines.items():
            engine.tick(f"{service}/production")
        self.clock.advance(seconds)
        for service in SERVICES:
            self.router.serve(service, "production", round(100 * seconds))

    def until(self, condition: Callable[[], bool], seconds: float = 200.0) -> None:
        end = self.clock.now() + seconds
        while not condition():
            states = [(s, self.state(s), self.environment(s).rollout) for s in SERVICES]
            assert self.clock.now() < end, f"still {states}"
            self.tick()


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.serving(A)
    return pair


def test_in_lockstep_no_member_gives_users_a_step_before_all_are_ready_for_it(pair: Pair) -> None:
    pair.platform.behaviour(B).start_seconds = 1.0
    slow = replace(STEPS, hold_ms=20_000)
    ids = pair.together("lockstep", api={"strategy": STEPS, "soak_ms": 1000}, web={"strategy": slow, "soak_ms": 1000})
    shares: list[tuple[int, int]] = []

    def watched() -> bool:
        shares.append((pair.share("api"), pair.share("web")))
        return all(pair.ended(ids, s) for s in SERVICES)

    pair.until(watched)
    assert [pair.ended(ids, s) for s in SERVICES] == ["promoted", "promoted"]
    assert {(500, 500), (2500, 2500)} <= set(shares)
    assert not [pair for pair in shares if set(pair) in ({500, 10_000}, {0, 2500}, {2500 * 4, 500})]


def test_a_member_with_fewer_steps_waits_before_its_last_one(pair: Pair) -> None:
    pair.together("lockstep", api={}, web={"strategy": STEPS})
    pair.until(lambda: pair.share("web") == 2500)
    assert pair.share("api") == 0
    rollout = pair.environment("api").rollout
    assert rollout is not None
    assert "it waits for web/production" in rollout.reason
    pair.until(lambda: pair.share("api") == 10_000)


@pytest.mark.parametrize("order", ["lockstep", "ordered"])
def test_one_harmful_verdict_takes_all_back_also_those_that_soak(
    pair: Pair, order: Literal["lockstep", "ordered"]
) -> None:
    pair.platform.behaviour(C).error_rate = 0.5
    ids = pair.together(order, api={"soak_ms": 1000}, web={"strategy": STEPS})
    pair.until(lambda: pair.share("web") == 500)
    if order == "ordered":
        assert pair.state("api") is State.SOAKING
    pair.until(lambda: all(pair.ended(ids, s) for s in SERVICES))
    assert {s: pair.ended(ids, s) for s in SERVICES} == {"api": "stopped", "web": "rolled-back"}
    assert [pair.stable(s) for s in SERVICES] == [A, A]
    view = pair.ledger.get("rollout", f"api/production/{ids['api']}")
    assert view is not None
    assert view["taken_along"]
    assert "because web/production goes back: taken back after" in view["reason"]
    quarantined = [doc["release"] for _, doc in pair.ledger.list("quarantine")]
    assert quarantined == [C]  # the innocent member can come again with the fix of the other


def test_one_after_the_other_a_member_begins_when_the_one_before_it_is_promoted(pair: Pair) -> None:
    pair.together("ordered", api={"strategy": STEPS}, web={})
    pair.until(lambda: pair.share("api") == 2500)
    assert pair.state("web") is State.WAITING
    rollout = pair.environment("web").rollout
    assert rollout is not None
    assert "it waits for api/production" in rollout.reason
    pair.until(lambda: pair.state("web") is State.SOAKING)


@pytest.mark.parametrize("state", [State.LAUNCHING, State.HOLDING])
def test_a_person_who_stops_one_member_stops_all(pair: Pair, state: State) -> None:
    ids = pair.together("lockstep", api={"strategy": STEPS}, web={"strategy": STEPS})
    pair.until(lambda: pair.state("web") is state)
    pair.person("web", "stop")
    pair.until(lambda: all(pair.ended(ids, s) for s in SERVICES))
    assert [pair.ended(ids, s) for s in SERVICES] == ["stopped", "stopped"]


def test_nobody_gives_its_stable_up_before_all_have_soaked(pair: Pair) -> None:
    ids = pair.together("lockstep", api={"soak_ms": 0}, web={"soak_ms": 30_000})
    pair.until(lambda: pair.state("web") is State.SOAKING)
    for _ in range(50):
        pair.tick()
    assert pair.state("api") is State.SOAKING
    assert pair.environment("api").stable is not None
    assert pair.stable("api") == A
    pair.until(lambda: all(pair.ended(ids, s) == "promoted" for s in SERVICES))


def test_harm_in_a_member_that_waits_for_the_others_to_soak_takes_all_back(pair: Pair) -> None:
    hold_back = {"strategy": STEPS, "hold_back_basis_points": 2000}
    ids = pair.together("lockstep", api={**hold_back, "soak_ms": 1000}, web={**hold_back, "soak_ms": 600_000})
    pair.until(lambda: all(pair.state(s) is State.SOAKING for s in SERVICES))
    for _ in range(20):
        pair.tick()
    pair.platform.behaviour(B).error_rate = 0.5
    pair.until(lambda: all(pair.ended(ids, s) for s in SERVICES))
    assert {s: pair.ended(ids, s) for s in SERVICES} == {"api": "rolled-back", "web": "stopped"}


def test_a_member_whose_engine_is_gone_holds_the_others_where_they_are_with_stable_whole(pair: Pair) -> None:
    pair.together("lockstep", api={"strategy": STEPS}, web={"strategy": STEPS})
    pair.until(lambda: pair.share("web") == 500)
    gone = pair.engines.pop("web")
    for _ in range(200):
        pair.tick()
    assert pair.share("api") == 500
    pair.engines["web"] = pair.start("web")
    assert gone is not pair.engines["web"]
    pair.until(lambda: pair.share("api") == 10_000)


def test_an_approval_in_one_member_still_waits_for_the_other(pair: Pair) -> None:
    pair.together("lockstep", api={"approval": True}, web={"approval": True})
    pair.until(lambda: all(pair.state(s) is State.ASKING for s in SERVICES))
    pair.person("api", "approve")
    for _ in range(20):
        pair.tick()
    assert pair.share("api") == 0
    pair.person("web", "approve")
    pair.until(lambda: [pair.share(s) for s in SERVICES] == [10_000, 10_000])


def test_a_newer_request_in_the_soak_of_a_group_waits_for_the_groups_end(pair: Pair) -> None:
    ids = pair.together("lockstep", api={"soak_ms": 600_000}, web={"soak_ms": 5_000})
    pair.until(lambda: all(pair.state(s) is State.SOAKING for s in SERVICES))
    pair.person("api", "begin", rollout=pair.rollout("api", A))
    pair.until(lambda: all(pair.ended(ids, s) == "promoted" for s in SERVICES), 60)
