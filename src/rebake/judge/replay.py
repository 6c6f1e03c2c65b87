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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rebake.judge.judge import Judge
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
    ) -> None:
        self.profile: Profile = profile
        self.judge = Judge(settings, rate_hint=rate_hint, history=history)
        self.ramp, bp = begin(rate_hint)
        self.verdict: Verdict | None = None
        self.answer: Answer = ("continue", bp / 10_000)
        self._requests = [0.0, 0.0]
        self._promoted_at: float | None = None

    def feed(self, tick: Tick) -> Answer:
        """Take in one tick and say what to do next."""
        verdict = self.verdict = self.judge.update(tick)
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
        service: a mapping or object with `rate_hint` (requests per second) and `history` (an arm, the hour before);
            optionally `profile`.
        profile: fast, default or careful; None: the service's, else default.
    Returns: a function that takes the list of all ticks so far (mappings or objects, see `tick_from`). It looks at new
        ones only, answers the same for the same ticks, and starts again when it is given a shorter list.
    """
    history = _field(service, "history")
    chosen: Profile = profile or _field(service, "profile") or "default"

    def fresh() -> Replay:
        return Replay(
            settings or JudgeSettings(),
            profile=chosen,
            rate_hint=float(_field(service, "rate_hint") or 0.0),
            history=None if history is None else arm_from(history),
        )

    replay, seen = fresh(), 0

    def judge(samples: Sequence[Any]) -> Answer:
        nonlocal replay, seen
        if len(samples) < seen:
            replay, seen = fresh(), 0
        for sample in samples[seen:]:
            replay.feed(tick_from(sample))
        seen = len(samples)
        return replay.answer

    return judge


def replay(
    ticks: Sequence[Tick], settings: JudgeSettings, *, rate_hint: float = 0.0, history: Arm | None = None
) -> list[Verdict]:
    """Judge recorded ticks again, with the weights they were recorded at: what would have been said, and when."""
    judge = Judge(settings, rate_hint=rate_hint, history=history)
    return [judge.update(tick) for tick in ticks]


def tick_from(sample: Any) -> Tick:
    """A tick from a mapping or object with `t`, `dt`, `weight` and the arms `canary` and `baseline` (or `candidate`
    and `stable`)."""
    if isinstance(sample, Tick):
        return sample
    candidate = _field(sample, "canary")
    stable = _field(sample, "baseline")
    return Tick(
        t=float(_field(sample, "t")),
        dt=float(_field(sample, "dt")),
        weight=float(_field(sample, "weight")),
        stable=arm_from(stable if stable is not None else _field(sample, "stable")),
        candidate=arm_from(candidate if candidate is not None else _field(sample, "candidate")),
    )


def arm_from(arm: Any) -> Arm:
    """An arm from a mapping or object with `n`, `errors` and, where known, `endpoints` and `latency`."""
    if arm is None:
        return Arm()
    if isinstance(arm, Arm):
        return arm
    endpoints, latency = _field(arm, "endpoints"), _field(arm, "latency")
    instances = _field(arm, "instances")
    return Arm(
        n=int(_field(arm, "n") or 0),
        errors=int(_field(arm, "errors") or 0),
        endpoints={} if endpoints is None else {str(k): (int(v[0]), int(v[1])) for k, v in dict(endpoints).items()},
        latency=() if latency is None else latency,
        instances={} if instances is None else {str(k): arm_from(v) for k, v in dict(instances).items()},
    )


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
