"""Services without a route: what the file says of them, and what it must not."""

from __future__ import annotations

import pytest

from rebake.errors import Mistake, SpecError
from rebake.release.documents import release_document
from rebake.release.manifest import Release, RunContract
from rebake.spec.load import parse
from rebake.spec.plan import plan_for, run_contract

WORKER = """\
service: postbox
bake: {builder: python}
run:
  kind: worker
  command: [python, -m, postbox]
  health: {command: [python, check.py, $GREETING]}
  env: {GREETING: hello}
checks:
  - {name: tests, command: [pytest]}
environments:
  production:
    platform: local
    strategy: {canary: {steps: [10%]}}
    soak: 1m
"""


def mistakes_of(was: str, now: str) -> tuple[Mistake, ...]:
    assert was in WORKER
    with pytest.raises(SpecError) as caught:
        parse(WORKER.replace(was, now))
    return caught.value.mistakes


def test_a_worker_has_no_route_and_holds_nothing_back() -> None:
    plan = plan_for(parse(WORKER), "production")
    assert (plan.listen, plan.routed, plan.hold_back_basis_points) == ("", False, 0)


def test_a_health_command_is_run_less_often_unless_the_file_says_how_often() -> None:
    health = run_contract(parse(WORKER)).health
    assert (health.path, health.command, health.interval_ms) == ("", ("python", "check.py", "$GREETING"), 5000)
    often = parse(WORKER.replace("$GREETING]}", "$GREETING], interval: 500ms}"))
    assert run_contract(often).health.interval_ms == 500


@pytest.mark.parametrize(
    ("health", "path"), [("", ""), ("  health: {interval: 2s}\n", ""), ("  health: {path: /up}\n", "/up")]
)
def test_a_worker_may_be_asked_by_http_or_not_at_all(health: str, path: str) -> None:
    text = WORKER.replace("  health: {command: [python, check.py, $GREETING]}\n", health)
    assert (run_contract(parse(text)).health.path, run_contract(parse(text)).health.command) == (path, ())


@pytest.mark.parametrize(
    ("was", "now", "code", "key"),
    [
        ("    soak: 1m", "    listen: 127.0.0.1:8080", "needs-a-route", "environments.production.listen"),
        ("    soak: 1m", "    sticky: true", "needs-a-route", "environments.production.sticky"),
        ("    soak: 1m", "    hold_back: 10%", "needs-a-route", "environments.production.hold_back"),
        ("{canary: {steps: [10%]}}", "shadow", "needs-a-route", "environments.production.strategy"),
        ("    soak: 1m", "    judge: {latency: {p50: 5%}}", "needs-a-route", "environments.production.judge.latency"),
        (
            "    soak: 1m",
            "    judge: {metrics: {jobs: {endpoint: {hits: bad_total, total: $requests}}}}",
            "needs-a-route",
            "environments.production.judge.metrics.jobs.endpoint.total",
        ),
        ("command: [pytest]}", "http: {path: /}}", "needs-a-route", "checks[0].http"),
        ("$GREETING]}", "$GREETING], path: /up}", "health-two-ways", "run.health.command"),
        ("$GREETING]}", "$OTHER]}", "unknown-variable", "run.health.command[2]"),
        ("  kind: worker\n", "", "needs-a-worker", "run.health.command"),
        ("  kind: worker\n", "", "missing-key", "environments.production.listen"),
        ("kind: worker", "kind: wroker", "unknown-value", "run.kind"),
    ],
)
def test_what_does_not_fit_the_kind_is_refused_by_name(was: str, now: str, code: str, key: str) -> None:
    found = mistakes_of(was, now)
    assert (code, key) in {(m.code, m.key) for m in found}, found
    assert all(m.line for m in found)


def test_a_worker_has_metrics_of_its_own() -> None:
    metrics = "    judge: {metrics: {jobs: {endpoint: {hits: failed_total, total: jobs_total}}, age: {command: [age]}}}"
    rules = plan_for(parse(WORKER.replace("    soak: 1m", metrics)), "production").judge.metrics
    assert [rule.name for rule in rules] == ["jobs", "age"]


def test_a_misspelled_listen_is_not_also_called_missing() -> None:
    text = WORKER.replace("  kind: worker\n", "").replace("    soak: 1m", "    lisen: 127.0.0.1:80")
    text = text.replace("  health: {command: [python, check.py, $GREETING]}\n", "")
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert [m.code for m in caught.value.mistakes] == ["unknown-key"]


def test_releases_without_a_health_command_keep_the_form_they_had() -> None:
    release = Release("", "shop", "files", RunContract(("serve",)), ())
    assert "command" not in release_document(release, ())["run"]["health"]
