"""What the judge is told of a plan: margins, words, and what is bet on what. Pure."""

from __future__ import annotations

from dataclasses import replace

from rebake.core.units import FULL
from rebake.judge import copies
from rebake.judge.samples import BY_INSTANCES, RUNS, WORK, JudgeSettings, Pairs
from rebake.rollout.plan import HttpCheck, JudgeRules, Plan
from rebake.traffic.endpoints import fold


def margins_of(rules: JudgeRules) -> JudgeSettings:
    """The file's integers as the judge's fractions."""
    return JudgeSettings(
        false_rollbacks=rules.false_rollbacks_bp / FULL,
        error_ratio=rules.error_ratio_milli / 1000,
        error_extra=rules.error_extra_bp / FULL,
        refusal_ratio=rules.refusal_ratio_milli / 1000,
        refusal_extra=rules.refusal_extra_bp / FULL,
        latency={name: points / FULL for name, points in rules.latency_bp.items()},
        min_requests=rules.min_requests,
    )


def settings_of(plan: Plan) -> JudgeSettings:
    """The plan's margins. A worker's trial is a second, and the margin that is added is of an instance-minute; a job's
    trial is a run."""
    settings = margins_of(plan.judge)
    if plan.kind == "job":
        return replace(settings, words=RUNS)
    if plan.strategy.by_instances:
        return replace(settings, words=BY_INSTANCES)
    return settings if plan.routed else replace(settings, error_extra=settings.error_extra / 60, words=WORK)


def copies_share(plan: Plan) -> float:
    """Part of the wealth that is bet on copies of users' requests: all where no request is ever dealt by a share."""
    if not plan.strategy.mirrors:
        return 0.0
    return 1.0 if plan.strategy.kind == "shadow" else copies.SHARE


def checked(plan: Plan) -> Pairs:
    """The requests of the checks, which passed on every instance, beside a stable that is taken to answer them as well:
    they can only lower the evidence."""
    asked = [fold(check.method, check.path) for check in plan.checks if isinstance(check, HttpCheck)]
    endpoints = {name: (plan.instances * asked.count(name), 0, 0, 0) for name in asked}
    return Pairs(plan.instances * len(asked), endpoints=endpoints)
