"""How fast the engine is simulated, and how long one decision takes."""

from __future__ import annotations

import statistics
import time
from typing import Any

from tests.unit.rollout.world import CANARY, KEY, Shop

from rebake.rollout.decide import decide
from rebake.testing.simulation import draw, simulate

Row = dict[str, Any]


def _rollouts_a_minute(seeds: int) -> float:
    """By the time that one core spent on it: what else runs on the machine is not counted."""
    began, rollouts = time.process_time(), 0
    for seed in range(1, seeds + 1):
        outcome = simulate(draw(seed))
        assert not outcome.violations, outcome.violations
        rollouts += outcome.rollouts
    return rollouts / (time.process_time() - began) * 60


def _decide_us(rounds: int) -> float:
    """One look at an ordinary environment: a canary under way, two fleets of two."""
    shop = Shop()
    shop.serving("sha256:" + "a" * 64)
    shop.deploy("sha256:" + "b" * 64, strategy=CANARY)
    shop.until(lambda: "holding" in shop.where())
    memory, now, spent = shop.engine.memory(KEY), shop.clock.now(), []
    for _ in range(rounds):
        began = time.perf_counter()
        decide(memory.environment, memory.world, now)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6


def run(quick: bool) -> list[Row]:
    """Rows of {"figure", "value", "unit", "peer", "ratio", "bar", "ok"}."""
    rate, spent = _rollouts_a_minute(100 if quick else 1000), _decide_us(2000)
    none: Row = {"peer": "", "ratio": None}
    return [
        {"figure": "simulated rollouts on one core", "value": round(rate), "unit": "a minute", **none}
        | {"bar": 5000, "ok": rate >= 5000},
        {"figure": "decide, median", "value": round(spent, 1), "unit": "µs", **none} | {"bar": 100, "ok": spent <= 100},
    ]
