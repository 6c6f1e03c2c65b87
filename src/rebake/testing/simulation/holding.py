"""Gates in time hold what moves users on, and nothing else: told by the watch's own knowledge of freezes and windows.

Whoever looks while a gate is shut moves nobody on; a person may let one rollout pass; a window does not hold the fix of
a stable of which nothing is healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rebake.core.units import FULL
from rebake.rollout.plan import Plan
from rebake.rollout.states import Event
from rebake.rollout.world import Freeze
from rebake.testing.simulation.scenario import shut_by_file

ONWARD = frozenset(
    {Event.GATE_OPEN, Event.CHECKS_PASSED, Event.STEP_OVER, Event.RAMPED, Event.UNDECIDED_PROMOTE, Event.SOAKED}
)
LOST_SECONDS = 2.0


class Holding:
    """Follows one environment's gates in time.

    Attributes:
        freezes: people's freezes by what they are of.
        held: rollouts that were told to be held, and have not gone on since.
        agreed: rollouts whose next step a person said yes to.
        let_through: when a person let a rollout pass.
    """

    def __init__(self, fail: Callable[[str, str], None]) -> None:
        self.fail = fail
        self.freezes: dict[str, Freeze] = {}
        self.held: set[str] = set()
        self.agreed: set[str] = set()
        self.let_through: dict[str, float] = {}

    def shut(self, rollout: str, plan: Plan, doc: Mapping[str, Any], at: float) -> bool:
        """Whether a gate in time holds this rollout at a moment, with the environment as it is remembered."""
        window, frozen = shut_by_file(plan, at)
        passed = self.let_through.get(rollout)
        if passed is not None:
            passed, window, frozen = min(passed, at), False, False
        newer = (f for f in self.freezes.values() if passed is None or f.at > passed)
        frozen = frozen or any(at < freeze.until for freeze in newer)
        lost = doc.get("stable_lost_at")
        broken = doc.get("stable") is not None and lost is not None and at - min(lost, at) >= LOST_SECONDS
        return frozen or (window and not broken)

    def stepped(self, rollout: str, plan: Plan, event: Event, doc: Mapping[str, Any], at: float) -> None:
        """One event of a rollout. `doc`: the environment as it was remembered before this look."""
        shut = self.shut(rollout, plan, doc, at)
        remembered = doc.get("rollout") or {}
        whole = event is Event.SOAKED and remembered.get("id") == rollout and remembered["weight"] == FULL
        if event is Event.AGREED:
            self.agreed.add(rollout)
        if event in ONWARD and shut and not whole and rollout not in self.agreed:
            self.fail("7", f"{rollout} met {event} while a gate in time was shut")
        back = (
            shut_by_file(plan, at)[0] and rollout not in self.let_through
        )  # a stable noted as lost, and seen again now
        if event is Event.HELD and not shut and not back:
            self.fail("7", f"{rollout} is held, and no gate in time is shut")
        if event is Event.HELD:
            self.held.add(rollout)
        else:
            self.held.discard(rollout)
        if event is Event.STEP_OVER:
            self.agreed.discard(rollout)
        if event is Event.LET_THROUGH:
            self.let_through[rollout] = at
