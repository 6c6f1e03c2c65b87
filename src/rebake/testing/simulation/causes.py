"""Nothing happens without its cause: each event of a rollout is compared with what is true, not with what was believed.

Promises 3, 6, 10 and 11. A cause that a fault of the simulation may have feigned (a stale look, an effect that was
refused) counts as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rebake.core.units import FULL
from rebake.release.manifest import Revision
from rebake.rollout.plan import Plan
from rebake.rollout.route import first_with_users, stages
from rebake.rollout.states import Event, State
from rebake.testing.simulation.people import People
from rebake.testing.simulation.scenario import FAILING_JOBS, SILENT
from rebake.testing.simulation.world import Reality

WITHOUT_USERS = frozenset({State.WAITING, State.PREPARING, State.LAUNCHING, State.CHECKING, State.RETURNING})
Clocks = tuple[float, float]
"""A moment by the clock on the wall, and in truth."""
RAMP_CAPS = ((5000, math.inf, math.inf), (2000, 300, 1740.0), (1000, 20, 1200.0))
"""A ramp stays at this weight, until so many requests of the candidate were counted, or so many seconds are over."""
Asked = tuple[str, Revision, Plan]
"""What a rollout is for: its kind, its revision and its plan."""


class Causes:
    """Compares events, weights and steps with what the world and the plan allow.

    Attributes:
        alone: rollouts that had no healthy stable to be compared with, at some time.
    """

    def __init__(self, reality: Reality, people: People, fail: Callable[[str, str], None]) -> None:
        self.reality = reality
        self.people = people
        self.fail = fail
        self.alone: set[str] = set()
        self.approved: set[str] = set()
        self.since: dict[str, Clocks] = {}
        self.served: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.ramps: dict[str, Clocks] = {}

    def event(self, rollout: str, asked: Asked, before: State, event: Event, now: Clocks) -> None:
        """One event of a rollout whose release and plan are known."""
        problem, (_, revision, plan) = None, asked
        if event in _CAUSES:
            problem = _CAUSES[event](self, rollout, plan, revision.release)
        elif event in _HELD and before is State.HOLDING:
            problem = self._held(rollout, plan, event, now)
        if problem is not None:
            self.fail("10", f"{rollout} met {event} in {before}: {problem}")

    def entered(self, rollout: str, plan: Plan, state: State, event: Event, now: Clocks) -> None:
        if event in (Event.APPROVE, Event.AGREED):
            self.approved.add(rollout)
        if event is Event.AGREED:  # neither its hold nor its evidence is waited for any more
            self.since[rollout], self.served[rollout] = (-1e9, -1e9), -(10**9)
        if event in (Event.STABLE_BROKEN, Event.TAKES_OVER):
            self.alone.add(rollout)
        if event is Event.AGREED:
            return
        if state is State.SHIFTING:
            self.served[rollout] = self._requests(rollout)
        if state is State.HOLDING:
            self.since[rollout] = now
            route = self.reality.route
            if self._copies(rollout, plan) and (route is None or route.mirror is None):
                self.fail("5", f"{rollout} holds with copies alone, and nothing is copied")

    # Causes

    def _harm(self, rollout: str, plan: Plan, release: str) -> str | None:
        harmful = self.reality.platform.behaviours[release].error_rate > 0
        if self.reality.unrouted:
            told = harmful and any(rule.name != SILENT for rule in plan.judge.metrics)
            return None if told else self._unfit(rollout, plan, release)
        return None if harmful or self._unfit(rollout, plan, release) is None else "its release answers well"

    def _unfit(self, rollout: str, _plan: Plan, release: str) -> str | None:
        kind = self.reality.kinds.get(release, "good")
        nature = kind in FAILING_JOBS if self.reality.jobs else kind not in ("good", "harmful", "sour", "unchecked")
        if nature or rollout in self.reality.touched or self.reality.faults.met:
            return None
        return "its instances are well, and nothing went wrong"

    def _blocked(self, rollout: str, _plan: Plan, _release: str) -> str | None:
        reality = self.reality
        fault = reality.faults.met or reality.quota_until or reality.wall.skew or rollout in reality.touched
        return None if fault else "nothing was refused"

    def _check_failed(self, _rollout: str, plan: Plan, release: str) -> str | None:
        if not plan.checks:
            return "it has no checks"
        return None if self.reality.kinds.get(release) == "unchecked" else "its checks pass"

    def _gate_shut(self, _rollout: str, plan: Plan, release: str) -> str | None:
        return None if plan.after is not None and not self._succeeded(plan, release) else "the gate is open"

    def _gate_open(self, rollout: str, plan: Plan, release: str) -> str | None:
        if self.people.revisions.get(rollout) in self.people.quarantine:
            return "its revision is in quarantine"
        return None if plan.after is None or self._succeeded(plan, release) else f"{plan.after} has not seen it"

    def _quarantined(self, rollout: str, _plan: Plan, _release: str) -> str | None:
        known = self.people.revisions.get(rollout) in self.people.quarantine
        return None if known else "its revision is not in quarantine"

    def _prepared(self, _rollout: str, _plan: Plan, release: str) -> str | None:
        ready = release in self.reality.platform.prepared or self.reality.faults.met
        return None if ready else "its release was never made ready"

    def _needs_approval(self, _rollout: str, plan: Plan, _release: str) -> str | None:
        return None if plan.approval else "the file asks for no approval"

    def _checks_passed(self, _rollout: str, plan: Plan, _release: str) -> str | None:
        return "the file asks for an approval" if plan.approval else None

    def _succeeded(self, plan: Plan, release: str) -> bool:
        return self.reality.ledger.get("success", f"{plan.service}/{plan.after}/{release}") is not None

    # Holds and steps

    def _requests(self, rollout: str) -> int:
        if self.reality.unrouted:
            return self.reality.ran.get(rollout, 0) if self.reality.jobs else int(self.reality.worked.get(rollout, 0.0))
        counted = self.reality.router.counters.get(rollout)
        return counted.requests if counted is not None else 0

    def _held(self, rollout: str, plan: Plan, event: Event, now: Clocks) -> str | None:
        """Each hold lasts as long as the file says, and ends as the file says."""
        strategy = plan.strategy
        least = {Event.UNDECIDED_PROMOTE: "promote", Event.UNDECIDED_ROLL_BACK: "roll-back"}.get(event)
        if least is not None and plan.undecided != least:
            return f"the file says {plan.undecided}"
        copies = self._copies(rollout, plan)
        if strategy.profile is not None and not copies:
            return None
        hold_ms = strategy.mirror_ms if copies else strategy.hold_ms
        hold_ms += plan.undecided_limit_ms if event is Event.UNDECIDED_LIMIT else 0
        held = now[1] - self.since.get(rollout, now)[1]  # in truth: nobody's clock ends a hold
        if held * 1000 < hold_ms - 1:
            return f"held for {held:.2f}s instead of {hold_ms / 1000:g}s"
        fresh = self._requests(rollout) - self.served.get(rollout, 0)
        counted = not copies and self.reality.router.epoch == "1" and not self.reality.unrouted
        if event is Event.STEP_OVER and self.reality.unrouted and fresh < 2:
            return f"only {fresh} runs or instance-seconds were worked in this step"
        if event is Event.STEP_OVER and counted and 0 <= fresh < plan.judge.min_requests:
            return f"only {fresh} requests were counted in this step"
        return None

    def _copies(self, rollout: str, plan: Plan) -> bool:
        """Whether a rollout is in the stage in which the candidate is given copies alone."""
        return plan.strategy.mirrors and self.steps.get(rollout, 0) <= 0

    def _ramped(self, rollout: str, weight: int, now: Clocks) -> None:
        """The judge's own ramp goes no further than what was seen of the candidate, or the time spent, allows."""
        first = self.ramps.setdefault(rollout, now)
        spent = now[1] - first[1]
        seen = self._requests(rollout) if self.reality.router.epoch == "1" else math.inf
        for cap, needed, seconds in RAMP_CAPS:
            if weight > cap and seen < needed and spent < seconds:
                self.fail("10", f"{rollout} ramped to {weight} after {seen} requests of the candidate and {spent:.0f}s")

    def weight(self, doc: Mapping[str, Any], plan: Plan, now: Clocks) -> None:
        """The weight that is remembered is the one of the plan's step, and no step is left out."""
        rollout = doc["rollout"]
        name, state, weight, step = rollout["id"], State(rollout["state"]), rollout["weight"], rollout["step"]
        if state in WITHOUT_USERS or (state is State.ASKING and rollout["asking"] == "approval"):
            if weight:
                self.fail("3", f"{name} is {state}, and has a weight of {weight}")
            return
        last, count = self.steps.get(name, -1), stages(plan.strategy)
        self.steps[name] = step
        alone = doc.get("stable") is None or name in self.alone
        if step not in (last, last + 1) and not (alone and step == count):
            self.fail("10", f"{name} went from step {last} to step {step}")
        if plan.strategy.profile is not None and step < count:
            self._ramped(name, weight, now)
        allowed = self._weights(plan, state, step, alone)
        if allowed is not None and weight not in allowed:
            self.fail("10", f"{name} is {state} at step {step} with a weight of {weight}, expected {sorted(allowed)}")

    @staticmethod
    def _weights(plan: Plan, state: State, step: int, alone: bool) -> set[int] | None:
        strategy = plan.strategy
        if state is State.FINISHING:
            return {FULL}
        if step >= stages(strategy):
            last = FULL - plan.hold_back_basis_points if plan.soak_ms else FULL
            return {FULL, last} if alone else {last}
        if strategy.mirrors and step == 0:
            return {0}
        if strategy.profile is not None:
            return None
        return {strategy.steps[step - first_with_users(strategy)]}


_CAUSES: Mapping[Event, Callable[[Causes, str, Plan, str], str | None]] = {
    Event.HARMFUL: Causes._harm,
    Event.CANNOT_START: Causes._unfit,
    Event.CANDIDATE_LOST: Causes._unfit,
    Event.BLOCKED: Causes._blocked,
    Event.CHECK_FAILED: Causes._check_failed,
    Event.GATE_SHUT: Causes._gate_shut,
    Event.GATE_OPEN: Causes._gate_open,
    Event.QUARANTINED: Causes._quarantined,
    Event.PREPARED: Causes._prepared,
    Event.NEEDS_APPROVAL: Causes._needs_approval,
    Event.CHECKS_PASSED: Causes._checks_passed,
}
_HELD = frozenset({Event.STEP_OVER, Event.UNDECIDED_PROMOTE, Event.UNDECIDED_ROLL_BACK, Event.UNDECIDED_LIMIT})
