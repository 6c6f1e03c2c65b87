"""A tape judged again, by the same settings or by others: what would have happened, and when. Pure.

What is exact and what is not:

- the requests are those that were recorded, dealt by the weights of then. With the same settings the outcome is the
  recorded one, to the second and the last digit of the evidence;
- other margins that take the candidate back earlier do so exactly where it says;
- after the recorded end nobody knows: what was not taken back by then is `undecided`, with its evidence;
- a promotion needs that at each recorded step the judge would have let it go on; else it is `held` there;
- with another profile the candidate would have got other shares: when the ramp is over is then an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rebake.judge.replay import Replay
from rebake.judge.samples import Tick, Verdict
from rebake.judge.tape import Beginning, Entry, hear, tick_of
from rebake.traffic.ramp import Profile

PROMOTED_STATES = frozenset({"soaking", "finishing"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout ends by one judge. Seconds count from the first judged tick.

    Attributes:
        second: of the decision; of the last tick where none was made.
        evidence, candidate, stable: at that second; the pairs are (requests, failures).
        promoted_at: when it was promoted, if it was, also if it was taken back later.
        held_seconds: how long the brake (or a fault) held it in all.
        estimated: `promoted_at` stands for shares that the candidate did not get.
    """

    outcome: Literal["rolled-back", "promoted", "held", "undecided"]
    second: float
    evidence: float
    needed: float
    reason: str
    candidate: tuple[int, int] = (0, 0)
    stable: tuple[int, int] = (0, 0)
    promoted_at: float | None = None
    held_seconds: float = 0.0
    estimated: bool = False

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: dict(zip(("total", "errors"), getattr(self, name), strict=True)) for name in ("stable", "candidate")
        }
        return {**asdict(self), **sides}


def rerun(beginning: Beginning, entries: Iterable[Entry], *, profile: Profile | None = None) -> Outcome:
    """Judge again. `profile`: let this ramp say when it would be over, instead of the recorded steps."""
    return _Again(beginning, profile).through(entries)


def happened(entries: Iterable[Entry], *, needed: float) -> Outcome:
    """How it did end, from what the tape says was said."""
    return _Then(needed).through(entries)


class _Walk:
    """What both have in common: totals, the clock, and the outcome so far."""

    def __init__(self, needed: float) -> None:
        self.needed = needed
        self.second = 0.0
        self.totals: dict[str, tuple[int, int]] = {"stable": (0, 0), "candidate": (0, 0)}
        self.promoted_at: float | None = None
        self.held = 0.0

    def count(self, tick: Tick) -> None:
        self.second = tick.t + tick.dt
        for name, arm in (("stable", tick.stable), ("candidate", tick.candidate)):
            n, k = self.totals[name]
            self.totals[name] = (n + arm.n, k + arm.errors)

    def now(self, outcome: Any, evidence: float, reason: str) -> Outcome:
        return Outcome(
            outcome,
            self.second,
            evidence,
            self.needed,
            reason,
            self.totals["candidate"],
            self.totals["stable"],
            self.promoted_at,
            self.held,
        )


class _Again(_Walk):
    """A judge of its own."""

    def __init__(self, beginning: Beginning, profile: Profile | None) -> None:
        self.judge = beginning.judge()
        super().__init__(self.judge.needed)
        self.profile = profile
        self.ramp = Replay.beside(self.judge, profile or "default")
        self.verdict: Verdict | None = None
        self.stopped: Outcome | None = None

    def through(self, entries: Iterable[Entry]) -> Outcome:
        for entry in entries:
            if entry[0] == "tick":
                self._tick(tick_of(entry[1]))
            elif entry[0] == "step":
                self.judge.begin_step()
            elif entry[0] == "heard":
                self.verdict = hear(self.judge, entry[1])
            elif entry[0] == "said" and self.profile is None:
                self._gate(entry[1])
            if self.verdict is not None and self.verdict.kind == "harmful":
                return self.now("rolled-back", self.verdict.evidence, self.verdict.reason)
        return self._end()

    def _tick(self, tick: Tick) -> None:
        self.count(tick)
        action, _ = self.ramp.feed(tick)
        self.verdict = self.ramp.verdict
        assert self.verdict is not None
        self.held += tick.dt if self.verdict.brake else 0.0
        if self.profile is not None and action == "promote" and self.promoted_at is None:
            self.promoted_at = self.second

    def _gate(self, said: Mapping[str, Any]) -> None:
        """Where the rollout went on: this judge must have let it, too."""
        state = said.get("state")
        if state is None or self.verdict is None or self.stopped is not None:
            return
        if state in PROMOTED_STATES and self.promoted_at is None:
            self.promoted_at = said["t"]
        lets = not self.verdict.brake or bool(said.get("brake"))
        lets = lets and (said["kind"] != "healthy" or self.verdict.kind == "healthy")
        if state == "shifting" and not lets:
            self.stopped = self.now("held", self.verdict.evidence, self.verdict.reason)

    def _end(self) -> Outcome:
        evidence = self.judge.evidence
        reason = self.verdict.reason if self.verdict is not None else "nothing was judged"
        if self.stopped is not None:
            return self.stopped
        if self.promoted_at is None:
            return self.now("undecided", evidence, reason)
        left = self.verdict.left if self.verdict is not None else ""
        return replace(self.now("promoted", evidence, left or reason), estimated=self.profile is not None)


class _Then(_Walk):
    """What was said at the time."""

    def through(self, entries: Iterable[Entry]) -> Outcome:
        last: Mapping[str, Any] = {"kind": "undecided", "evidence": 1.0, "t": 0.0}
        judged = 0.0  # the last tick's length: whether it was braked is said after it, if that changed
        for entry in entries:
            if entry[0] == "tick":
                tick = tick_of(entry[1])
                self.count(tick)
                self.held += judged if last.get("brake") else 0.0
                judged = tick.dt
            elif entry[0] == "said":
                last = entry[1]
                self.held, judged = self.held + (judged if last.get("brake") else 0.0), 0.0
                if last.get("state") in PROMOTED_STATES and self.promoted_at is None:
                    self.promoted_at = last["t"]
                if last["kind"] == "harmful":
                    break
        outcome = (
            "rolled-back" if last["kind"] == "harmful" else "promoted" if self.promoted_at is not None else "undecided"
        )
        return self.now(outcome, last["evidence"], "as recorded")


def settings_differ(before: Beginning, after: Beginning) -> Sequence[str]:
    """The settings that are not the same, as `name: before -> after`."""
    found = []
    ours, theirs = asdict(before.settings), asdict(after.settings)
    for name in ours:
        if ours[name] != theirs[name]:
            found.append(f"{name}: {ours[name]} -> {theirs[name]}")
    return found
