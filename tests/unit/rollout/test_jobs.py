"""Scheduled jobs, on the real engine over a simulated world. A run takes two seconds, and one is due every ten."""

from __future__ import annotations

import itertools

import pytest

from rebake.core.clock import iso
from rebake.release.manifest import RunContract
from rebake.rollout.plan import CommandCheck, JudgeRules, Schedule, Strategy
from rebake.rollout.states import State
from rebake.rollout.world import Run
from tests.unit.rollout.world import KEY, Shop

A, B = ("sha256:" + c * 64 for c in "ab")
RUN = RunContract(("report",), drain_ms=3000)
OFTEN = Schedule(every_ms=10_000, timeout_ms=6000)
CANARY = Strategy("canary", steps=(5000,), hold_ms=1000)


class Jobs(Shop):
    """A shop that runs a report every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        for release in (A, B):
            self.platform.behaviour(release).runs_seconds = 2.0

    def deploy(self, release: str, env: dict[str, str] | None = None, **changes: object) -> str:
        known = {"listen": "", "run": RUN, "instances": 1, "schedule": OFTEN, "judge": JudgeRules(min_requests=3)}
        return super().deploy(release, env, **{**known, **changes})

    def go(self, seconds: float) -> None:
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.tick()

    def runs(self, release: str | None = None) -> list[Run]:
        fleets = [f for f in (self.environment.stable, self.environment.candidate) if f is not None]
        wanted = {f.id for f in fleets if release in (None, f.revision.release)}
        return [run for run in self.environment.runs if run.fleet in wanted]

    def left_out(self) -> list[str]:
        return [str(note["left_out"]) for note in self.notes("note") if "left_out" in note]


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


def test_a_job_runs_once_for_each_slot_and_has_no_instance_between(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.go(65.0)
    slots = [run.slot for run in jobs.runs()]
    assert all(later - earlier == 10.0 for earlier, later in itertools.pairwise(slots))
    assert len(slots) >= 6
    assert {run.outcome for run in jobs.runs() if run.ended} == {"done"}
    assert len(jobs.platform.launches) == len(slots)
    jobs.until(lambda: jobs.runs()[-1].ended is not None)
    jobs.until(lambda: not jobs.platform.processes)
    assert not jobs.router.history, "there is no route to write"


def test_a_run_is_told_the_time_it_was_due_also_when_it_is_made_up_for(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.go(15.0)
    jobs.clock.advance(304.0)  # nobody looked
    told: dict[str, str] = {}
    for _ in range(300):
        jobs.tick()
        told |= {name: process.spec.run.env["REBAKE_SLOT"] for name, process in jobs.platform.processes.items()}
    due = {run.instance: iso(run.slot) for run in jobs.environment.runs}
    assert len(told) >= 3
    assert told.items() <= due.items()
    assert all(slot.endswith("0.000Z") for slot in told.values())


def test_runs_are_drawn_by_lot_until_the_candidate_is_promoted(jobs: Jobs) -> None:
    jobs.serving(A)
    rollout = jobs.deploy(B, strategy=CANARY, soak_ms=0, judge=JudgeRules(min_requests=5))
    view = jobs.until_over(rollout, 600)
    assert view["outcome"] == "promoted"
    drawn = [run for run in jobs.environment.runs if run.rollout == rollout]
    assert {run.fleet == rollout for run in drawn} == {True, False}, "both had runs"
    assert view["requests"]["candidate"]["total"] >= 5
    assert "runs" in view["verdict"]["reason"]
    assert jobs.stable_release == B


def test_no_run_of_the_candidate_before_its_checks_passed(jobs: Jobs) -> None:
    jobs.serving(A)
    rollout = jobs.deploy(B, checks=(CommandCheck("tests", ("true",)),), approval=True)
    jobs.until_state(State.ASKING)
    jobs.go(60.0)
    assert not [name for name in jobs.platform.launches if name.startswith(rollout)]
    assert jobs.runs(A)
    jobs.command("approve")
    jobs.until(lambda: any(name.startswith(rollout) for name in jobs.platform.launches))


def test_a_candidate_whose_runs_fail_three_times_in_a_row_is_taken_back(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.platform.behaviour(B).ends = "exit 3"
    view = jobs.until_over(jobs.deploy(B, strategy=Strategy("canary", steps=(5000,), hold_ms=3_600_000)), 900)
    assert view["outcome"] == "rolled-back"
    assert view["reason"].startswith("the candidate's runs fail: ")
    assert "exit 3" in view["reason"]
    assert view["log_tail"]
    jobs.go(30.0)
    assert {run.outcome for run in jobs.runs(A)} <= {"done", None}, "stable's runs go on"


def test_a_candidate_that_fails_now_and_then_is_found_by_the_judge(jobs: Jobs) -> None:
    jobs.serving(A)
    rollout = jobs.deploy(B, strategy=Strategy("canary", steps=(5000,), hold_ms=36_000_000))
    jobs.until_state(State.HOLDING)

    def every_second_run_fails() -> bool:
        mine = [run for run in jobs.environment.runs if run.fleet == rollout]
        jobs.platform.behaviour(B).ends = f"exit {len(mine) % 2}"
        return jobs.ended(rollout) is not None

    jobs.until(every_second_run_fails, 6000)
    view = jobs.ended(rollout)
    assert view is not None
    assert view["outcome"] == "rolled-back"
    assert "failed run" in view["reason"]


def test_a_run_that_takes_too_long_is_told_to_finish_and_failed(jobs: Jobs) -> None:
    jobs.platform.behaviour(A).runs_seconds = 1000.0
    jobs.serving(A)
    jobs.until(lambda: any(run.outcome == "failed" for run in jobs.runs()))
    run = jobs.runs()[0]
    assert "longer than 6s" in run.why
    jobs.until(lambda: run.instance not in jobs.platform.processes)
    assert any("the last run failed" in text for text in jobs.engine.view(KEY)["problems"])


def test_no_two_runs_at_once_unless_the_file_allows_it(jobs: Jobs) -> None:
    jobs.platform.behaviour(A).runs_seconds = 25.0
    long = Schedule(every_ms=10_000, timeout_ms=60_000)
    jobs.serving(A, schedule=long)
    jobs.go(60.0)
    assert jobs.left_out()
    assert "still runs" in jobs.left_out()[0]
    assert max(run.slot - earlier.slot for earlier, run in itertools.pairwise(jobs.runs())) >= 30.0
    beside = Jobs()
    beside.platform.behaviour(A).runs_seconds = 25.0
    beside.serving(A, schedule=Schedule(every_ms=10_000, timeout_ms=60_000, overlap="allow"))
    beside.until(lambda: len(beside.platform.processes) >= 2)
    assert not beside.left_out()


@pytest.mark.parametrize(("missed", "late_runs"), [("run", 1), ("skip", 0)])
def test_what_was_due_while_nobody_looked_is_made_up_for_once_or_left_out(
    jobs: Jobs, missed: str, late_runs: int
) -> None:
    jobs.serving(A, schedule=Schedule(every_ms=60_000, timeout_ms=6000, missed=missed))  # type: ignore[arg-type]
    jobs.until(lambda: bool(jobs.runs()) and jobs.runs()[-1].ended is not None)
    before = len(jobs.runs())
    jobs.clock.advance(60_000 * 3 / 1000 + 40 - jobs.clock.now() % 60)
    jobs.start_engine()
    jobs.go(5.0)
    assert len(jobs.runs()) - before == late_runs
    assert any(note.get("slots") == "missed" for note in jobs.notes("note"))
    assert len(jobs.left_out()) == 1 - late_runs


def test_a_slot_is_run_once_also_when_the_clock_shows_it_twice(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.until(lambda: len(jobs.runs()) == 2)
    jobs.clock.at -= 15.0
    jobs.go(14.0)
    assert len(jobs.runs()) == 2
    jobs.go(20.0)
    slots = [run.slot for run in jobs.runs()]
    assert len(slots) == len(set(slots)) > 2


def test_a_run_goes_on_while_the_engine_is_gone_and_is_counted_once(jobs: Jobs) -> None:
    jobs.serving(A)
    rollout = jobs.deploy(B, strategy=Strategy("canary", steps=(9999,), hold_ms=3_600_000))
    jobs.until(lambda: any(run.fleet == rollout and run.seen for run in jobs.environment.runs))
    launched = len(jobs.platform.launches)
    jobs.start_engine()
    jobs.clock.advance(4.0)
    jobs.go(1.0)
    assert len(jobs.platform.launches) == launched
    run = next(run for run in jobs.environment.runs if run.fleet == rollout)
    assert run.outcome == "done"
    jobs.start_engine()
    jobs.go(1.0)
    judging = jobs.engine.memory(KEY).judging
    assert judging is not None
    assert judging.totals["candidate"].requests == 1


def test_a_run_under_way_is_told_to_finish_before_its_fleet_goes(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.platform.behaviour(B).runs_seconds = 500.0
    long = Schedule(every_ms=10_000, timeout_ms=600_000)
    rollout = jobs.deploy(B, strategy=Strategy("canary", steps=(9999,), hold_ms=3_600_000), schedule=long)
    jobs.until(lambda: any(run.fleet == rollout and run.seen for run in jobs.environment.runs))
    jobs.command("stop")
    jobs.until(lambda: not jobs.environment.leaving and not jobs.environment.rollout)
    retired = [n for n in jobs.notes("intent") if n["do"] == "Retire" and n["instance"].startswith(rollout)]
    assert [n["grace_ms"] for n in retired] == [3000]
    run = next(run for run in jobs.environment.runs if run.fleet == rollout)
    assert run.outcome in ("cut", "unknown")


def test_an_undo_brings_the_runs_back_to_the_release_before(jobs: Jobs) -> None:
    jobs.serving(A)
    jobs.serving(B, strategy=Strategy("all-at-once"), soak_ms=0)
    jobs.command("undo", rollout_id="r-undo")
    jobs.until(lambda: jobs.stable_release == A and not jobs.environment.leaving)
    count = len(jobs.platform.launches)
    jobs.until(lambda: len(jobs.platform.launches) > count)
    assert jobs.platform.launches[-1].startswith("r-undo")
    jobs.command("down")
    jobs.until(lambda: not jobs.platform.processes and jobs.environment.stable is None)
    jobs.go(30.0)
    assert not jobs.platform.processes
