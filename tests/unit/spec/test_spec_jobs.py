"""Scheduled jobs: what the file says of them, and what it must not."""

from __future__ import annotations

import pytest

from rebake.errors import SpecError
from rebake.rollout.plan import Schedule
from rebake.spec.load import parse
from rebake.spec.plan import plan_for

JOB = """\
service: almanac
bake: {builder: python}
run:
  kind: job
  command: [python, -m, almanac]
environments:
  production:
    platform: local
    schedule: {cron: "30 3 * * mon-fri", zone: Europe/Berlin, timeout: 20m}
    strategy: {canary: {steps: [10%]}}
"""


HERE = "environments.production"
WHEN = '    schedule: {cron: "30 3 * * mon-fri", zone: Europe/Berlin, timeout: 20m}'


def test_a_job_has_a_schedule_and_few_runs_are_enough() -> None:
    plan = plan_for(parse(JOB), "production")
    assert plan.schedule == Schedule(0, "30 3 * * mon-fri", "Europe/Berlin", 1_200_000, "skip", "run")
    assert (plan.kind, plan.instances, plan.run.health.path) == ("job", 1, "")
    assert (plan.judge.min_requests, plan.undecided_limit_ms) == (3, 7 * 86_400_000)
    assert plan.hold_back_basis_points == 2000
    often = JOB.replace('{cron: "30 3 * * mon-fri", zone: Europe/Berlin, timeout: 20m}', "{every: 15m}")
    assert plan_for(parse(often), "production").schedule == Schedule(900_000)


@pytest.mark.parametrize(
    ("was", "now", "code", "key"),
    [
        ("kind: job", "kind: worker", "needs-a-job", f"{HERE}.schedule"),
        (
            "    platform: local",
            "    platform: local\n    instances: 2",
            "needs-a-route",
            f"{HERE}.instances",
        ),
        ("  kind: job", "  kind: job\n  health: {path: /up}", "needs-a-worker", "run.health"),
        (
            '    schedule: {cron: "30 3 * * mon-fri", zone: Europe/Berlin, timeout: 20m}\n',
            "",
            "missing-key",
            f"{HERE}.schedule",
        ),
        (
            'cron: "30 3 * * mon-fri", zone: Europe/Berlin',
            "overlap: allow",
            "wrong-schedule",
            f"{HERE}.schedule",
        ),
        ('cron: "30 3 * * mon-fri"', "every: 5m", "key-does-nothing", f"{HERE}.schedule.zone"),
        ("30 3 * * mon-fri", "30 3 * *", "wrong-schedule", f"{HERE}.schedule.cron"),
        ("30 3 * * mon-fri", "30 25 * * *", "wrong-schedule", f"{HERE}.schedule.cron"),
        ("Europe/Berlin", "Europe/Berlim", "unknown-zone", f"{HERE}.schedule.zone"),
    ],
)
def test_what_does_not_fit_a_job_is_refused_by_name(was: str, now: str, code: str, key: str) -> None:
    assert was in JOB
    with pytest.raises(SpecError) as caught:
        parse(JOB.replace(was, now))
    assert (code, key) in {(m.code, m.key) for m in caught.value.mistakes}, caught.value.mistakes
