"""One simulated run: phase one with everything going wrong and the promises checked after every step; phase two with
everything healed, in which every rollout must end, with no orphan and no lost capacity."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rebake.core.codec import dump
from rebake.core.units import FULL
from rebake.errors import RebakeError
from rebake.ledger.ports import Draft, Put
from rebake.rollout.engine import LEASE_SECONDS, Engine, Ports
from rebake.rollout.fleets import GIVE_UP_AFTER
from rebake.rollout.world import Command, Rollout
from rebake.testing.simulated import simulated_release
from rebake.testing.simulation.ports import FaultyJobs, FaultyLedger, FaultyPlatform, FaultyRouter
from rebake.testing.simulation.scenario import (
    ENVIRONMENT,
    HOUR,
    KEY,
    SERVICE,
    Happening,
    Scenario,
    plan_of,
    revision_of,
)
from rebake.testing.simulation.watch import Watch
from rebake.testing.simulation.world import EMPTY, Killed, Reality

MOST_TICKS = 600
"""Ticks in which every rollout must have ended, once the world is healed."""
QUICK_TICKS = 60
"""After so many ticks the clock goes faster: only long ramps are left then."""
PAUSE_SECONDS = LEASE_SECONDS + 1.0
PACES = (0.05, 0.2, 0.5, 0.5, 1.0, 1.0, 1.5)


@dataclass(slots=True)
class Outcome:
    """What a run showed.

    Attributes:
        violations: sentences, each beginning with the number of the promise; empty when all is well.
        rollouts: how many rollouts ended.
        ticks: how often an engine looked.
        endings: rollouts by how they ended.
    """

    scenario: Scenario
    violations: list[str] = field(default_factory=list)
    rollouts: int = 0
    ticks: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)


class Run:
    """A scenario under way. `happen` says what each happening does."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.reality = Reality(scenario)
        self.watch = Watch(self.reality)
        self.pace = random.Random(f"{scenario.seed}/pace")
        self.ticks = 0
        self.number = 0
        self.paused = False
        self.begun: list[str] = []
        self.reality.pause = self._pause
        self.reality.stall = lambda seconds: self.watch.lost(self.reality.advance(seconds / 2))
        self.owners = [f"engine-{n}" for n in range(scenario.engines)]
        self.engines = {owner: self._engine(owner) for owner in self.owners}
        self.due: dict[str, float] = dict.fromkeys(self.owners, 0.0)
        self.reality.ledger.commit([], [Put("environment", KEY, dump(EMPTY))], at=self.reality.clock.at)

    def _engine(self, owner: str) -> Engine:
        reality, watch = self.reality, self.watch
        ports = Ports(
            ledger=FaultyLedger(reality, watch, owner),
            platforms={"simulated": FaultyPlatform(reality, watch, owner)},
            router=FaultyRouter(reality, watch, owner),
            jobs=FaultyJobs(reality, watch, owner),
            clock=reality.wall,
            release=simulated_release,
            owner=owner,
        )
        return Engine(ports)

    # Phase one

    def go(self) -> Outcome:
        by_step: dict[int, list[Happening]] = {}
        for happening in self.scenario.happenings:
            by_step.setdefault(happening.step, []).append(happening)
        for step in range(self.scenario.steps):
            for happening in by_step.get(step, ()):
                self.happen(happening)
            self._step(self.pace.choice(PACES), self.owners[self.pace.randrange(len(self.owners))])
            if self.watch.violations:
                break
        else:
            self._settle()
        return self._outcome()

    def _step(self, seconds: float, owner: str) -> None:
        self.tick(owner)
        self.watch.lost(self.reality.advance(seconds))
        if not any(h.what == "reroute" for h in self.scenario.happenings):
            self.watch.still_listening()

    def tick(self, owner: str) -> None:
        """One look of one engine. A killed one starts again on what the ledger kept."""
        self.ticks += 1
        self.watch.looked_at = self.reality.wall.now(), self.reality.clock.at
        try:
            self.due[owner] = self.engines[owner].tick(KEY)
        except Killed:
            self.engines[owner] = self._engine(owner)
            self.due[owner] = self.reality.wall.now()
        except RebakeError:
            self.due[owner] = self.reality.wall.now() + 1.0
        except Exception as error:
            self.watch.fail("engine", f"{type(error).__name__}: {error}")

    def _pause(self, owner: str) -> None:
        """This engine stands still for longer than its lease, in the middle of a tick; others go on meanwhile."""
        if self.paused:
            return
        self.paused = True
        self.watch.lost(self.reality.advance(PAUSE_SECONDS))
        for other in self.owners:
            for _ in range(3):
                if other != owner:
                    self._step(0.3, other)
        self.paused = False

    # What happens

    def happen(self, happening: Happening) -> None:
        what, value, reality = happening.what, happening.value, self.reality
        if what in ("deploy", "undo", "stop", "approve", "down", "resize"):
            self._person(happening)
        elif what == "fault":
            reality.faults.arm(happening.on, happening.mode, value)
        elif what == "quota":
            reality.quota_until = reality.clock.at + value
        elif what == "clock":
            reality.wall.skew += value if abs(value) >= HOUR else value - 20
        elif what == "edge-restart":
            reality.restart_edge()
        elif what == "rot":
            reality.rot(happening.on)
        elif what == "stranger":
            reality.stranger(value)
        elif what == "reroute":
            reality.reroute()
        elif what == "quiet":
            reality.rate = 0 if value % 2 else 200
        else:
            reality.harm(what, happening.on, value)

    def _person(self, happening: Happening) -> None:
        self.number += 1
        number, now = self.number, self.reality.wall.now()
        parts: dict[str, Any] = {}
        plan = plan_of(self.scenario.seed, happening.value)
        if happening.what == "deploy":
            revision = revision_of(happening.on, happening.value)
            rollout = Rollout(f"r-{number:03}", "deploy", revision, plan, "ann", now)
            self.watch.ask(rollout.id, "deploy", revision, plan)
            self.begun.append(rollout.id)
            parts = {"rollout": rollout}
        elif happening.what == "undo":
            parts = {"rollout_id": f"r-{number:03}"}
        elif happening.what == "resize":
            parts = {"plan": plan}
        verb: Any = "begin" if happening.what == "deploy" else happening.what
        command = Command(f"c-{number:03}", verb, "ann", now, **parts)
        puts = [Put("command", f"{KEY}/{command.id}", dump(command))]
        drafts = [Draft("request", SERVICE, ENVIRONMENT, None, {"request": command.id})]
        self.reality.ledger.commit(drafts, puts, at=now)
        self.due = dict.fromkeys(self.owners, 0.0)

    # Phase two

    def _settle(self) -> None:
        """Heal the world, keep one engine, and wait for the end of everything."""
        self.reality.heal()
        self.owners = self.owners[:1]
        owner = self.owners[0]
        for tick in range(MOST_TICKS):
            wait = self.due[owner] - self.reality.wall.now()
            self._step(min(max(wait, 0.5), 1.5) if tick < QUICK_TICKS else 5.0, owner)
            if self.watch.violations:
                return
            if self._settled():
                break
            self._answer()
        else:
            self.watch.fail("9", f"not settled {MOST_TICKS} ticks after the last fault: {self._where()}")
            return
        self._ended_well()

    def _answer(self) -> None:
        """A person answers whatever rebake asks."""
        rollout = self.reality.environment.get("rollout")
        if rollout is not None and rollout["state"] == "asking" and not self.reality.ledger.list("command"):
            self._person(Happening(0, "approve"))

    def _settled(self) -> bool:
        doc, reality = self.reality.environment, self.reality
        if doc.get("rollout") or doc.get("queue") or doc.get("leaving") or reality.later:
            return False
        if reality.ledger.list("command"):
            return False
        stable = doc.get("stable")
        if stable is None:
            return not reality.platform.processes and reality.route is None
        members = [n for n, p in reality.platform.processes.items() if p.spec.fleet == stable["id"]]
        others = len(reality.platform.processes) - len(members)
        fit = [n for n in members if reality.accepts(n) and not reality.platform.processes[n].drift]
        whole = len(members) == len(fit) == stable["plan"]["instances"]
        return others == 0 and (whole or self._hopeless(stable)) and (self._routed(stable, fit) or not whole)

    def _hopeless(self, stable: Mapping[str, Any]) -> bool:
        """Stable cannot stay up by its own nature, or ten failures made rebake call a person."""
        streak = [f for f in stable["failures"] if f["at"] > stable["good_at"]]
        nature = self.reality.kinds[stable["revision"]["release"]]
        return nature in ("frail", "sickly") or len(streak) >= GIVE_UP_AFTER

    def _routed(self, stable: Mapping[str, Any], fit: list[str]) -> bool:
        route = self.reality.route
        shares = {f.fleet: f.weight_basis_points for f in route.fleets} if route is not None else {}
        endpoints = {e.instance for f in route.fleets for e in f.endpoints} if route is not None else set()
        return shares == {stable["id"]: FULL} and endpoints == set(fit)

    def _ended_well(self) -> None:
        for rollout in self.begun:
            view = self.reality.ledger.get("rollout", f"{KEY}/{rollout}")
            if view is None or view["ended"] is None:
                self.watch.fail("11", f"{rollout} was asked for, and nothing tells how it ended")
        stable = self.reality.environment.get("stable")
        if (stable["id"] if stable else None) != self.watch.stable:
            self.watch.fail("11", f"stable is {stable and stable['id']}, but {self.watch.stable} was promoted last")

    def _where(self) -> str:
        doc = self.reality.environment
        rollout = doc.get("rollout")
        parts = [f"{rollout['id']} is {rollout['state']} ({rollout['reason']})" if rollout else "no rollout"]
        parts += [f"{len(doc.get(n) or ())} in {n}" for n in ("queue", "leaving")]
        alive = {n: "fit" if self.reality.accepts(n) else "unfit" for n in self.reality.platform.processes}
        parts.append(f"instances {alive}, wanted {(doc.get('stable') or {}).get('id')}")
        return "; ".join(parts)

    def _outcome(self) -> Outcome:
        endings: dict[str, int] = {}
        for state in self.watch.states.values():
            endings[state] = endings.get(state, 0) + 1
        ended = sum(1 for state in self.watch.states.values() if state in _OVER)
        return Outcome(self.scenario, self.watch.violations, ended, self.ticks, endings, self._history())

    def _history(self) -> list[str]:
        """The ledger as people read it: for a failing run."""
        if not self.watch.violations:
            return []
        lines = []
        start = self.reality.ledger.rows[0].at_ms if self.reality.ledger.rows else 0
        for entry in self.reality.ledger.rows:
            text = ", ".join(f"{k}={v}" for k, v in entry.body.items() if k not in ("endpoints", "reason"))
            lines.append(f"{(entry.at_ms - start) / 1000:8.2f}s {entry.kind:10} {entry.rollout or '':6} {text}")
        return lines


_OVER = frozenset({"promoted", "rolled-back", "refused", "stopped", "failed"})


def simulate(scenario: Scenario) -> Outcome:
    """Run one scenario to its end, or to its first violation. The same scenario gives the same outcome, always."""
    return Run(scenario).go()
