"""Release groups: several environments, each with its own world, ledger, engines and faults; they share nothing but the
marks that the members of a group write down, as the engines of one database do.

The watch over a group tells its promises again, from transitions alone: nobody goes past a barrier before all reached
it; who goes back takes the others back; nobody ends promoted while another ends otherwise, unless a person took that
one back after all had given their word.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from rebake.rollout.route import stages
from rebake.rollout.states import Event, State
from rebake.rollout.world import Membership
from rebake.testing.simulation.run import Outcome, Run
from rebake.testing.simulation.scenario import Happening, Scenario, draw
from rebake.testing.simulation.settle import MOST_TICKS, ended_well, heal, healed_step, settled, where

GROUP = "g-1"
STEPS = frozenset({Event.CHECKS_PASSED, Event.STEP_OVER, Event.UNDECIDED_PROMOTE, Event.APPROVE})
LAST = 10**6


class GroupRun:
    """A seed's group under way: two or three members, deployed together at one step, and what goes wrong meanwhile."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"{seed}/group")
        count, self.order = chance.choice((2, 2, 3)), chance.choice(("lockstep", "lockstep", "ordered"))
        self.seed, self.begins = seed, chance.randint(8, 20)
        self.pace = random.Random(f"{seed}/turns")
        self.runs = [Run(_scenario(chance, seed, member, self.begins)) for member in range(count)]
        self.ids: dict[int, str] = {}
        self.entered = [0] * count
        self.ready = [-1] * count
        self.soaking = [False] * count
        self.words = [0] * count
        self.back: dict[int, str] = {}
        ledgers = [run.reality.ledger for run in self.runs]
        for member, run in enumerate(self.runs):
            run.reality.ledger.peers = ledgers
            run.watch.told = lambda *said, member=member: self.saw(member, *said)

    def go(self) -> Outcome:
        steps = max(run.scenario.steps for run in self.runs)
        for step in range(steps):
            if step == self.begins:
                self._begin()
            for member in self.pace.sample(range(len(self.runs)), len(self.runs)):
                self.runs[member].troubled_step(step)
            if self.violations:
                return self._outcome()
        self._settle()
        return self._outcome()

    def _begin(self) -> None:
        """One request for all members, written down at once."""
        names = tuple(f"shop-{n}/production" for n in range(len(self.runs)))
        chance = random.Random(f"{self.seed}/releases")
        for member, run in enumerate(self.runs):
            group = Membership(GROUP, "all", self.order, names, member)  # type: ignore[arg-type]
            asked = Happening(self.begins, "deploy", chance.choice("bcdef"), value=chance.randrange(100))
            run.person(asked, group)
            self.ids[member] = run.begun[-1]

    @property
    def violations(self) -> list[str]:
        return [violation for run in self.runs for violation in run.watch.violations]

    def _settle(self) -> None:
        for run in self.runs:
            heal(run)
        for tick in range(MOST_TICKS):
            done = [healed_step(run, tick) for run in self.runs]
            if self.violations:
                return
            if all(done) and all(settled(run) for run in self.runs):
                break
        else:
            open_ones = [where(run) for run in self.runs if not settled(run)]
            self.fail(f"not settled {MOST_TICKS} ticks after the last fault: {open_ones}")
            return
        if all(ended_well(run) for run in self.runs):
            self._ended_together()

    # What a group promises

    def fail(self, sentence: str) -> None:
        self.runs[0].watch.fail("group", sentence)

    def saw(self, member: int, rollout: str, before: str | None, after: str, event: Event | None) -> None:
        """A transition of a member's rollout."""
        if self.ids.get(member) != rollout:
            return
        others = [n for n in range(len(self.runs)) if n != member]
        if event in (Event.REACHED, Event.AGREED):
            self._reached(member, str(after))
        early = self.order == "ordered" and not all(self.soaking[n] for n in others if n < member)
        if event is Event.GATE_OPEN and early:
            self.fail(f"member {member} began before those before it were promoted")
        if after == State.SHIFTING and event in STEPS:
            self._step(member, rollout, others)
        if after == State.SOAKING and event in (Event.SHIFTED_LAST,):
            self.soaking[member], self.ready[member] = True, LAST
        if before == State.SOAKING and after == State.FINISHING and not all(words >= 2 for words in self.words):
            self.fail(f"member {member} gave up its stable, and the words given are {self.words}")
        self._return(member, after, event)

    def _reached(self, member: int, state: str) -> None:
        if state == State.SOAKING:
            self.words[member] += 1
        elif state != State.WAITING:
            self.ready[member] = max(self.ready[member], self._number(member))

    def _number(self, member: int) -> int:
        """Which step comes next: by how many were begun."""
        count = stages(self.runs[member].watch.asked[self.ids[member]][2].strategy)
        return LAST if self.entered[member] >= count else self.entered[member]

    def _step(self, member: int, rollout: str, others: Sequence[int]) -> None:
        number = self._number(member)
        self.entered[member] += 1
        if self.order != "lockstep" or rollout in self.runs[member].watch.causes.alone:
            return
        late = [n for n in others if self.ready[n] < number]
        if late:
            self.fail(f"member {member} went past barrier {number} before {late} reached it")

    def _return(self, member: int, after: str, event: Event | None) -> None:
        if event is Event.GROUP_RETURNS and not [n for n in self.back if n != member]:
            self.fail(f"member {member} was taken back with its group, and no other goes back")
        if after == State.RETURNING or (after in ("refused", "stopped") and member not in self.back):
            by_itself = event not in (Event.UNDO, Event.STOP, Event.SUPERSEDED, Event.GROUP_RETURNS, None)
            if by_itself and all(words >= 2 for words in self.words):
                self.fail(f"member {member} went back on {event}, although all had given their word")
            self.back.setdefault(member, after)

    def _ended_together(self) -> None:
        ends = [self.runs[n].watch.states.get(rollout) for n, rollout in self.ids.items()]
        promoted = [n for n, end in enumerate(ends) if end == State.PROMOTED]
        given = all(words >= 2 for words in self.words)
        if promoted and len(promoted) < len(ends) and not given:
            self.fail(f"members ended {ends}, and the words given are {self.words}")

    def _outcome(self) -> Outcome:
        endings: dict[str, int] = {}
        rollouts = 0
        for run in self.runs:
            for state in run.watch.states.values():
                endings[state] = endings.get(state, 0) + 1
                rollouts += state in ("promoted", "rolled-back", "refused", "stopped", "failed")
        ticks, scenario = sum(run.ticks for run in self.runs), self.runs[0].scenario
        history = [line for n, run in enumerate(self.runs) for line in (f"member {n}:", *run._history())]
        return Outcome(scenario, self.violations, rollouts, ticks, endings, history if self.violations else [])


def _scenario(chance: random.Random, seed: int, member: int, begins: int) -> Scenario:
    """A member's own trouble: that of another seed, with fewer deploys in the middle of the group's."""
    drawn = draw(seed * 10 + member)
    kept = [h for h in drawn.happenings if h.what != "deploy" or h.step == 0 or chance.random() < 0.15]
    kept = [h for h in kept if h.what not in ("down", "stop", "undo") or chance.random() < 0.5]
    calm = chance.random() < 0.4
    kept = [h for h in kept if not calm or h.step < begins]
    return replace(drawn, steps=max(drawn.steps, begins + 50), happenings=tuple(kept))


def simulate_group(seed: int) -> Outcome:
    """Run one seed's group to its end, or to its first violation. The same seed gives the same outcome, always."""
    return GroupRun(seed).go()
