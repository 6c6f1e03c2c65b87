"""Fleets without a route, on the real engine over a simulated world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from rebake.errors import Transient
from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.metric_rules import EndpointAsk, MetricRule
from rebake.judge.ports import Question
from rebake.release.manifest import Health, RunContract
from rebake.rollout.decide import decide
from rebake.rollout.judging import Judging
from rebake.rollout.metering import Sources
from rebake.rollout.plan import CommandCheck, JudgeRules, Strategy
from rebake.rollout.shares import instances_at
from rebake.rollout.states import State
from rebake.rollout.working import Work
from rebake.rollout.world import Environment, Failure, Job
from rebake.testing.simulated import InlineJobs
from tests.unit.rollout.world import KEY, Shop

A, B, C = ("sha256:" + c * 64 for c in "abc")
CANARY = Strategy("canary", steps=(1000, 3000, 7000), hold_ms=1000)
RUN = RunContract(("work",), health=Health(path="", start_timeout_ms=5000), drain_ms=3000)


class Workers(Shop):
    """A shop that nobody calls: four workers."""

    def deploy(self, release: str, env: dict[str, str] | None = None, **changes: object) -> str:
        return super().deploy(release, env, **{"listen": "", "run": RUN, "instances": 4, **changes})

    def working(self, release: str) -> int:
        """Instances of a release that run and were not told to finish."""
        processes = self.platform.processes.values()
        return sum(1 for p in processes if p.spec.release == release and not p.exit and p.stop_at is None)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, 0), (1, 1), (500, 1), (2000, 1), (2001, 2), (3000, 2), (5000, 4), (8000, 4), (10_000, 4)],
)
def test_a_share_of_the_work_beside_a_whole_stable(share: int, expected: int) -> None:
    assert instances_at(share, 4, 4) == expected
    assert not expected or expected / (4 + expected) >= min(share, 5000) / 10_000, "never less than the step asks for"


def test_workers_roll_out_by_share_of_instances_and_stable_stays_whole(workers: Workers) -> None:
    workers.serving(A)
    rollout = workers.deploy(B, strategy=CANARY)
    sizes: list[int] = []

    def watch() -> bool:
        count = workers.working(B)
        if not sizes or sizes[-1] != count:
            sizes.append(count)
        rollout_now = workers.environment.rollout
        if rollout_now is not None and rollout_now.state is not State.FINISHING:
            assert workers.working(A) == 4
        return workers.ended(rollout) is not None

    workers.until(watch, 600)
    assert sizes == [0, 1, 2, 4]
    assert workers.ended(rollout)["outcome"] == "promoted"  # type: ignore[index]
    workers.until(lambda: not workers.environment.leaving)
    assert (workers.working(A), workers.working(B)) == (0, 4)
    assert not workers.router.history, "there is no route to write"


def test_no_instance_works_before_the_checks_passed(workers: Workers) -> None:
    workers.serving(A)
    workers.jobs.scripted["tests"] = Job("failed", "exit 1")
    view = workers.until_over(workers.deploy(B, checks=(CommandCheck("tests", ("false",)),)))
    assert view["outcome"] == "rolled-back"
    assert [spec for spec in workers.platform.launches if spec.startswith(view["rollout"])] == []


def test_an_approval_comes_before_the_first_instance(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, approval=True)
    workers.until_state(State.ASKING)
    for _ in range(10):
        workers.tick()
    assert workers.working(B) == 0
    workers.command("approve")
    workers.until(lambda: workers.working(B) == 4)


def test_a_worker_that_crashes_at_its_start_is_taken_back_with_its_exit_code(workers: Workers) -> None:
    workers.serving(A)
    workers.platform.behaviour(B).exits = "exit 7"
    view = workers.until_over(workers.deploy(B, strategy=CANARY))
    assert view["outcome"] == "rolled-back"
    assert "exit 7" in view["reason"]
    assert view["log_tail"]
    assert workers.working(A) == 4
    assert workers.until_over(workers.deploy(B))["outcome"] == "refused", "it is in quarantine"


def test_a_worker_that_crashes_now_and_then_is_found_by_the_judge(workers: Workers) -> None:
    """Each crash comes after the instance has proved that it stays up, so no streak of failures shows it."""
    workers.serving(A)
    rollout = workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)

    def crash_those_that_stayed_up() -> bool:
        for name, process in workers.platform.processes.items():
            if process.spec.release == B and workers.clock.now() - process.started_at > 40 and process.exit is None:
                workers.platform.kill(name, "exit 1")
        return workers.ended(rollout) is not None

    workers.until(crash_those_that_stayed_up, 3000)
    view = workers.ended(rollout)
    assert view is not None
    assert view["outcome"] == "rolled-back"
    assert "failures of" in view["reason"]
    assert "instance-seconds" in view["reason"]
    assert "weaker than with a route" in view["reason"]
    assert view["verdict"]["verdict"] == "harmful"
    assert 3 <= view["requests"]["candidate"]["errors"] <= 12


class Pieces:
    """A metric of the workers' own: pieces of work, and those spoilt, by fleet."""

    def __init__(self) -> None:
        self.spoilt = 0.0
        self.silent = False
        self.asked = 0

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        if self.silent:
            raise Transient("metric-not-answered", "nobody answers")
        self.asked += 1
        spoilt = {"stable": 0.0, "candidate": self.spoilt}
        return {n: Side(counters={n: (20.0 * self.asked * spoilt[n], 20.0 * self.asked)}) for n in question.cohorts}


@pytest.fixture
def pieces(workers: Workers) -> Pieces:
    source = Pieces()
    workers.sources = Sources({"endpoint": source}, InlineJobs())
    workers.start_engine()
    return source


PIECES = JudgeRules(metrics=(MetricRule("pieces", EndpointAsk(hits="bad_total", total="all_total"), interval_ms=1000),))


def test_workers_that_stay_up_and_spoil_their_work_are_taken_back_by_their_own_metric(
    workers: Workers, pieces: Pieces
) -> None:
    workers.serving(A)
    pieces.spoilt = 0.5
    view = workers.until_over(workers.deploy(B, strategy=CANARY, judge=PIECES, soak_ms=60_000))
    assert view["outcome"] == "rolled-back"
    assert "metric pieces" in view["reason"]
    assert "weaker test" in view["reason"]
    assert "instances of both fleets fetch like work" in view["reason"]
    assert view["requests"]["candidate"]["errors"] == 0


def test_a_workers_metric_that_is_silent_holds_it_and_one_that_is_good_lets_it_go_on(
    workers: Workers, pieces: Pieces
) -> None:
    workers.serving(A)
    pieces.silent = True
    workers.deploy(B, strategy=CANARY, judge=PIECES)
    workers.until_state(State.ASKING)
    assert "nobody answers" in workers.where()
    pieces.silent = False
    workers.until_state(State.SOAKING)


def test_a_failing_health_command_is_evidence(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(5000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    name = next(n for n, p in workers.platform.processes.items() if p.spec.release == B)
    workers.platform.make_sick(name, "health command: exit 3")
    judging = workers.engine.memory(KEY).judging
    assert judging is not None
    workers.until(lambda: judging.totals["candidate"].errors > 0, 20)
    workers.platform.kill(name, "exit 3")
    workers.until(lambda: not workers.platform.processes.get(name), 20)
    for _ in range(30):
        workers.tick()
    assert judging.totals["candidate"].errors == 1, "one that turned sick and then ended failed once"


def test_too_little_work_is_undecided(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=1000), undecided_limit_ms=3000)
    workers.until_state(State.ASKING)
    verdict = workers.engine.memory(KEY).judging.verdict  # type: ignore[union-attr]
    assert verdict is not None
    assert verdict.kind == "undecided"
    assert "instance-seconds" in verdict.reason


def test_going_back_tells_the_candidate_to_finish_with_its_drain_time(workers: Workers) -> None:
    workers.serving(A)
    rollout = workers.deploy(B, strategy=CANARY)
    workers.until_state(State.HOLDING)
    told: list[int] = []
    retire = workers.platform.retire

    def watched(instance: str, grace_ms: int, **parts: object) -> None:
        told.append(grace_ms)
        retire(instance, grace_ms, **parts)  # type: ignore[arg-type]

    workers.platform.retire = watched  # type: ignore[method-assign]
    workers.command("stop")
    assert workers.until_over(rollout)["outcome"] == "stopped"
    workers.until(lambda: not workers.environment.leaving)
    assert set(told) == {3000}
    assert (workers.working(A), workers.working(B)) == (4, 0)


def test_an_undo_raises_the_previous_workers_again(workers: Workers) -> None:
    workers.serving(A)
    workers.serving(B, soak_ms=0)
    workers.command("undo", rollout_id="r-undo")
    assert workers.until_over("r-undo")["outcome"] == "promoted"
    workers.until(lambda: (workers.working(A), workers.working(B)) == (4, 0))


def test_a_worker_that_ends_well_is_replaced_and_nothing_failed(workers: Workers) -> None:
    workers.serving(A)
    for _ in range(400):
        workers.tick()
    name = next(iter(workers.platform.processes))
    workers.platform.kill(name, "exit 0")
    workers.until(lambda: name not in workers.platform.processes and workers.working(A) == 4)
    stable = workers.environment.stable
    assert stable is not None
    assert stable.failures == ()


def test_a_worker_that_ends_well_at_once_is_not_started_without_end(workers: Workers) -> None:
    workers.serving(A)
    workers.platform.behaviour(A).exits = "exit 0"
    for name in list(workers.platform.processes):
        workers.platform.kill(name, "exit 0")
    before = len(workers.platform.launches)
    for _ in range(3000):
        workers.tick()
    assert len(workers.platform.launches) - before <= 20


def test_an_edge_that_is_away_does_not_matter_to_workers(workers: Workers) -> None:
    def away(_call: str, _subject: str) -> None:
        raise Transient("edge-away", "the edge does not answer")

    workers.router.fail = away
    workers.serving(A)
    assert workers.until_over(workers.deploy(B, strategy=CANARY), 600)["outcome"] == "promoted"


def test_a_broken_stable_never_blocks_the_fix_of_workers(workers: Workers) -> None:
    workers.serving(A)
    rollout = workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    for name, process in workers.platform.processes.items():
        if process.spec.release == A:
            workers.platform.make_sick(name, "health command: exit 1")
    assert workers.until_over(rollout)["outcome"] == "promoted"
    workers.until(lambda: workers.working(B) == 4)


def test_the_view_tells_shares_of_live_instances(workers: Workers) -> None:
    workers.serving(A)
    rollout = workers.deploy(B, strategy=Strategy("canary", steps=(2000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    view = workers.engine.rollout_view(KEY, rollout)
    assert view is not None
    assert view["route"] == {"stable": 0.8, "candidate": 0.2}
    assert view["instances"]["candidate"] == {"wanted": 1, "healthy": 1}
    assert view["routed"] is False
    assert workers.engine.view(KEY)["listen"] is None


def test_a_restarted_engine_counts_no_failure_twice(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    name = next(n for n, p in workers.platform.processes.items() if p.spec.release == B)
    workers.platform.kill(name, "exit 1")
    for _ in range(40):
        workers.tick()
    workers.start_engine()
    for _ in range(40):
        workers.tick()
    judging = workers.engine.memory(KEY).judging
    assert judging is not None
    assert judging.totals["candidate"].errors == 1


def test_a_look_that_misses_the_platform_is_no_evidence(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    environment = workers.environment
    assert environment.rollout is not None
    judging = Judging(environment.rollout)
    for second in range(100):
        judging.look(environment, None, float(second), instances=None)
    assert judging.verdict is None


def test_time_in_which_nobody_looked_is_no_evidence(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    shown, work, now = workers.platform.observe("shop", "production"), Work(), workers.clock.now()
    work.look(workers.environment, shown, now)
    worked = work.look(workers.environment, shown, now + 36_000.0)
    assert worked is not None
    assert (worked.stable.n, worked.candidate.n) == (20, 5)


def test_workers_are_compared_also_after_the_clock_was_set_back(workers: Workers) -> None:
    """Stable's were started an hour ahead then: without this a rollout would find nothing to compare for an hour."""
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    shown, work, now = workers.platform.observe("shop", "production"), Work(), workers.clock.now()
    ahead = [replace(i, started_at=now + 3600.0) for i in shown]
    work.look(workers.environment, ahead, now)
    worked = work.look(workers.environment, ahead, now + 2.0)
    assert worked is not None
    assert (worked.weight, worked.stable.n, worked.candidate.n) == (0.2, 8, 2)


def test_a_failure_of_an_instance_that_nobody_saw_alive_is_counted(workers: Workers) -> None:
    workers.serving(A)
    workers.deploy(B, strategy=Strategy("canary", steps=(1000,), hold_ms=3_600_000))
    workers.until_state(State.HOLDING)
    environment: Environment = workers.environment
    assert environment.candidate is not None
    stable = [i for i in workers.platform.observe("shop", "production") if i.fleet != environment.candidate.id]
    work = Work()
    now = workers.clock.now()
    work.look(environment, stable, now)
    failed = replace(environment.candidate, failures=(Failure("r-1-9", 1.0, "exit 1"),))
    worked = work.look(replace(environment, candidate=failed), stable, now + 2.0)
    assert worked is not None
    assert (worked.weight, worked.candidate.n, worked.candidate.errors) == (0.2, 1, 1)


def test_a_candidate_with_a_route_beside_a_stable_without_one_gives_no_user_away(workers: Workers) -> None:
    """The desk refuses it; `decide` must bear it all the same."""
    workers.serving(A)
    workers.deploy(B, listen="127.0.0.1:8080")
    for _ in range(50):
        workers.tick()
    decision = decide(workers.environment, workers.engine.memory(KEY).world, workers.clock.now())
    assert workers.working(A) == 4
    assert decision.environment.stable is not None
