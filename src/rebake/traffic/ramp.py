"""The judge's own ramp: how the candidate's share grows. Pure.

What is at risk is a number of requests, not a percentage, so the ramp is counted in candidate requests per second: it
starts with one request in two seconds and grows e-fold in 30 s. n requests without excess failures bound the excess by
about 4.6/n, so each e-fold risks the same few bad requests: growth in time is growth by evidence.

The rules:
- the share never falls here (rolling back is the engine's), and does not grow while the judge brakes;
- it stays at 10 % until 20 candidate requests were judged (or 20 minutes), at 20 % until 300 and four minutes (or 29
  minutes); the
  times count only if at least one candidate request was judged at all: no evidence, no pass;
- then half and half for a bake, which does not count braked time; then finished: all but a hold-back for the soak.

Source: JUDGE.md, "Ramp"; Zhao, Liu, Deb 2019, "Safely and quickly deploying new features with a staged rollout
framework", section 3 (ramp by a budget of harm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rebake.judge.samples import Verdict

Profile = Literal["fast", "default", "careful"]

START_REQUESTS_PER_SECOND = 0.5
GROWTH_SECONDS = 30.0
SMALLEST, FIRST_CAP, SECOND_CAP, HALF = 0.0002, 0.10, 0.20, 0.50
UNKNOWN_RATE_WEIGHT = 0.001
"""Small, because it is only until the first requests show the rate."""
RATE_MEMORY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Course:
    """One profile's numbers. A cap is left after that many candidate requests, or after that many seconds.

    Attributes:
        bake_seconds: time at half and half.
        half_seconds: half and half not before; evidence per spoiled request is worth two to three times more at a
            small share, and waiting costs a good release nothing that users see.
        careful_seconds: time in which the share stays at 10 % or less, however much is known.
        most_requests_per_second: of the candidate in that time.
    """

    bake_seconds: float = 600.0
    first_requests: float = 20.0
    first_seconds: float = 1200.0
    second_requests: float = 300.0
    second_seconds: float = 1740.0
    half_seconds: float = 240.0
    careful_seconds: float = 0.0
    most_requests_per_second: float = math.inf


COURSES: Mapping[Profile, Course] = {
    "fast": Course(bake_seconds=180.0, half_seconds=0.0),
    "default": Course(),
    "careful": Course(careful_seconds=3000.0, most_requests_per_second=100.0),
}


@dataclass(frozen=True, slots=True)
class RampState:
    """Where a ramp stands.

    Attributes:
        wished: candidate requests per second that the ramp has grown to.
        weight: candidate's share, 0 to 1.
        rate: the service's requests per second, estimated; 0 while unknown.
        seen: requests of both cohorts taken in so far.
        baked: seconds spent at half and half without a brake.
        finished: the bake is over.
    """

    wished: float = START_REQUESTS_PER_SECOND
    weight: float = 0.0
    rate: float = 0.0
    seen: float = 0.0
    baked: float = 0.0
    finished: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> RampState:
        return cls(**doc)


def begin(rate_hint: float = 0.0) -> tuple[RampState, int]:
    """The first step: half a request per second when the rate is known, else 0.1 %.

    Returns: the state, and the first weight in basis points.
    """
    rate = rate_hint if math.isfinite(rate_hint) and rate_hint > 0 else 0.0
    weight = UNKNOWN_RATE_WEIGHT if rate == 0 else min(max(START_REQUESTS_PER_SECOND / rate, SMALLEST), FIRST_CAP)
    return RampState(wished=START_REQUESTS_PER_SECOND, weight=weight, rate=rate), basis_points(weight)


def advance(  # noqa: PLR0917
    profile: Profile,
    state: RampState,
    t: float,
    dt: float,
    candidate_requests: float,
    total_requests: float,
    verdict: Verdict,
) -> tuple[RampState, int, bool]:
    """Take in one tick and say what the candidate's share is to be next.

    Args:
        t: seconds since the rollout's first user request, at the tick's end.
        dt: the tick's length, seconds.
        candidate_requests, total_requests: of the candidate and of both cohorts, in the whole rollout so far.
        verdict: the judge's, after this tick. Only an unbraked one that is not harmful lets the ramp grow.
    Returns: the new state; the weight in basis points; True once the candidate may be promoted.
    """
    course = COURSES[profile]
    arrived = max(total_requests - state.seen, 0.0)
    state = replace(state, rate=_rate(state.rate, arrived, dt), seen=max(total_requests, state.seen))
    held = verdict.brake or verdict.fault is not None or verdict.kind == "harmful"
    if held or state.finished:
        return state, basis_points(state.weight), state.finished
    if state.weight >= HALF:
        baked = state.baked + dt
        state = replace(state, baked=baked, finished=baked >= course.bake_seconds)
        return state, basis_points(state.weight), state.finished
    state = _grow(course, state, t, dt, candidate_requests)
    return state, basis_points(state.weight), False


def _grow(course: Course, state: RampState, t: float, dt: float, candidate_requests: float) -> RampState:
    rate = state.rate
    cap = cap_at(course, t, candidate_requests)
    most = course.most_requests_per_second if t < course.careful_seconds else math.inf
    # The wish runs at most one e-fold ahead of what is really sent, so that a cap lifted late is no leap.
    wished = min(state.wished * math.exp(min(dt / GROWTH_SECONDS, 1.0)), most)
    wished = min(wished, math.e * max(state.weight * rate, START_REQUESTS_PER_SECOND)) if rate > 0 else state.wished
    reached = min(max(wished / rate, SMALLEST), cap) if rate > 0 else state.weight
    return replace(state, wished=wished, weight=max(state.weight, reached))


def cap_at(course: Course, t: float, candidate_requests: float) -> float:
    """The largest share that the requests judged so far, or the time spent, allow."""
    if t < course.careful_seconds or candidate_requests <= 0:
        return FIRST_CAP
    if candidate_requests < course.first_requests and t < course.first_seconds:
        return FIRST_CAP
    if candidate_requests < course.second_requests and t < course.second_seconds:
        return SECOND_CAP
    return HALF if t >= course.half_seconds else SECOND_CAP


def _rate(rate: float, arrived: float, dt: float) -> float:
    """Running requests per second, one minute of memory; the first ticks of an unknown rate are averaged."""
    if not dt > 0:
        return rate
    now = arrived / dt
    keep = math.exp(-dt / RATE_MEMORY_SECONDS)
    return now if rate <= 0 else keep * rate + (1.0 - keep) * now


def basis_points(weight: float) -> int:
    """A share as the route carries it; never less than 1 for a share above zero."""
    return max(round(weight * 10_000), 1) if weight > 0 else 0
