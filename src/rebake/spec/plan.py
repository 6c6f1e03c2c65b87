"""The user's file to what the rollout needs: one environment's plan, with every default filled in."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from rebake.core.units import FULL
from rebake.judge.metric_rules import Ask, CommandAsk, EndpointAsk, MetricRule, PrometheusAsk
from rebake.kubernetes.names import users_service
from rebake.release import manifest
from rebake.rollout import plan
from rebake.rollout.gates import zone_of
from rebake.spec import model
from rebake.spec.report import unknown_environment
from rebake.traffic.pods import deal
from rebake.traffic.ports import Sticky

_SOAK_MS = {"all-at-once": 0, "blue-green": 600_000}
_LONG_SOAK_MS = 3_000_000
_HOLD_BACK = 2000
_COMPARED = ("canary", "linear")
"""Strategies in which both fleets have users, and a judge counts what the candidate fails."""
_COMMAND_INTERVAL_MS = 5000
_RUNS_OF_A_STEP = 3
_JOB_UNDECIDED_MS = 7 * 86_400_000


def run_contract(spec: model.Spec) -> manifest.RunContract:
    """The release's part: what is sealed into the image, the same in every environment."""
    run = spec.run
    return manifest.RunContract(
        command=run.command or (),
        port=run.port,
        health=_health(run),
        drain_ms=run.drain,
        env=dict(run.env),
        resources=manifest.Resources(memory_bytes=run.resources.memory, cpu_millis=run.resources.cpu),
    )


def _health(run: model.Run) -> manifest.Health:
    """A worker is asked what the file says; where it says nothing, staying up is its health. A command costs a process
    each time, so it is run less often."""
    asked, written = run.health, run.health.model_fields_set
    path = asked.path if run.kind == "http" or "path" in written else ""
    seldom = asked.command is not None and "interval" not in written
    return manifest.Health(
        path=path,
        interval_ms=_COMMAND_INTERVAL_MS if seldom else asked.interval,
        timeout_ms=asked.timeout,
        start_timeout_ms=asked.start_timeout,
        healthy_after=asked.healthy_after,
        unhealthy_after=asked.unhealthy_after,
        command=asked.command or (),
    )


def settings_env(spec: model.Spec, environment: str) -> dict[str, str]:
    """What one environment adds to the release's variables. Raises: UsageError `unknown-environment`."""
    return dict(_find(spec, environment).env)


def secret_sources(spec: model.Spec, environment: str) -> dict[str, str]:
    """Where each secret of one environment is read: `file:/absolute/path` or `env:NAME`, by variable.

    Raises: UsageError `unknown-environment`.
    """
    secrets = _find(spec, environment).secrets
    return {name: f"file:{source.file}" if source.file else f"env:{source.env}" for name, source in secrets.items()}


def plan_for(spec: model.Spec, environment: str, folder: Path | None = None) -> plan.Plan:
    """The resolved wish of one environment.

    Args:
        folder: where rebake.yaml lies; commands of checks run there.
    Raises: UsageError `unknown-environment` with the known ones.
    """
    chosen = _find(spec, environment)
    strategy = _by_instances(chosen, _strategy(chosen))
    return plan.Plan(
        service=spec.service,
        environment=environment,
        platform=chosen.platform,
        run=manifest.contract_in(run_contract(spec), manifest.Settings(env=dict(chosen.env))),
        instances=chosen.instances if spec.run.kind != "job" else 1,
        listen=_listen(spec, environment, chosen),
        strategy=strategy,
        checks=_checks(spec, chosen, folder),
        judge=_judge(spec.run.kind, chosen.judge, folder),
        undecided=chosen.undecided,
        undecided_limit_ms=_undecided_limit(spec.run.kind, chosen),
        soak_ms=_SOAK_MS.get(strategy.kind, _LONG_SOAK_MS) if chosen.soak is None else chosen.soak,
        hold_back_basis_points=_hold_back(chosen, strategy) if spec.run.kind != "worker" else 0,
        shield=strategy.kind in _COMPARED and chosen.shield is not False and bool(chosen.listen),
        keep=chosen.keep,
        when_busy=chosen.when_busy,
        after=chosen.after,
        approval=chosen.approval,
        window=_window(chosen.window),
        freeze=tuple(_dates(freeze) for freeze in chosen.freeze),
        sticky=_sticky(chosen.sticky),
        drift_interval_ms=chosen.drift_interval,
        schedule=_schedule(chosen.schedule),
        platform_settings=_platform_settings(spec, chosen),
    )


def _listen(spec: model.Spec, environment: str, chosen: model.Environment) -> str:
    """Where users call; empty for what nobody calls."""
    if chosen.platform != "kubernetes" or spec.run.kind != "http":
        return chosen.listen or ""
    block = chosen.kubernetes
    if block.gateway is None:
        return users_service(spec.service, environment, block.namespace)
    return next(iter(block.gateway.hostnames), f"gateway {block.gateway.name}")


def _platform_settings(spec: model.Spec, chosen: model.Environment) -> dict[str, Any]:
    """The platform's own block as it is written, without what is the default anyway."""
    block: dict[str, Any] = getattr(chosen, chosen.platform).model_dump(mode="json", exclude_defaults=True)
    if chosen.platform == "kubernetes":
        block.setdefault("registry", spec.bake.repository)
        block["instances"] = chosen.instances
    return block


def _schedule(chosen: model.Schedule | None) -> plan.Schedule | None:
    if chosen is None:
        return None
    return plan.Schedule(
        chosen.every or 0, chosen.cron or "", chosen.zone, chosen.timeout, chosen.overlap, chosen.missed
    )


def _judge(kind: str, judge: model.Judge, folder: Path | None) -> plan.JudgeRules:
    """A job has few runs: where the file does not say how many a step needs, three are."""
    rules = judge_rules(judge, folder)
    few = kind == "job" and "min_requests" not in judge.model_fields_set
    return replace(rules, min_requests=_RUNS_OF_A_STEP) if few else rules


def _undecided_limit(kind: str, chosen: model.Environment) -> int:
    """Nobody is asked for a job that runs once a day before it had its runs, unless the file says so."""
    waits = kind == "job" and "undecided_limit" not in chosen.model_fields_set
    return _JOB_UNDECIDED_MS if waits else chosen.undecided_limit


def _find(spec: model.Spec, environment: str) -> model.Environment:
    found = spec.environments.get(environment)
    if found is None:
        raise unknown_environment(spec.service, spec.environments, environment)
    return found


def _strategy(chosen: model.Environment) -> plan.Strategy:
    match chosen.strategy:
        case "canary":
            return _canary(model.CanarySettings())
        case "linear":
            return _linear(model.LinearSettings(), chosen.hold_back)
        case "shadow":
            return _with_copies(plan.Strategy("shadow"), model.CopySettings.model_validate({}))
        case model.Canary(canary=settings):
            return _canary(settings)
        case model.Linear(linear=settings):
            return _linear(settings, chosen.hold_back)
        case model.Shadow(shadow=settings):
            return _with_copies(plan.Strategy("shadow"), settings)
        case name:
            return plan.Strategy(kind=name)


def _by_instances(chosen: model.Environment, strategy: plan.Strategy) -> plan.Strategy:
    """With the shares that the instances have, where shares are those of instances."""
    if chosen.platform != "kubernetes" or chosen.kubernetes.canary_by is None or strategy.kind not in _COMPARED:
        return strategy
    steps = tuple(deal(step, chosen.instances, chosen.instances).share for step in strategy.steps)
    return replace(strategy, steps=steps, by_instances=True)


def _canary(settings: model.CanarySettings) -> plan.Strategy:
    strategy = plan.Strategy("canary", profile=settings.profile or "default")
    if settings.steps:
        strategy = plan.Strategy("canary", steps=settings.steps, hold_ms=settings.hold)
    return _with_copies(strategy, settings.mirror)


def _linear(settings: model.LinearSettings, hold_back: int | None) -> plan.Strategy:
    """Equal steps, up to what the hold-back leaves, so that the candidate's share never falls when the soak begins."""
    top = FULL - (_HOLD_BACK if hold_back is None else hold_back)
    steps = tuple(range(settings.step, top, settings.step)) or (settings.step,)
    return _with_copies(plan.Strategy("linear", steps=steps, hold_ms=settings.every), settings.mirror)


def _with_copies(strategy: plan.Strategy, settings: model.CopySettings | None) -> plan.Strategy:
    """The strategy with a first stage of copies, where the file asks for one."""
    if settings is None:
        return strategy
    return replace(strategy, mirror_basis_points=settings.share, mirror_ms=settings.for_)


def _hold_back(chosen: model.Environment, strategy: plan.Strategy) -> int:
    """As written; else 20 %, or what the last step leaves if that is less."""
    if strategy.kind not in _COMPARED:
        return 0
    least = min(_HOLD_BACK, FULL - max(strategy.steps, default=0))
    back = least if chosen.hold_back is None else chosen.hold_back
    return FULL - deal(FULL - back, chosen.instances, chosen.instances).share if strategy.by_instances else back


def _checks(spec: model.Spec, chosen: model.Environment, folder: Path | None) -> tuple[plan.Check, ...]:
    wanted = chosen.checks
    return tuple(_check(check, folder) for check in spec.checks if wanted is None or check.name in wanted)


def _check(check: model.Check, folder: Path | None) -> plan.Check:
    if check.http is None:
        cwd = str(folder.absolute()) if folder else None
        return plan.CommandCheck(check.name, check.command or (), timeout_ms=check.timeout, cwd=cwd)
    http = check.http
    return plan.HttpCheck(check.name, http.path, http.method, http.expect_status, http.expect_body, http.timeout)


def judge_rules(judge: model.Judge, folder: Path | None) -> plan.JudgeRules:
    return plan.JudgeRules(
        false_rollbacks_bp=judge.false_rollbacks,
        error_ratio_milli=judge.errors.ratio,
        error_extra_bp=judge.errors.extra,
        refusal_ratio_milli=judge.refusals.ratio,
        refusal_extra_bp=judge.refusals.extra,
        answer_within_ms=judge.answer_within,
        latency_bp={"p50": judge.latency.p50, "p90": judge.latency.p90, "p99": judge.latency.p99},
        min_requests=judge.min_requests,
        metrics=tuple(_metric(name, metric, folder) for name, metric in judge.metrics.items()),
    )


def _window(choice: model.Window | tuple[model.Window, ...]) -> tuple[plan.Window, ...]:
    windows = (choice,) if isinstance(choice, model.Window) else choice
    every = plan.Window().days
    return tuple(plan.Window(w.days or every, w.from_, w.to, w.zone) for w in windows)


def _dates(freeze: model.Freeze) -> plan.Dates:
    """Both ends as moments; a last day without a time is frozen to its end."""
    since, until = moment(freeze.from_, freeze.zone), moment(freeze.to, freeze.zone)
    if len(freeze.to) == len("2026-12-24"):
        following = date.fromisoformat(freeze.to) + timedelta(1)
        until = moment(following.isoformat(), freeze.zone)
    return plan.Dates(since, until, freeze.reason)


def moment(text: str, zone: str) -> float:
    """Seconds since the epoch of a date, or of a date and a time, by the clock of a zone.

    >>> moment("1970-01-01 01:30", "Europe/Berlin")
    1800.0
    """
    return datetime.fromisoformat(text).replace(tzinfo=zone_of(zone)).timestamp()


def _metric(name: str, metric: model.Metric, folder: Path | None) -> MetricRule:
    """One metric, with the defaults of its form filled in."""
    default = MetricRule(name, EndpointAsk())
    margin = metric.margin
    return MetricRule(
        name=name,
        ask=_ask(metric, folder),
        worse=metric.worse,
        ratio_milli=_given(margin.ratio, default.ratio_milli),
        extra_bp=_given(margin.extra, default.extra_bp),
        percent_bp=_given(margin.percent, default.percent_bp),
        absolute_milli=_given(margin.absolute, default.absolute_milli),
        interval_ms=metric.interval,
        span_ms=_given(metric.span, default.span_ms),
        loaded=True if metric.loaded is None else metric.loaded,
        missing=metric.missing,
        observe=metric.observe,
    )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _ask(metric: model.Metric, folder: Path | None) -> Ask:
    if metric.prometheus is not None:
        asked = metric.prometheus
        return PrometheusAsk(asked.url, asked.query, asked.hits, asked.total, asked.token_file, asked.timeout)
    if metric.endpoint is not None:
        e = metric.endpoint
        return EndpointAsk(e.path, e.value, e.growth, e.per, e.hits, e.total, e.timeout)
    cwd = str(folder.absolute()) if folder else None
    reads, timeout_ms = metric.reads or "exit-code", _given(metric.timeout, 30_000)
    return CommandAsk(metric.command or (), reads, cwd, timeout_ms)


def _sticky(choice: bool | model.StickySettings) -> Sticky | None:
    if isinstance(choice, bool):
        return Sticky() if choice else None
    return Sticky(cookie=choice.cookie, ttl_seconds=max(1, choice.ttl // 1000))
