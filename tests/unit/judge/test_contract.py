"""The plain function `judge(samples so far) -> (action, weight)` under a simulator of its own, with seeds of its own.

It knows nothing of the benchmark's world: arrivals, drift, endpoints and latencies are drawn here anew, samples are
plain dictionaries, and the answer is acted on two ticks later. The bars are those of the goal, in reduced form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import pytest

from rebake.judge.replay import factory

ENDPOINTS: Mapping[str, float] = {"GET /": 0.55, "GET /search": 0.3, "POST /cart": 0.1, "GET /export": 0.05}
DELAY = 2
ACTIONS = {"continue", "hold", "rollback", "promote"}


@dataclass
class Release:
    """What a release does to a request, beyond what all do: `failing` of all, `dead` endpoints, `slower` answers."""

    failing: float = 0.0
    dead: frozenset[str] = frozenset()
    slower: float = 1.0
    from_second: float = 0.0


@dataclass
class Met:
    """How one rollout went. `bad`: requests that the release itself spoiled."""

    bad: int = 0
    ended: str = "continue"
    seconds: float = 0.0
    promoted: float | None = None
    answers: list[tuple[str, float]] = field(default_factory=list)


class World:
    """One service at `rate` requests a second that fails `usual` of them."""

    def __init__(self, seed: int, rate: float, usual: float = 0.0005) -> None:
        self.chance = np.random.default_rng([20_260, seed])
        self.rate, self.usual = rate, usual
        self.outage: tuple[float, float] | None = None

    def history(self) -> dict[str, Any]:
        n = int(self.chance.poisson(self.rate * 3600))
        return self.arm(n, self.usual, Release())

    def arm(self, n: int, failing: float, release: Release) -> dict[str, Any]:
        asked = self.chance.multinomial(n, list(ENDPOINTS.values()))
        endpoints, good = {}, 0
        for name, count in zip(ENDPOINTS, asked, strict=True):
            p = 1.0 if name in release.dead else min(1.0, failing + release.failing)
            failed = int(self.chance.binomial(count, p))
            endpoints[name] = (int(count), failed)
            good += int(count) - failed
        times = self.chance.lognormal(math.log(80.0 * release.slower), 0.5, good)
        latency = np.bincount(np.clip(np.ceil(np.log(times) / math.log(1.05)), 0, 225).astype(int), minlength=226)
        errors = sum(k for _, k in endpoints.values())
        return {"n": n, "errors": errors, "endpoints": endpoints, "latency": latency.tolist()}

    def roll_out(self, release: Release, seconds: int, *, known: bool = True) -> Met:
        service = {"rate_hint": self.rate, "history": self.history()} if known else {"rate_hint": None, "history": None}
        judge, met, level = factory(service), Met(), 0.0
        samples: list[dict[str, Any]] = []
        answers = [judge(samples)] * DELAY
        for t in range(seconds):
            weight = answers[-DELAY][1]
            level = 0.98 * level + float(self.chance.normal(0.0, 0.06))
            n = int(self.chance.poisson(self.rate * math.exp(level - 0.05)))
            mine = int(self.chance.binomial(n, weight))
            failing = self.usual * math.exp(3.0 * level)
            if self.outage is not None and self.outage[0] <= t < self.outage[1]:
                failing += 0.3
            now = release if t >= release.from_second else Release()
            canary, baseline = self.arm(mine, failing, now), self.arm(n - mine, failing, Release())
            met.bad += sum(
                count if name in now.dead else round(count * now.failing)
                for name, (count, _) in canary["endpoints"].items()
            )
            samples.append({"t": float(t), "dt": 1.0, "weight": weight, "canary": canary, "baseline": baseline})
            answers.append(judge(samples))
            action, asked = answers[-1]
            assert action in ACTIONS
            assert 0.0 <= asked <= 1.0
            met.ended, met.seconds = action, t + 1.0
            if action == "promote" and met.promoted is None:
                met.promoted = met.seconds
            if answers[-DELAY][0] == "rollback":
                break
        met.answers = answers
        return met


@pytest.mark.parametrize(
    "release",
    [Release(failing=1.0), Release(failing=0.2), Release(failing=0.05), Release(dead=frozenset({"GET /export"}))],
    ids=["crash", "+20 points", "+5 points", "endpoint dead"],
)
@pytest.mark.parametrize("rate", [20.0, 200.0])
def test_a_release_that_fails_five_points_or_more_is_taken_back_after_a_handful(release: Release, rate: float) -> None:
    met = [World(seed, rate).roll_out(release, 900) for seed in range(24)]
    assert {m.ended for m in met} == {"rollback"}
    bad = sorted(m.bad for m in met)
    assert median(bad) <= 5
    assert bad[-2] <= 10


def test_a_good_release_is_promoted_in_a_quarter_of_an_hour_and_never_taken_back() -> None:
    met = [World(100 + seed, 20.0).roll_out(Release(), 1200) for seed in range(8)]
    assert {m.ended for m in met} == {"promote"}
    assert median(m.promoted or math.inf for m in met) <= 15 * 60


def test_an_outage_of_what_both_use_takes_nothing_back() -> None:
    for seed in range(12):
        world = World(200 + seed, 20.0)
        world.outage = (120.0, 300.0)
        met = world.roll_out(Release(), 600)
        assert "rollback" not in {action for action, _ in met.answers}


def test_a_late_bomb_is_taken_back_after_its_promotion() -> None:
    met = World(300, 20.0).roll_out(Release(failing=0.5, from_second=1100.0), 1300)
    assert met.promoted is not None
    assert met.ended == "rollback"


def test_slower_answers_are_taken_back_once_the_candidate_is_warm() -> None:
    met = World(400, 100.0).roll_out(Release(slower=1.5), 900)
    assert met.ended == "rollback"
    assert met.seconds > 90


@pytest.mark.parametrize("known", [True, False])
def test_no_traffic_at_all_holds_for_ever(known: bool) -> None:
    met = World(500, 0.0).roll_out(Release(), 3700, known=known)
    assert {action for action, _ in met.answers[DELAY:]} <= {"continue", "hold"}
    assert met.answers[-1][1] <= 0.1


def test_nothing_known_beforehand_changes_neither_verdict() -> None:
    assert World(600, 20.0).roll_out(Release(failing=0.2), 900, known=False).ended == "rollback"
    assert World(601, 20.0).roll_out(Release(), 1500, known=False).ended == "promote"


ODD: list[dict[str, Any]] = [
    {},
    {"t": 0.0, "dt": 1.0, "weight": 0.1},
    {"t": 0.0, "dt": 1.0, "weight": 0.1, "canary": None, "baseline": None},
    {"t": 0.0, "dt": 1.0, "weight": 0.0, "canary": {"n": 5, "errors": 5}, "baseline": {"n": 5, "errors": 0}},
    {"t": 0.0, "dt": 1.0, "weight": 1.0, "canary": {"n": 5, "errors": 0}, "baseline": {"n": 0, "errors": 0}},
    {"t": 0.0, "dt": 0.0, "weight": 0.5, "canary": {"n": 0, "errors": 0}, "baseline": {"n": 0, "errors": 0}},
    {"t": 0.0, "dt": 1.0, "weight": 0.5, "canary": {"n": 1, "errors": -9}, "baseline": {"n": -4, "errors": -1}},
    {"t": 0.0, "dt": 1.0, "weight": 7.0, "canary": {"n": 1, "errors": 0}, "baseline": {"n": 1, "errors": 0}},
    {"t": 0.0, "dt": 1.0, "weight": math.nan, "canary": {"n": math.inf}, "baseline": {"n": "many"}},
    {"t": math.nan, "dt": math.inf, "weight": 0.1, "canary": {"n": 1, "errors": 0}, "baseline": {"n": 9, "errors": 0}},
    {
        "t": 0.0,
        "dt": 1.0,
        "weight": 0.1,
        "canary": {"n": 3, "errors": 0, "endpoints": {}, "latency": []},
        "baseline": {"n": 30, "errors": 0, "endpoints": None, "latency": [1] * 500},
    },
    {
        "t": 0.0,
        "dt": 1.0,
        "weight": 0.1,
        "canary": {"n": 3, "errors": 0, "endpoints": {"": (3, -5), "GET /": [1, 0]}, "latency": [0.0] * 3},
        "baseline": {"n": 30, "errors": 0, "endpoints": {"GET /": {"n": 3, "errors": 0}}, "latency": {10: 4, 900: 2}},
    },
    {
        "t": 0.0,
        "dt": 1.0,
        "weight": 0.1,
        "canary": {"n": 3, "errors": 0, "latency": np.zeros(226)},
        "baseline": {"n": 30, "errors": 0, "latency": np.full(226, 3)},
    },
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("service", [{}, {"rate_hint": -3.0, "history": {}}, {"rate_hint": 20.0, "history": {"n": 0}}])
def test_odd_samples_alone_decide_nothing_and_raise_nothing(odd: dict[str, Any], service: dict[str, Any]) -> None:
    judge = factory(service)
    samples: list[dict[str, Any]] = []
    for t in range(30):
        samples.append({**odd, **({"t": float(t)} if odd.get("t") == 0.0 else {})})
        action, weight = judge(samples)
        assert action in {"continue", "hold"}
        assert 0.0 < weight < 1.0


def test_odd_samples_in_between_hide_no_crash_and_blame_no_good_release() -> None:
    for failing, expected in ((1.0, "rollback"), (0.0, "continue")):
        world = World(700, 20.0)
        judge, samples = factory({"rate_hint": 20.0, "history": world.history()}), []
        for t in range(200):
            if t % 5 == 0:
                samples.append({**ODD[t // 5 % len(ODD)], "t": float(t)})
            else:
                mine = int(world.chance.binomial(20, 0.05))
                canary, baseline = world.arm(mine, 0.0, Release(failing)), world.arm(20 - mine, 0.0, Release())
                samples.append({"t": float(t), "dt": 1.0, "weight": 0.05, "canary": canary, "baseline": baseline})
            action, _ = judge(samples)
        assert (action if action == "rollback" else "continue") == expected
