"""One simulated service under the real engine, in words a test can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rebake.core.codec import dump
from rebake.ledger.ports import Draft, Put
from rebake.release.manifest import Revision, RunContract, Settings
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.metering import Sources
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.states import State
from rebake.rollout.world import Command, Environment, Rollout
from rebake.testing.simulated import (
    InlineJobs,
    ManualClock,
    MemoryLedger,
    SimulatedPlatform,
    SimulatedRouter,
    simulated_release,
)

KEY = "shop/production"
BLUE_GREEN = Strategy("blue-green")
CANARY = Strategy("canary", steps=(500, 2500), hold_ms=10_000)


def plan(**changes: Any) -> Plan:
    return replace(
        Plan(
            service="shop",
            environment="production",
            platform="simulated",
            run=RunContract(("serve",), port=8080, drain_ms=2000),
            instances=2,
            listen="127.0.0.1:8080",
            strategy=BLUE_GREEN,
            soak_ms=60_000,
            undecided_limit_ms=60_000,
        ),
        **changes,
    )


class Shop:
    """The engine over a simulated world, and the handful of things that happen to it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.platform = SimulatedPlatform(self.clock)
        self.router = SimulatedRouter(self.platform)
        self.jobs = InlineJobs()
        self.ledger = MemoryLedger()
        self.sources = Sources()
        self.rate = 100
        self.number = 0
        self.engine = self.start_engine()

    def start_engine(self) -> Engine:
        """A fresh engine on the same ledger: what a restart leaves."""
        self.jobs = InlineJobs() if not hasattr(self, "engine") else self.jobs
        ports = Ports(
            self.ledger,
            {"simulated": self.platform},
            {"simulated": self.router},
            self.jobs,
            self.clock,
            simulated_release,
            "test",
            sources=self.sources,
        )
        self.engine = Engine(ports)
        return self.engine

    @property
    def environment(self) -> Environment:
        return self.engine.memory(KEY).environment

    def command(self, verb: Any, **parts: Any) -> str:
        self.number += 1
        command = Command(f"c-{self.number:04}", verb, "ann", self.clock.now(), **parts)
        self.ledger.commit([], [Put("command", f"{KEY}/{command.id}", dump(command))], at=self.clock.now())
        return command.id

    def deploy(self, release: str, env: dict[str, str] | None = None, **changes: Any) -> str:
        """Ask for a rollout; returns its id."""
        self.number += 1
        rollout = Rollout(
            id=f"r-{self.number:04}",
            kind="deploy",
            revision=Revision("shop", "production", release, Settings(env or {})),
            plan=plan(**changes),
            requested_by="ann",
            requested_at=self.clock.now(),
        )
        if self.ledger.get("environment", KEY) is None:
            empty = Put("environment", KEY, dump(Environment("shop", "production")))
            self.ledger.commit([Draft("request", "shop", "production", rollout.id, {})], [empty], at=self.clock.now())
        self.command("begin", rollout=rollout)
        return rollout.id

    def tick(self, seconds: float = 0.1) -> None:
        """One look, then time and users go on."""
        self.engine.tick(KEY)
        self.clock.advance(seconds)
        self.router.serve("shop", "production", round(self.rate * seconds))

    def until(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Go on until the condition holds; fails after that much simulated time."""
        end = self.clock.now() + seconds
        while not condition():
            assert self.clock.now() < end, f"still {self.where()} after {seconds:g} simulated seconds"
            self.tick()

    def where(self) -> str:
        rollout = self.environment.rollout
        return "no rollout" if rollout is None else f"{rollout.state}: {rollout.reason}"

    def until_state(self, state: State, seconds: float = 300.0) -> None:
        self.until(lambda: self.state is state, seconds)

    @property
    def state(self) -> State | None:
        return self.environment.rollout.state if self.environment.rollout else None

    def until_over(self, rollout: str, seconds: float = 300.0) -> dict[str, Any]:
        """Wait for the end of a rollout; its kept view."""
        self.until(lambda: self.ended(rollout) is not None, seconds)
        view = self.ended(rollout)
        assert view is not None
        return view

    def ended(self, rollout: str) -> dict[str, Any] | None:
        doc = self.ledger.get("rollout", f"{KEY}/{rollout}")
        return dict(doc) if doc is not None and doc["ended"] is not None else None

    def serving(self, release: str, **changes: Any) -> None:
        """Bring a release into service, soak included."""
        rollout = self.deploy(release, **changes)
        assert self.until_over(rollout)["outcome"] == "promoted"
        self.until(lambda: not self.environment.leaving)

    @property
    def stable_release(self) -> str | None:
        stable = self.environment.stable
        return stable.revision.release if stable is not None else None

    def weights(self) -> dict[str, int]:
        """What the balancer serves now, by release."""
        route = self.router.routes.get(("shop", "production"))
        fleets = {f.id: f.revision.release for f in (self.environment.stable, self.environment.candidate) if f}
        return {} if route is None else {fleets.get(f.fleet, f.fleet): f.weight_basis_points for f in route.fleets}

    def notes(self, kind: str) -> list[dict[str, Any]]:
        return [dict(e.body) for e in self.ledger.rows if e.kind == kind]
