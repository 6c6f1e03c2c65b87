"""One simulated run: everything goes wrong, and the promises are checked after every step; then `settle` takes over."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from rebake.core.codec import dump
from rebake.errors import RebakeError
from rebake.ledger.ports import Draft, Put
from rebake.rollout.engine import LEASE_SECONDS, Engine, Ports
from rebake.rollout.metering import Sources
from rebake.rollout.world import Command, Environment, Freeze, Membership, Place, Rollout
from rebake.testing.simulated import simulated_release
from rebake.testing.simulation.ports import FaultyJobs, FaultyLedger, FaultyPlatform, FaultyRouter, FaultySource
from rebake.testing.simulation.scenario import (
    ENVIRONMENT,
    HOUR,
    KEY,
    RELEASES,
    SERVICE,
    STAGING,
    VERBS,
    Happening,
    Scenario,
    at_home,
    digest,
    plan_of,
    revision_of,
    succeeded_elsewhere,
)
from rebake.testing.simulation.settle import settle
from rebake.testing.simulation.watch import Watch
from rebake.testing.simulation.world import Killed, Reality

PAUSE_SECONDS = LEASE_SECONDS + 1.0
HOME = Place("home", "machine", "/home")
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
        self.aims: list[Happening] = []
        self.reality.pause = self._pause
        self.reality.stall = lambda seconds: self.watch.lost(self.reality.advance(seconds / 2))
        self.at_home = at_home(scenario.seed, scenario.engines)
        self.owners = [f"engine-{n}" for n in range(scenario.engines)]
        self.woken = set(self.owners)
        self.engines = {owner: self._engine(owner) for owner in self.owners}
        self.due: dict[str, float] = dict.fromkeys(self.owners, 0.0)
        gone_well = [digest(r) for r in RELEASES if succeeded_elsewhere(scenario.seed, r)]
        puts = [Put("success", f"{SERVICE}/{STAGING}/{release}", {"at": 0.0}) for release in gone_well]
        self.reality.ledger.commit([], [Put("environment", KEY, dump(self._vacant())), *puts], at=self.reality.clock.at)

    def _vacant(self) -> Environment:
        return Environment(SERVICE, ENVIRONMENT, place=HOME if self.at_home else None)

    def _engine(self, owner: str) -> Engine:
        reality, watch = self.reality, self.watch
        ports = Ports(
            ledger=FaultyLedger(reality, watch, owner),
            platforms={"simulated": FaultyPlatform(reality, watch, owner)},
            routers={"simulated": FaultyRouter(reality, watch, owner)},
            jobs=FaultyJobs(reality, watch, owner),
            clock=reality.wall,
            release=simulated_release,
            owner=owner,
            places={"simulated": HOME} if self.at_home else {},
            sources=Sources({"endpoint": FaultySource(reality, watch, owner)}, FaultyJobs(reality, watch, owner)),
        )
        return Engine(ports)

    # Phase one

    def go(self) -> Outcome:
        for step in range(self.scenario.steps):
            self.troubled_step(step)
            if self.watch.violations:
                break
        else:
            settle(self)
        return self._outcome()

    def troubled_step(self, step: int) -> None:
        """What happens at this step, and one look of one engine."""
        for happening in self.scenario.happenings:
            if happening.step == step:
                self.happen(happening)
        self._take_aim()
        self.step(self.pace.choice(PACES), self.owners[self.pace.randrange(len(self.owners))])

    def step(self, seconds: float, owner: str) -> None:
        self.tick(owner)
        self.watch.lost(self.reality.advance(seconds))
        if not any(h.what == "reroute" for h in self.scenario.happenings):
            self.watch.still_listening()

    def tick(self, owner: str) -> None:
        """One look of one engine. A killed one starts again on what the ledger kept."""
        self.ticks += 1
        self.watch.looked_at = self.reality.wall.now(), self.reality.clock.at
        try:
            asked = owner in self.woken
            self.woken.discard(owner)
            again = self.due[owner] = self.engines[owner].tick(KEY, asked)
            self.watch.keeping.looked(owner, self.watch.doc, again)
            return
        except Killed:
            self.engines[owner] = self._engine(owner)
            self.woken.add(owner)
            self.due[owner] = self.reality.wall.now()
        except RebakeError:
            self.due[owner] = self.reality.wall.now() + 1.0
        except Exception as error:
            self.watch.fail("engine", f"{type(error).__name__}: {error}")
        self.watch.keeping.looked(owner, self.watch.doc, None)

    def _pause(self, owner: str) -> None:
        """This engine stands still for longer than its lease, in the middle of a tick; others go on meanwhile."""
        if self.paused:
            return
        self.paused = True
        self.watch.lost(self.reality.advance(PAUSE_SECONDS))
        for other in self.owners:
            for _ in range(3):
                if other != owner:
                    self.step(0.3, other)
        self.paused = False

    # What happens

    def happen(self, happening: Happening) -> None:
        what, value, reality = happening.what, happening.value, self.reality
        self.watch.keeping.disturbed += 1
        if what in VERBS:
            self.person(happening)
        elif what == "fault":
            reality.faults.arm(happening.on, happening.mode, value)
        elif what == "quota":
            reality.quota_until = reality.clock.at + value
        elif what in ("clock", "reboot"):
            getattr(self, f"_{what}")(happening)
        elif what == "edge-restart":
            reality.restart_edge()
        elif what in ("rot", "sour"):
            getattr(reality, what)(happening.on)
        elif what == "aim":
            self.aims.append(happening)
        elif what in ("freeze", "lift", "pardon"):
            self._word(happening)
        elif what == "stranger":
            reality.stranger(value)
        elif what == "reroute":
            reality.reroute()
        elif what == "quiet":
            reality.rate = 0 if value % 2 else 200
        else:
            reality.harm(what, happening.on, value)

    def _clock(self, happening: Happening) -> None:
        value = happening.value
        self.reality.wall.skew += value if abs(value) >= HOUR else value - 20
        if happening.mode == "reborn":
            self._new_life()

    def _reboot(self, happening: Happening) -> None:
        self.reality.reboot(happening.value, forgetful=happening.on == "forgotten")
        self.reality.wall.skew += {"forward": HOUR, "back": -HOUR}.get(happening.mode, 0)
        self._new_life()

    def _new_life(self) -> None:
        """Every engine is gone, and another one in its place."""
        self.engines = {owner: self._engine(owner) for owner in self.owners}
        self.woken.update(self.owners)

    def _take_aim(self) -> None:
        """What waited for a rollout to come into a state happens now."""
        rollout = self.reality.environment.get("rollout") if self.aims else None
        for aim in [a for a in self.aims if rollout is not None and a.on == rollout["state"]]:
            self.aims.remove(aim)
            self.happen(Happening(aim.step, aim.mode, RELEASES[aim.value % len(RELEASES)], value=aim.value))

    def _word(self, happening: Happening) -> None:
        """A person's word that is written down without asking an engine."""
        if happening.what == "freeze":
            self.freeze(happening.on, self.reality.wall.now() + happening.value)
        elif happening.what == "lift":
            self.lift(happening.on)
        else:
            self._pardon(happening.value)

    def freeze(self, scope: str, until: float) -> None:
        """A person stops the line."""
        freeze = Freeze(scope, "ann", self.reality.wall.now(), until, "calm")
        self.reality.ledger.commit([], [Put("freeze", scope, dump(freeze))], at=freeze.at)
        self.watch.gates.freezes[scope] = freeze

    def lift(self, scope: str) -> None:
        self.reality.ledger.commit([], [Put("freeze", scope, None)], at=self.reality.wall.now())
        self.watch.gates.freezes.pop(scope, None)

    def _pardon(self, value: int) -> None:
        """A person lets a revision out of quarantine."""
        ledger = self.reality.ledger
        rows = ledger.list("quarantine")
        if rows:
            key, doc = rows[value % len(rows)]
            ledger.commit([], [Put("quarantine", key, None)], at=self.reality.wall.now())
            self.watch.people.quarantine.discard(str(doc["revision"]))

    def person(self, happening: Happening, group: Membership | None = None, **changes: Any) -> None:
        """A person asks for something. `changes`: of the plan; `group`: the release group that a deploy belongs to."""
        self.number += 1
        number, now = self.number, self.reality.wall.now()
        parts: dict[str, Any] = {}
        plan = replace(plan_of(self.scenario.seed, happening.value), **changes)
        if happening.what == "deploy":
            revision = revision_of(happening.on, happening.value)
            rollout = Rollout(f"r-{number:03}", "deploy", revision, plan, "ann", now, group=group)
            self.begun.append(rollout.id)
            parts = {"rollout": rollout}
        elif happening.what == "undo":
            parts = {"rollout_id": f"r-{number:03}"}
        elif happening.what == "resize":
            parts = {"plan": plan}
        verb: Any = "begin" if happening.what == "deploy" else happening.what
        command = Command(f"c-{number:03}", verb, "ann", now, **parts)
        self.watch.asks(command)
        puts = [Put("command", f"{KEY}/{command.id}", dump(command))]
        drafts = [Draft("request", SERVICE, ENVIRONMENT, None, {"request": command.id})]
        self.reality.ledger.commit(drafts, puts, at=now)
        self.due = dict.fromkeys(self.owners, 0.0)
        self.woken.update(self.owners)

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
