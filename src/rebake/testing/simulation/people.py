"""What people ask for is done, in order and at once, or refused aloud; and nothing happens that nobody asked for.

Promises 6, 7 and 8, told again without a word of the engine's own code: the watch keeps its own list of what waits, of
what an undo may go back to and of what is in quarantine, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rebake.ledger.ports import Put
from rebake.release.manifest import Revision, Settings
from rebake.rollout.plan import Plan
from rebake.rollout.states import FINAL, TABLE, Event, State
from rebake.rollout.world import Command
from rebake.testing.simulation.scenario import ENVIRONMENT, SERVICE

CELLS = dict(TABLE)
ASKED = frozenset(
    {Event.UNDO, Event.STOP, Event.SUPERSEDED, Event.APPROVE, Event.LET_THROUGH, Event.AGREED, Event.HURRIED}
)
"""Events that only a person's request brings about."""


class People:
    """Follows one environment's requests through the ledger.

    Attributes:
        waiting: rollouts that were asked for and have not begun, oldest first.
        quarantine: revisions that must not be deployed.
        taken_back: revisions that were in quarantine at any time.
        previous: revisions that an undo may go back to, newest first.
        serving: the revision in service.
        lockstep: rollouts of groups, and whether their group goes in lockstep.
    """

    def __init__(self, fail: Callable[[str, str], None]) -> None:
        self.fail = fail
        self.commands: dict[str, Command] = {}
        self.decided: set[str] = set()
        self.waiting: list[str] = []
        self.quarantine: set[str] = set()
        self.taken_back: set[str] = set()
        self.previous: list[str] = []
        self.serving: str | None = None
        self.going_back: dict[str, str] = {}
        self.revisions: dict[str, str] = {}
        self.plans: dict[str, Plan] = {}
        self.states: dict[str, State] = {}
        self.active: str | None = None
        self.lockstep: dict[str, bool] = {}
        self.held: Callable[[str], bool] = lambda _rollout: False
        self.held_in_soak: Callable[[str], bool] = lambda _rollout: False
        self._owed: tuple[str, Event | None] | None = None
        self._dropped: set[str] = set()
        self._refused: set[str] = set()
        self._shut_away: set[str] = set()
        self._taken_in: set[str] = set()

    def asks(self, command: Command) -> None:
        self.commands[command.id] = command
        if command.rollout is not None:
            self.revisions[command.rollout.id] = command.rollout.revision.digest
            self.plans[command.rollout.id] = command.rollout.plan
            if command.rollout.group is not None:
                self.lockstep[command.rollout.id] = command.rollout.group.order == "lockstep"

    # One commit: its decisions and transitions in order, then what it must hold

    def decision(self, body: Mapping[str, Any]) -> None:
        """A request was taken in."""
        self._settled()
        command = self.commands[str(body["request"])]
        if command.id in self.decided:
            self.fail("11", f"{command.id} was decided on twice")
        self.decided.add(command.id)
        self._taken_in.add(command.id)
        getattr(self, f"_{command.verb}")(command)

    def moved(self, rollout: str, before: str | None, after: str, event: Event | None) -> None:
        if before is None:
            self._begun(rollout)
        elif event is None:
            self._ended_aloud(rollout)
        elif event in ASKED:
            if self._owed != (rollout, event):
                self.fail("7", f"{event} of {rollout}: nobody asked for it")
            self._owed = None
        elif self._owed is not None and self._owed[0] == rollout:
            self._ignored(before)
        self.states[rollout] = State(after)
        if State(after) in FINAL:
            self.active = None if self.active == rollout else self.active
            if after == State.PROMOTED:
                self._promoted(rollout)

    def shut_away(self, rollout: str) -> None:
        """This rollout was taken back: its revision goes into quarantine."""
        self._put_away(self.revisions.get(rollout))

    def commit_ends(self, doc: Mapping[str, Any], puts: Sequence[Put]) -> None:
        self._settled()
        key = {kind: [p for p in puts if p.kind == kind] for kind in ("refusal", "quarantine", "command")}
        refused = {p.key.rpartition("/")[2] for p in key["refusal"] if p.doc is not None}
        if refused != self._refused:
            self.fail("7", f"refused were {sorted(refused)}, expected {sorted(self._refused)}")
        kept = {str(p.doc["revision"]) for p in key["quarantine"] if p.doc is not None}
        if kept != self._shut_away:
            self.fail("6", f"put into quarantine: {_short(kept)}, expected {_short(self._shut_away)}")
        gone = {p.key.rpartition("/")[2] for p in key["command"] if p.doc is None}
        if gone != self._taken_in:
            self.fail("11", f"requests {sorted(gone)} are gone, decided on were {sorted(self._taken_in)}")
        self._remembered(doc)
        self._refused, self._shut_away, self._taken_in = set(), set(), set()

    def _remembered(self, doc: Mapping[str, Any]) -> None:
        previous = [digest_in(fleet) for fleet in doc.get("previous") or ()]
        if previous != self.previous:
            self.fail("8", f"an undo can go back to {_short(previous)}, expected {_short(self.previous)}")
        queue = [str(r["id"]) for r in doc.get("queue") or ()]
        if queue != self.waiting:
            self.fail("6", f"waiting are {queue}, expected {self.waiting}")

    def _settled(self) -> None:
        """What was asked for was done before the next request was taken in."""
        if self._owed is not None:
            self._ignored(str(self.states.get(self._owed[0])))
        if self._dropped:
            self.fail("7", f"{sorted(self._dropped)} still wait, although all that waits was to end")
            self._dropped.clear()

    def _ignored(self, state: str) -> None:
        rollout, event = self._owed or ("", None)
        self.fail("7", f"{event or 'down'} was ignored: {rollout} is {state}")
        self._owed = None

    # Requests, by verb

    def _owe(self, event: Event) -> bool:
        """Whether the rollout under way must follow this request."""
        if self.active is None:
            return False
        cell = CELLS[self.states[self.active], event]
        if cell.to is not None:
            self._owed = (self.active, event)
        return cell.refused is None

    def _drop(self) -> None:
        self._dropped = set(self.waiting)

    def _begin(self, command: Command) -> None:
        assert command.rollout is not None
        rollout = command.rollout
        if self.active is not None:
            soaking = self.states[self.active] is State.SOAKING
            if soaking and self.active in self.lockstep:
                if rollout.plan.when_busy == "supersede":
                    self._drop()
                self._owe(Event.HURRIED)
            elif soaking and self.held_in_soak(self.active):
                if rollout.plan.when_busy == "supersede":
                    self._drop()
            elif soaking or rollout.plan.when_busy == "supersede":
                self._drop()
                self._owe(Event.SUPERSEDED)
        self.waiting.append(rollout.id)

    def _stop(self, command: Command) -> None:
        self._drop()
        if self.active is not None and not self._owe(Event.STOP):
            self._refused.add(command.id)

    def _approve(self, command: Command) -> None:
        through = self.active is not None and self.held(self.active)
        if through and self.states[self.active or ""] is not State.ASKING:
            self._owe(Event.LET_THROUGH)
        elif self.lockstep.get(self.active or "") and self.states[self.active or ""] in (State.HOLDING, State.ASKING):
            self._owe(Event.AGREED)
        elif not self._owe(Event.APPROVE):
            self._refused.add(command.id)

    def _undo(self, command: Command) -> None:
        self._drop()
        active = self.active
        if active is not None:
            returning = self.states[active] is State.RETURNING
            if active in self.going_back and not returning:
                self._refused.add(command.id)
            elif self._owe(Event.UNDO) and not returning:
                self.shut_away(active)
            return
        target = next((r for r in self.previous if r not in self.quarantine and r != self.serving), None)
        if target is None:
            self._refused.add(command.id)
            return
        rollout = str(command.rollout_id)
        self.going_back[rollout] = self.revisions[rollout] = target
        self._put_away(self.serving)
        self.waiting.append(rollout)

    def _down(self, command: Command) -> None:
        self._drop()
        if self.active is not None:
            self._owed = (self.active, None)
        self.previous, self.serving = [], None

    def _resize(self, command: Command) -> None:
        """Nothing is owed but the size; `Watch` compares it."""

    # What followed

    def _begun(self, rollout: str) -> None:
        if self.active is not None:
            self.fail("6", f"{rollout} began while {self.active} is {self.states[self.active]}")
        if self.waiting[:1] != [rollout]:
            self.fail("6", f"{rollout} began, but {self.waiting} wait in this order")
        self.waiting = [r for r in self.waiting if r != rollout]
        self.active = rollout

    def _ended_aloud(self, rollout: str) -> None:
        """It was dropped from the queue, or ended by `down`."""
        if self._owed == (rollout, None):
            self._owed = None
        elif rollout not in self._dropped:
            self.fail("7", f"{rollout} was dropped, and nobody asked for it")
        self._dropped.discard(rollout)
        self.waiting = [r for r in self.waiting if r != rollout]

    def _promoted(self, rollout: str) -> None:
        now, before = self.revisions.get(rollout), self.serving
        if before is not None and now is not None:
            self.previous = [r for r in self.previous if r not in (now, before)]
            if rollout not in self.going_back:
                self.previous.insert(0, before)
            keep = self.plans[rollout].keep if rollout in self.plans else len(self.previous)
            self.previous = self.previous[: max(1, keep)]
        self.serving = now

    def _put_away(self, revision: str | None) -> None:
        if revision is not None:
            self.quarantine.add(revision)
            self.taken_back.add(revision)
            self._shut_away.add(revision)


@lru_cache(maxsize=1024)
def _name(release: str, env: tuple[tuple[str, str], ...]) -> str:
    return Revision(SERVICE, ENVIRONMENT, release, Settings(dict(env))).digest


def digest_in(fleet: Mapping[str, Any]) -> str:
    """The revision of a fleet's or rollout's document."""
    revision = fleet["revision"]
    return _name(revision["release"], tuple(sorted(revision["settings"]["env"].items())))


def _short(revisions: Sequence[str] | set[str]) -> list[str]:
    return [r[7:13] for r in (sorted(revisions) if isinstance(revisions, set) else revisions)]
