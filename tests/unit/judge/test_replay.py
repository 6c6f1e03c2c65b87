"""The judge as one function of the samples so far."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rebake.judge.reading import tick_from
from rebake.judge.replay import factory, replay
from rebake.judge.samples import Arm, JudgeSettings, Tick

SERVICE = {"rate_hint": 20.0, "history": {"n": 72_000, "errors": 72, "endpoints": {"GET /": (72_000, 72)}}}


def live(judge: Any, ticks: int, *, failing: float = 0.0, seed: int = 1) -> tuple[list[dict[str, Any]], list[Any]]:
    """Drive a rollout at 20 requests a second; the candidate fails `failing` more."""
    rng = np.random.default_rng(seed)
    samples: list[dict[str, Any]] = []
    answers = [judge(samples)]
    for t in range(ticks):
        weight = answers[-1][1]
        n = int(rng.poisson(20))
        mine = int(rng.binomial(n, weight))
        arms = {}
        for name, count, rate in (("canary", mine, 0.001 + failing), ("baseline", n - mine, 0.001)):
            errors = int(rng.binomial(count, rate))
            arms[name] = {
                "n": count,
                "errors": errors,
                "endpoints": {"GET /": (count, errors)},
                "latency": [count - errors],
            }
        samples.append({"t": float(t), "dt": 1.0, "weight": weight, **arms})
        answers.append(judge(samples))
        if answers[-1][0] == "rollback":
            break
    return samples, answers


def test_a_good_release_is_promoted_with_a_hold_back_and_then_wholly() -> None:
    _, answers = live(factory(SERVICE), 3700)
    assert answers[0] == ("continue", 0.025)
    promoted = next(i for i, a in enumerate(answers) if a[0] == "promote")
    assert promoted <= 15 * 60
    assert answers[promoted] == ("promote", 0.8)
    assert answers[-1] == ("promote", 1.0)
    assert {a for a, _ in answers} <= {"continue", "hold", "promote"}


def test_a_bad_release_is_rolled_back_for_good() -> None:
    judge = factory(SERVICE)
    samples, answers = live(judge, 600, failing=0.2)
    assert answers[-1] == ("rollback", 0.0)
    assert sum(s["canary"]["errors"] for s in samples) <= 10
    assert judge([*samples, samples[-1]]) == ("rollback", 0.0)


def test_a_late_bomb_after_promotion_is_still_taken_back() -> None:
    judge = factory(SERVICE)
    samples, answers = live(judge, 1000)
    assert answers[-1][0] == "promote"
    for t in range(1000, 1100):
        bad = {
            "t": float(t),
            "dt": 1.0,
            "weight": 0.8,
            "canary": {"n": 16, "errors": 8},
            "baseline": {"n": 4, "errors": 0},
        }
        samples.append(bad)
        answer = judge(samples)
    assert answer == ("rollback", 0.0)


def test_objects_are_read_like_mappings_and_the_answers_depend_on_nothing_but_the_samples() -> None:
    samples, answers = live(factory(SERVICE), 200)

    def thing(value: Any) -> Any:
        return SimpleNamespace(
            **{k: thing(v) if k in ("canary", "baseline", "history") else v for k, v in value.items()}
        )

    again = factory(thing(SERVICE))
    assert again([thing(s) for s in samples]) == answers[-1]
    assert again([thing(s) for s in samples]) == answers[-1], "asking twice changes nothing"
    assert again([]) == answers[0], "a shorter list is another rollout"
    assert [again(samples[:i]) for i in range(50)] == answers[:50]


def test_a_service_of_which_nothing_is_known_starts_small() -> None:
    judge = factory({})
    assert judge([]) == ("continue", 0.001)
    assert judge([{"t": 0.0, "dt": 1.0, "weight": 0.001, "canary": None, "baseline": None}]) == ("hold", 0.001)


def test_no_traffic_is_held_and_never_promoted() -> None:
    judge = factory(SERVICE)
    samples = [Tick(float(t), 1.0, 0.1) for t in range(4000)]
    answers = {judge(samples[:i])[0] for i in range(0, 4001, 50)}
    assert answers <= {"continue", "hold"}
    assert judge(samples)[1] <= 0.1


def test_the_profile_may_come_with_the_service() -> None:
    answers = {}
    for profile in ("fast", "careful"):
        _, course = live(factory({**SERVICE, "profile": profile}), 600)
        answers[profile] = course[-1]
    assert answers["fast"][0] == "promote"
    assert answers["careful"][1] == pytest.approx(0.1)


def test_recorded_ticks_are_judged_again_with_other_margins() -> None:
    samples, _ = live(factory(SERVICE), 300, failing=0.03)
    ticks = [tick_from(s) for s in samples]
    strict = replay(ticks, JudgeSettings(), rate_hint=20.0, history=Arm(72_000, 72))
    lenient = replay(ticks, JudgeSettings(error_extra=0.5), rate_hint=20.0, history=Arm(72_000, 72))
    assert strict[-1].kind == "harmful"
    assert all(v.kind != "harmful" for v in lenient)


@pytest.mark.parametrize("service", [{}, {"rate_hint": None, "history": None}, {"rate_hint": 0, "history": {"n": 0}}])
def test_nothing_known_beforehand_still_promotes_the_good_and_takes_the_bad_back(service: dict[str, Any]) -> None:
    _, answers = live(factory(service), 1800)
    assert answers[-1][0] == "promote"
    samples, answers = live(factory(service), 1800, failing=0.2)
    assert answers[-1] == ("rollback", 0.0)
    assert sum(s["canary"]["errors"] for s in samples) <= 10


def test_without_history_endpoints_and_latency_of_the_ticks_are_judged_too() -> None:
    judge, samples = factory({"rate_hint": 20.0}), []
    for t in range(400):
        dead = {"GET /": (1, 0), "GET /dead": (1, 1)}
        samples.append(
            {
                "t": float(t),
                "dt": 1.0,
                "weight": 0.1,
                "canary": {"n": 2, "errors": 1, "endpoints": dead, "latency": {80: 1}},
                "baseline": {"n": 18, "errors": 9, "endpoints": {"GET /": (18, 9)}, "latency": {"80": 9}},
            }
        )
        answer = judge(samples)
    assert answer[0] == "rollback", "one endpoint is dead on the candidate, though both fail equally often in all"


def test_a_weight_other_than_the_asked_one_is_judged_as_what_it_was() -> None:
    """The caller keeps 3 % whatever is asked: a fair split blames nobody, and harm is still found."""
    rng, judge = np.random.default_rng(5), factory(SERVICE)
    samples: list[dict[str, Any]] = []
    for t in range(600):
        mine, theirs = int(rng.poisson(0.6)), int(rng.poisson(19.4))
        errors = int(rng.binomial(mine, 0.5)) if t >= 500 else 0
        arms = {"canary": {"n": mine, "errors": errors}, "baseline": {"n": theirs, "errors": 0}}
        samples.append({"t": float(t), "dt": 1.0, "weight": 0.03, **arms})
        answer = judge(samples)
        assert answer[0] != "rollback" or t >= 500
    assert answer == ("rollback", 0.0)


def test_each_tick_is_read_a_few_times_however_long_the_list_grows() -> None:
    class Counted(list[Any]):
        reads = 0

        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            Counted.reads += len(found) if isinstance(place, slice) else 1
            return found

    judge, samples = factory(SERVICE), Counted()
    for t in range(2000):
        samples.append(Tick(float(t), 1.0, 0.1, Arm(18, 0), Arm(2, 0)))
        judge(samples)
    assert Counted.reads <= 10 * 2000


def test_a_list_of_the_newest_ticks_alone_is_read_on() -> None:
    samples, answers = live(factory(SERVICE), 120, failing=0.05)
    judge = factory(SERVICE)
    assert [judge(samples[max(0, i - 1) : i]) for i in range(1, len(samples) + 1)] == answers[1:]


def test_another_rollouts_list_begins_anew_even_when_it_is_longer() -> None:
    first, _ = live(factory(SERVICE), 30)
    second, answers = live(factory(SERVICE), 60, failing=0.01, seed=9)
    shifted = [{**s, "t": s["t"] - 5.0} for s in second]
    judge = factory(SERVICE)
    judge(first)
    assert judge(shifted) == answers[-1]


def test_missing_and_absurd_fields_are_no_data() -> None:
    judge = factory(SERVICE)
    odd: list[Any] = [
        {"t": 0, "dt": None, "weight": None, "canary": {}, "baseline": {"n": None}},
        {"t": 1.0, "dt": 1.0, "weight": 0.1, "canary": {"n": float("nan")}, "baseline": {"n": 5, "errors": None}},
        SimpleNamespace(
            t=2.0, dt=1.0, weight=0.1, canary=SimpleNamespace(n=1), baseline=SimpleNamespace(n=9, errors=0)
        ),
    ]
    assert judge(odd)[0] in ("continue", "hold")
