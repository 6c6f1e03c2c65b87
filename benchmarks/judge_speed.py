"""What one tick costs the judge, by metric."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from rebake.judge.judge import Judge
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Tick

BAR_MICROSECONDS = 50.0
TICKS, ROUNDS = 400, 5
ENDPOINTS = {"a few endpoints": 4, "many endpoints": 60}


def speed_rows() -> list[dict[str, Any]]:
    """Microseconds of one tick by metric: the quickest of several rounds, which other work disturbs least."""
    return [_row(name, endpoints) for name, endpoints in ENDPOINTS.items()]


def _row(name: str, endpoints: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    history = arm(rng, 72_000, endpoints)
    ticks = [Tick(float(t), 1.0, 0.1, arm(rng, 180, endpoints), arm(rng, 20, endpoints)) for t in range(TICKS)]
    metrics = 1 + endpoints + 4
    value = min(_round(ticks, history) for _ in range(ROUNDS)) / metrics
    return {
        "figure": f"one tick of the judge with {name}, for each of its {metrics} metrics",
        "value": value,
        "unit": "µs",
        "peer": None,
        "ratio": None,
        "bar": BAR_MICROSECONDS,
        "ok": value <= BAR_MICROSECONDS,
    }


def _round(ticks: list[Tick], history: Arm) -> float:
    judge = Judge(JudgeSettings(), rate_hint=200.0, history=history)
    begun = time.perf_counter()
    for tick in ticks:
        judge.update(tick)
    return (time.perf_counter() - begun) / len(ticks) * 1e6


def arm(rng: np.random.Generator, n: int, endpoints: int) -> Arm:
    """`n` good requests with lognormal latencies, spread over the endpoints."""
    places = np.ceil(np.log(rng.lognormal(math.log(100.0), 0.6, n)) / math.log(1.05))
    latency = np.bincount(np.clip(places, 0, LATENCY_BUCKETS - 1).astype(int), minlength=LATENCY_BUCKETS)
    spread = rng.multinomial(n, [1.0 / endpoints] * endpoints)
    return Arm(n, 0, {f"GET /{i}": (int(count), 0) for i, count in enumerate(spread)}, latency.tolist())
