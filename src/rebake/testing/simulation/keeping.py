"""What must happen, and soon: outcomes written down, stable kept whole, a broken stable replaced, harm taken back, and
the next look planned in time. Checked after every look of an engine that ended by itself.

Promises 4, 6, 9, 10 and 11. A thing that is due counts as missed only when enough looks and enough time passed, by
every clock, in which nothing went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rebake.core.units import FULL
from rebake.platforms.model import Instance
from rebake.rollout.fleets import GIVE_UP_AFTER, backoff_seconds
from rebake.rollout.shares import instances_at
from rebake.rollout.states import State
from rebake.testing.simulation.scenario import KEY, RUN_LIMIT_MS
from rebake.testing.simulation.world import Reality
from rebake.traffic.ports import RouteObservation

LOOKS = 6
"""So many looks in which a thing is due, and is not done, are too many ..."""
SECONDS = 5.0
"""... when they took at least this long."""
NEXT_SECONDS = 1.0
"""While a rollout is under way the next look is at most this far away ..."""
IDLE_SECONDS = 61.0
"""... and this far at any other time."""
LOST_AFTER = 3
"""Failures in a row after which a candidate counts as one that does not stay up."""
TELLING_REQUESTS = 150
"""Requests of each cohort after which half of them failing can be no accident."""
WORD = 1003
"""The mark of a member of a group that does not go back by itself any more."""
MET = frozenset({State.SHIFTING, State.HOLDING, State.ASKING})
WATCHED = MET | {State.SOAKING, State.FINISHING}


def shares_asked(doc: Mapping[str, Any]) -> dict[str, int]:
    """The weights that a document asks for."""
    under_way, stable, candidate = doc.get("rollout"), doc.get("stable"), doc.get("candidate")
    share = int(under_way["weight"]) if under_way is not None and candidate is not None else 0
    shares = {}
    if stable is not None:
        shares[stable["id"]] = FULL - share
    if candidate is not None:
        shares[candidate["id"]] = share
    return {f: w for f, w in shares.items() if w}


def streak_of(fleet: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Failures of a fleet's document since it last proved that it stays up."""
    found = [f for f in fleet["failures"] if f["at"] > fleet["good_at"]]
    last = {f["at"]: f["instance"] for f in found if f["served"]}
    return [f for f in found if not f["served"] or last[f["at"]] == f["instance"]]


@dataclass(slots=True)
class Due:
    """One thing that is due, and since when."""

    since: tuple[float, float]
    looks: int = 0


@dataclass(slots=True)
class Seen:
    """What one look showed, and what it did: by action, whether it was reported done."""

    instances: Mapping[str, Instance] = field(default_factory=dict)
    route: RouteObservation | None = None
    done: dict[str, bool] = field(default_factory=dict)


class Keeping:
    """Follows what is due from look to look.

    Attributes:
        disturbed: counts whatever happens to the world or to an effect; what is due then is due anew.
        written: counts commits of engines.
    """

    def __init__(self, reality: Reality, fail: Callable[[str, str], None]) -> None:
        self.reality = reality
        self.fail = fail
        self.seen: dict[str, Seen] = {}
        self.outcomes: dict[str, bool] = {}
        self.disturbed = 0
        self._known = (0, 0, 0)
        self._due: dict[str, Due] = {}
        self._latest: str | None = None
        self.written = self._written = 0
        self._at_once: dict[str, int] = {}
        self._harm: tuple[str, int, int] | None = None

    def of(self, owner: str) -> Seen:
        return self.seen.setdefault(owner, Seen())

    def outcome(self, body: Mapping[str, Any]) -> None:
        self.outcomes[str(body["action"])] = bool(body["ok"])

    def looked(self, owner: str, doc: Mapping[str, Any], again: float | None) -> None:
        """An engine's look ended.

        Args:
            again: when it wants to look again, by the clock on the wall; None when the look failed.
        """
        seen = self.of(owner)
        if again is not None:
            self._written_down(seen)
            self._look_again(owner, doc, again)
            self._look_at_once(owner, seen, again)
            if self.reality.jobs:
                self._overdue("12", "a run goes on beyond its time", self._endless(doc), doc)
                self._overdue("9", "a slot is not decided on", self._undecided(doc), doc)
            else:
                self._overdue("4", "stable is not kept whole", self._short(seen, doc), doc)
                self._overdue("5", "users find nobody, and there is somebody", self._unreached(seen, doc), doc)
                self._overdue("6", "a broken stable blocks its fix", self._blocked(seen, doc), doc)
                self._overdue("4", "the candidate is not kept at its step", self._below_its_step(seen, doc), doc)
            self._overdue("3", "a candidate that does not stay up keeps its users", self._failing(seen, doc), doc)
            self._overdue("10", "harm that everybody sees goes on", self._harmful(doc), doc)
        seen.done = {}

    def _written_down(self, seen: Seen) -> None:
        for action, ok in seen.done.items():
            if self.outcomes.get(action) is not ok:
                self.fail("9", f"{action} was {'done' if ok else 'refused'}, and no outcome in the ledger says so")

    def _look_again(self, owner: str, doc: Mapping[str, Any], again: float) -> None:
        wait = again - self.reality.wall.now()
        holder = self.reality.ledger.leases.get(KEY, ("", 0, 0.0))[0]
        leads = holder in ("", owner)  # another one's rollout is another one's care
        if wait > (NEXT_SECONDS if doc.get("rollout") and leads else IDLE_SECONDS):
            state = doc["rollout"]["state"] if doc.get("rollout") else "over"
            self.fail("9", f"{owner} looks again in {wait:g}s only, with a rollout that is {state}")

    def _look_at_once(self, owner: str, seen: Seen, again: float) -> None:
        """Who has nothing to do and nothing to write does not look again and again at once."""
        busy = bool(seen.done) or again > self.reality.wall.now() or self._written != self.written
        self._written = self.written
        self._at_once[owner] = 0 if busy else self._at_once.get(owner, 0) + 1
        if self._at_once[owner] > LOOKS:
            self.fail("9", f"{owner} looked {self._at_once[owner]} times at once, with nothing to do")

    def _overdue(self, promise: str, what: str, due: bool | float, doc: Mapping[str, Any]) -> None:
        """Count looks in which a thing is due. `due`: whether, or how many seconds more it may take."""
        reality = self.reality
        known = (self.disturbed, reality.faults.met, reality.led)  # who follows has just begun to look after it
        if known != self._known:
            self._known = known
            self._due.clear()
            self._harm = None
        now = (reality.wall.now(), reality.clock.at)
        if due is False:
            self._due.pop(what, None)
            return
        entry = self._due.setdefault(what, Due(now))
        entry.looks += 1
        passed = min(at - since for at, since in zip(now, entry.since, strict=True))
        if entry.looks > LOOKS and passed > SECONDS + float(due):
            rollout = doc.get("rollout")
            self.fail(promise, f"{what} for {passed:.1f}s ({rollout['state'] if rollout else 'no rollout'})")

    def _endless(self, doc: Mapping[str, Any]) -> bool:
        """Whether a run takes longer than any may, and is still waited for."""
        waited_for = {run["instance"] for run in doc.get("runs") or () if run["ended"] is None}
        going = (p for n, p in self.reality.platform.processes.items() if n in waited_for and p.exit is None)
        return any(self.reality.clock.at - process.started_at > RUN_LIMIT_MS / 1000 for process in going)

    def _undecided(self, doc: Mapping[str, Any]) -> bool:
        """Whether a moment of stable's schedule has passed, and neither a run nor a word says so."""
        stable = doc.get("stable")
        if stable is None:
            return False
        every = stable["plan"]["schedule"]["every_ms"] / 1000
        return doc.get("slot") is None or self.reality.wall.now() - doc["slot"] > every + SECONDS

    def _short(self, seen: Seen, doc: Mapping[str, Any]) -> bool | float:
        """Whether stable has fewer instances than wanted, running or on their way; failures let it wait."""
        stable = doc.get("stable")
        if stable is None:
            return False
        alive = [i for i in seen.instances.values() if i.fleet == stable["id"] and i.state in ("starting", "running")]
        streak = streak_of(stable)
        latest = streak[-1]["instance"] if streak else None
        if latest != self._latest:
            self._latest = latest
            return False
        if len(streak) >= GIVE_UP_AFTER or len(alive) + len(stable["pending"]) >= stable["plan"]["instances"]:
            return False
        return backoff_seconds(len(streak)) or 0.001

    def _unreached(self, seen: Seen, doc: Mapping[str, Any]) -> bool:
        """Whether a fleet that is to have users has healthy instances, and the route names none of them."""
        if self.reality.unrouted or (seen.route is None and self.reality.route is not None):
            return False
        route = self.reality.route
        called = {} if route is None else {f.fleet: {e.instance for e in f.endpoints} for f in route.fleets}
        for fleet in shares_asked(doc):
            fit = {i.id for i in seen.instances.values() if i.fleet == fleet and i.healthy}
            if fit and not fit & called.get(fleet, set()):
                return True
        return False

    def _below_its_step(self, seen: Seen, doc: Mapping[str, Any]) -> bool | float:
        """Whether fewer workers of the candidate than its step takes run or are on their way; failures let it wait."""
        rollout, stable, candidate = doc.get("rollout"), doc.get("stable"), doc.get("candidate")
        if not self.reality.unrouted or rollout is None or candidate is None or rollout["state"] not in WATCHED:
            return False
        beside = 0 if stable is None else int(stable["plan"]["instances"])
        wanted = instances_at(int(rollout["weight"]), beside, int(rollout["plan"]["instances"]))
        alive = [
            i for i in seen.instances.values() if i.fleet == candidate["id"] and i.state in ("starting", "running")
        ]
        streak = streak_of(candidate)
        if len(streak) >= LOST_AFTER or len(alive) + len(candidate["pending"]) >= wanted:
            return False
        return backoff_seconds(len(streak)) or 0.001

    def _blocked(self, seen: Seen, doc: Mapping[str, Any]) -> bool:
        """Whether a candidate that is ready waits behind a stable of which nothing is healthy."""
        rollout, stable, candidate = doc.get("rollout"), doc.get("stable"), doc.get("candidate")
        if rollout is None or stable is None or candidate is None or rollout["state"] not in MET:
            return False
        if rollout["weight"] == FULL or rollout["asking"] == "approval":
            return False
        if seen.route is None and not self.reality.unrouted:
            return False
        fit = {i.id for i in seen.instances.values() if i.healthy and not i.drift}
        if any(i.healthy for i in seen.instances.values() if i.fleet == stable["id"]):
            return False
        if seen.route is None:  # of workers
            ready = {i.id for i in seen.instances.values() if i.fleet == candidate["id"]} & fit
            return len(ready) >= int(rollout["plan"]["instances"])
        ready = fit & seen.route.healthy.get(candidate["id"], frozenset())
        return len(ready) >= int(rollout["plan"]["instances"])

    def _failing(self, seen: Seen, doc: Mapping[str, Any]) -> bool:
        """Whether users are sent to a candidate that is gone, or comes and goes, though stable is there for them."""
        rollout, stable, candidate = doc.get("rollout"), doc.get("stable"), doc.get("candidate")
        if rollout is None or stable is None or candidate is None or rollout["state"] not in WATCHED:
            return False
        healthy = {i.fleet for i in seen.instances.values() if i.healthy}
        if rollout["mark"] >= WORD:
            return False  # it gave its group its word
        gone = candidate["id"] not in healthy and (bool(candidate["sick"]) or not self.reality.unrouted)
        unfit = gone or len(streak_of(candidate)) >= LOST_AFTER
        if self.reality.jobs:
            return bool(rollout["weight"]) and unfit and not streak_of(stable)
        return bool(rollout["weight"]) and stable["id"] in healthy and unfit

    def _harmful(self, doc: Mapping[str, Any]) -> bool:
        """Whether both cohorts served enough, side by side, to show that the candidate alone fails half of it."""
        rollout, stable, candidate = doc.get("rollout"), doc.get("stable"), doc.get("candidate")
        if rollout is None or stable is None or candidate is None or rollout["state"] not in WATCHED:
            self._harm = None
            return False
        if rollout["mark"] >= WORD:
            self._harm = None
            return False
        rates = [self.reality.platform.behaviours[d["revision"]["release"]].error_rate for d in (stable, candidate)]
        served = (self._requests(stable["id"]), self._requests(candidate["id"]))
        if rates[0] or not rates[1]:
            self._harm = None
            return False
        if self._harm is None or self._harm[0] != rollout["id"]:
            self._harm = (rollout["id"], *served)
        assert self._harm is not None
        return all(now - then >= TELLING_REQUESTS for now, then in zip(served, self._harm[1:], strict=True))

    def _requests(self, fleet: str) -> int:
        counted = self.reality.router.counters.get(fleet)
        return counted.requests if counted is not None else 0
