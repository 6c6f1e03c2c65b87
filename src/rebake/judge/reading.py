"""Ticks and arms from what others hand over: mappings or objects, with fields that may be missing or absurd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rebake.judge.metrics import SHARES, kinds_of
from rebake.judge.samples import LATENCY_BUCKETS, Arm, Tick


def tick_from(sample: Any) -> Tick:
    """A tick from a mapping or object with `t`, `dt`, `weight` and the arms `canary` and `baseline` (or `candidate`
    and `stable`)."""
    if isinstance(sample, Tick):
        return sample
    candidate = field_of(sample, "canary")
    stable = field_of(sample, "baseline")
    return Tick(
        t=number_from(field_of(sample, "t")),
        dt=number_from(field_of(sample, "dt")),
        weight=number_from(field_of(sample, "weight")),
        stable=arm_from(stable if stable is not None else field_of(sample, "stable")),
        candidate=arm_from(candidate if candidate is not None else field_of(sample, "candidate")),
    )


def arm_from(arm: Any) -> Arm:
    """An arm from a mapping or object with `n`, `errors` and, where known, `endpoints` (name to requests and failures)
    and `latency` (counts by bucket, as a list or by number of the bucket)."""
    if arm is None:
        return Arm()
    if isinstance(arm, Arm):
        return arm
    endpoints, instances = field_of(arm, "endpoints"), field_of(arm, "instances")
    return Arm(
        n=int(number_from(field_of(arm, "n"))),
        errors=int(number_from(field_of(arm, "errors"))),
        endpoints={} if endpoints is None else {str(k): _counts(v) for k, v in dict(endpoints).items()},
        latency=_latency(field_of(arm, "latency")),
        instances={} if instances is None else {str(k): arm_from(v) for k, v in dict(instances).items()},
    )


def _counts(pair: Any) -> tuple[int, int]:
    """(requests, failures) from a pair, or from an arm's own fields."""
    values = (field_of(pair, "n"), field_of(pair, "errors")) if field_of(pair, "n") is not None else (pair[0], pair[1])
    return int(number_from(values[0])), int(number_from(values[1]))


def _latency(counts: Any) -> Sequence[int]:
    if counts is None:
        return ()
    if not isinstance(counts, Mapping):
        return counts  # type: ignore[no-any-return]
    buckets = [0] * LATENCY_BUCKETS
    for bucket, count in counts.items():
        buckets[min(max(int(bucket), 0), LATENCY_BUCKETS - 1)] += int(number_from(count))
    return buckets


def field_of(value: Any, name: str) -> Any:
    """A field of a mapping or an object; None where there is none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def kinds_of_ticks(sample: Any, history: Arm | None) -> tuple[str, ...]:
    """What the ticks will carry, seen by which fields they have, never by what is counted in them."""
    kinds = set(kinds_of(history))
    arms = [
        arm for name in ("canary", "baseline", "candidate", "stable") if (arm := field_of(sample, name)) is not None
    ]
    for name in ("endpoints", "latency"):
        if any(_carries(arm, name) for arm in arms):
            kinds.add(name)
    return tuple(k for k in SHARES if k in kinds)


def _carries(arm: Any, name: str) -> bool:
    value = None if arm is None else field_of(arm, name)
    return value is not None and (not isinstance(arm, Arm) or len(value) > 0)


def time_of(sample: Any) -> float:
    """Where a tick begins, seconds."""
    return number_from(field_of(sample, "t"))


def number_from(value: Any) -> float:
    """A number that may be missing or absurd; 0 then."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
