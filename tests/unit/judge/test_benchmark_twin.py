"""The benchmark counts thousands of rollouts in arrays; it must say exactly what the shipped judge and ramp say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from benchmarks.judge_batch import Batch
from benchmarks.judge_world import SCENARIOS, Step, World

from rebake.judge.replay import Replay
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Tick
from rebake.traffic.ramp import Profile


def arm(world: World, step: Step, cohort: int, run: int) -> Arm:
    """One run's counts as the shipped judge reads them: the counts between two watched edges in a bucket between."""
    edges = world.edges[cohort][:, run]
    lower = [round(np.log(e) / np.log(1.05)) + 1 for e in edges]
    successes = int(step.n[cohort, run] - step.errors[cohort, run])
    passed = [successes, *(int(x) for x in step.above[cohort][:, run]), 0]
    latency = [0] * LATENCY_BUCKETS
    for bucket, (above, further) in zip([0, *lower], itertools.pairwise(passed), strict=True):
        latency[bucket] += above - further
    spread = step.by_endpoint[cohort, :, :, run].T
    endpoints = {f"e{i}": (int(n), int(k)) for i, (n, k) in enumerate(spread) if n}
    return Arm(int(step.n[cohort, run]), int(step.errors[cohort, run]), endpoints, latency)


@pytest.mark.parametrize(
    ("scenario", "rate", "profile", "ticks"),
    [
        ("outage", 20.0, "default", 700),
        ("+1 point", 20.0, "fast", 300),
        ("p99 x2", 200.0, "default", 200),
        ("good", 0.2, "careful", 900),
        ("weight +10 %", 200.0, "default", 400),
        ("warm-up", 2.0, "fast", 400),
        ("weight -10 %", 200.0, "fast", 500),
    ],
)
def test_the_benchmark_says_what_the_shipped_judge_says_tick_by_tick(
    scenario: str, rate: float, profile: Profile, ticks: int
) -> None:
    runs = 3
    world = World(SCENARIOS[scenario], rate, 1e-2, runs, seed=11)
    batch = Batch(world, profile)
    shipped = [Replay(JudgeSettings(), profile=profile, rate_hint=rate, history=h) for h in batch.histories]
    for t in range(ticks):
        weight = batch.routed()
        answers = [replay.answer for replay in shipped]
        alive = [i for i, (action, _) in enumerate(answers) if action != "rollback"]
        assert [answers[i][1] for i in alive] == pytest.approx(weight[alive])
        step = world.step(float(t), 1.0, weight)
        batch.update(float(t), 1.0, weight, step)
        for i in alive:
            shipped[i].feed(Tick(float(t), 1.0, float(weight[i]), arm(world, step, 1, i), arm(world, step, 0, i)))
            verdict = shipped[i].verdict
            assert verdict is not None
            assert verdict.evidence == pytest.approx(batch.evidence[i], rel=1e-6)
            assert (verdict.kind == "harmful") == batch.harmful[i]
            assert (verdict.fault is not None) == batch.fault[i]
