"""The judge and the ramp as one plain function of the samples so far: for replays, simulators and tuning margins.

    judge = factory(service)
    samples = []
    action, weight = judge(samples)          # ("continue", 0.0125): the first weight
    samples.append(tick)                     # one second at that weight
    action, weight = judge(samples)          # ... until "rollback", or "promote" with weight 1.0

`action` is one of

- `continue`: route `weight` to the candidate in the next tick;
- `hold`: the same, and the weight does not grow now (the brake, a routing fault, a shared outage, no data);
- `rollback`: harmful; the weight is 0, for good;
- `promote`: the bake is over. The weight leaves a hold-back of 20 % on stable while the judge still watches (a later
  `rollback` is possible); it is 1.0 from the end of the soak on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rebake.judge.judge import Judge
from rebake.judge.reading import arm_from, field_of, kinds_of_ticks, number_from, tick_from, time_of
from rebake.judge.samples import Arm, JudgeSettings, Tick, Verdict
from rebake.traffic.ramp import Profile, advance, begin

HOLD_BACK = 0.2
SOAK_UNTIL_SECONDS = 3600.0
SHORTEST_SOAK_SECONDS = 600.0

Answer = tuple[str, float]


class Replay:
    """One rollout, replayed: a judge, a ramp, and what they last said.

    Attributes:
        verdict: after the last tick; None before the first.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        *,
        profile: Profile = "default",
        rate_hint: float = 0.0,
        history: Arm | None = None,
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.profile: Profile = profile
        self.judge = Judge(settings, rate_hint=rate_hint, history=history, kinds=kinds)
        self.ramp, bp = begin(rate_hint)
        self.verdict: Verdict | None = None
        self.answer: Answer = ("continue", bp / 10_000)
        self._requests = [0.0, 0.0]
        self._promoted_at: float | None = None

    @classmethod
    def beside(cls, judge: Judge, profile: Profile) -> Replay:
        """The ramp of a profile beside a judge that was made elsewhere."""
        replay = cls(judge.settings, profile=profile, rate_hint=judge.rate_hint)
        replay.judge = judge
        return replay

    def feed(self, tick: Tick) -> Answer:
        """Take in one tick and say what to do next."""
        verdict = self.verdict = self.judge.update(tick)
        if tick.pairs is not None and tick.weight <= 0.0 and verdict.kind != "harmful":
            self.answer = "continue", 0.0  # copies are answered, and the ramp has not begun
            return self.answer
        if 0.0 < tick.weight < 1.0:
            self._requests[0] += max(tick.candidate.n, 0)
        self._requests[1] += max(tick.candidate.n, 0) + max(tick.stable.n, 0)
        self.answer = self._answer(verdict, tick.t + tick.dt, tick.dt)
        return self.answer

    def _answer(self, verdict: Verdict, now: float, dt: float) -> Answer:
        if verdict.kind == "harmful":
            return "rollback", 0.0
        if self._promoted_at is not None:
            return "promote", self._soaking(now)
        before = self.ramp.weight
        candidate, total = self._requests
        self.ramp, bp, finished = advance(self.profile, self.ramp, now, dt, candidate, total, verdict)
        if finished:
            self._promoted_at = now
            return "promote", self._soaking(now)
        held = verdict.brake or (candidate == 0 and self.ramp.weight == before)
        return "hold" if held else "continue", bp / 10_000

    def _soaking(self, now: float) -> float:
        promoted = now if self._promoted_at is None else self._promoted_at
        return 1.0 if now >= max(SOAK_UNTIL_SECONDS, promoted + SHORTEST_SOAK_SECONDS) else 1.0 - HOLD_BACK


def factory(
    service: Any, *, profile: Profile | None = None, settings: JudgeSettings | None = None
) -> Callable[[Sequence[Any]], Answer]:
    """Make the function `judge(samples so far) -> (action, weight for the next tick)` for one rollout.

    Args:
        service: a mapping or object with `rate_hint` (requests per second; 0 or None: unknown) and `history` (an arm,
            the hour before; None or empty: unknown); optionally `profile`.
        profile: fast, default or careful; None: the service's, else default.
    Returns: a function that takes the list of all ticks so far (mappings or objects, see `tick_from`). It looks at new
        ones only, answers the same for the same ticks, and starts again when it is given another rollout's list. A list
        from which the first ticks were dropped is read on from the last tick it knows.
    """
    history = field_of(service, "history")
    known = None if history is None else arm_from(history)
    chosen: Profile = profile or field_of(service, "profile") or "default"
    rate_hint = number_from(field_of(service, "rate_hint"))
    following: _Following | None = None

    def fresh(first: Any | None) -> Replay:
        kinds = None if first is None else kinds_of_ticks(first, known)
        return Replay(
            settings or JudgeSettings(), profile=chosen, rate_hint=rate_hint, history=_or_none(known), kinds=kinds
        )

    def judge(samples: Sequence[Any]) -> Answer:
        nonlocal following
        if not samples:
            following = None
            return fresh(None).answer
        if following is None or not following.goes_on(samples):
            following = _Following(fresh(samples[0]), time_of(samples[0]))
        for sample in samples[following.next_of(samples) :]:
            following.take(sample)
        return following.replay.answer

    return judge


@dataclass(slots=True)
class _Following:
    """How far one rollout's list of ticks was read."""

    replay: Replay
    began: float
    seen: int = 0
    last: float = -math.inf

    def goes_on(self, samples: Sequence[Any]) -> bool:
        """Whether this is the same rollout's list, grown, or its later part."""
        first = time_of(samples[0])
        if first == self.began:
            return len(samples) >= self.seen and (not self.seen or time_of(samples[self.seen - 1]) == self.last)
        return self.seen > 0 and self.began < first and time_of(samples[-1]) >= self.last

    def next_of(self, samples: Sequence[Any]) -> int:
        """Index of the first tick not yet taken in."""
        if time_of(samples[0]) == self.began:
            return self.seen
        new = len(samples)
        while new and time_of(samples[new - 1]) > self.last:
            new -= 1
        return new

    def take(self, sample: Any) -> None:
        tick = tick_from(sample)
        self.replay.feed(tick)
        self.seen, self.last = self.seen + 1, tick.t


def _or_none(history: Arm | None) -> Arm | None:
    return history if history is not None and history.n > 0 else None


def replay(
    ticks: Sequence[Tick], settings: JudgeSettings, *, rate_hint: float = 0.0, history: Arm | None = None
) -> list[Verdict]:
    """Judge recorded ticks again, with the weights they were recorded at: what would have been said, and when."""
    judge = Judge(settings, rate_hint=rate_hint, history=history)
    return [judge.update(tick) for tick in ticks]
