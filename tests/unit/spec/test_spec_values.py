"""What a right file means: the design's own example, every default, the spellings of YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rebake.errors import UsageError
from rebake.release.manifest import Health, Resources
from rebake.rollout.plan import CommandCheck, HttpCheck, JudgeRules, Plan, Strategy
from rebake.spec.load import parse
from rebake.spec.peek import peek_service
from rebake.spec.plan import plan_for, run_contract, secret_sources, settings_env
from rebake.traffic.ports import Sticky

DESIGN = """\
service: guestbook
bake:
  builder: python
  source: .
  exclude: [tests]
  base: host
run:
  command: [python, -m, guestbook]
  port: 8080
  health: {path: /healthz, interval: 500ms, timeout: 2s, start_timeout: 30s}
  drain: 10s
  env: {GREETING: hello}
  resources: {memory: 256MiB, cpu: 0.5}
checks:
  - {name: smoke, http: {path: /notes, expect_status: 200, expect_body: "["}}
  - {name: acceptance, command: [python, -m, pytest, -q, acceptance]}
environments:
  staging:
    platform: local
    instances: 2
    listen: 127.0.0.1:8080
    strategy: blue-green
  production:
    after: staging
    platform: local
    instances: 4
    listen: 127.0.0.1:8081
    env: {GREETING: welcome}
    secrets: {TOKEN: {file: /run/secrets/token}, KEY: {env: DEPLOY_KEY}}
    strategy: {canary: {profile: default}}
    judge: {false_rollbacks: 1%, errors: {ratio: 1.1, extra: 0.1%}, latency: {p99: 20%}}
    soak: 50m
    keep: 3
"""

SMALL = """\
service: small
bake: {builder: files}
run: {command: [./serve]}
environments:
  production:
    platform: local
    listen: 127.0.0.1:8080
"""


def production(more: str = "") -> Plan:
    """The plan of the small file with more keys of its environment."""
    return plan_for(parse(SMALL + "".join(f"    {line}\n" for line in more.splitlines())), "production")


def test_the_example_of_the_design_means_what_it_says() -> None:
    plan = plan_for(parse(DESIGN), "production", Path("/srv/guestbook"))
    assert plan.run == run_contract(parse(DESIGN)).__class__(
        command=("python", "-m", "guestbook"),
        port=8080,
        health=Health("/healthz", 500, 2000, 30_000),
        drain_ms=10_000,
        env={"GREETING": "welcome"},
        resources=Resources(256 << 20, 500),
    )
    assert plan == Plan(
        service="guestbook",
        environment="production",
        platform="local",
        run=plan.run,
        instances=4,
        listen="127.0.0.1:8081",
        strategy=Strategy("canary", profile="default"),
        checks=(
            HttpCheck("smoke", "/notes", expect_body="["),
            CommandCheck("acceptance", ("python", "-m", "pytest", "-q", "acceptance"), cwd="/srv/guestbook"),
        ),
        soak_ms=3_000_000,
        hold_back_basis_points=2000,
        shield=True,
        after="staging",
    )


def test_the_release_s_contract_knows_no_environment() -> None:
    assert run_contract(parse(DESIGN)).env == {"GREETING": "hello"}
    assert settings_env(parse(DESIGN), "production") == {"GREETING": "welcome"}
    assert settings_env(parse(DESIGN), "staging") == {}


def test_secrets_are_known_by_their_source_only() -> None:
    assert secret_sources(parse(DESIGN), "production") == {"TOKEN": "file:/run/secrets/token", "KEY": "env:DEPLOY_KEY"}
    assert secret_sources(parse(DESIGN), "staging") == {}


def test_the_smallest_file_has_every_default() -> None:
    plan = production()
    assert plan == Plan("small", "production", "local", plan.run, 2, "127.0.0.1:8080")
    assert plan.run.health == Health()
    assert (plan.run.drain_ms, plan.run.port, plan.run.resources) == (10_000, None, Resources())
    assert plan.judge == JudgeRules()


@pytest.mark.parametrize(
    ("written", "strategy", "soak_ms", "hold_back"),
    [
        ("all-at-once", Strategy("all-at-once"), 0, 0),
        ("blue-green", Strategy("blue-green"), 600_000, 0),
        ("canary", Strategy("canary", profile="default"), 3_000_000, 2000),
        ("{canary: {profile: careful}}", Strategy("canary", profile="careful"), 3_000_000, 2000),
        ("{canary: {steps: [1%, 50%]}}", Strategy("canary", (100, 5000), 120_000), 3_000_000, 2000),
        ("{canary: {steps: [1%, 90%], hold: 5s}}", Strategy("canary", (100, 9000), 5000), 3_000_000, 1000),
        ("linear", Strategy("linear", tuple(range(1000, 8000, 1000)), 60_000), 3_000_000, 2000),
        ("{linear: {step: 30%, every: 2m}}", Strategy("linear", (3000, 6000), 120_000), 3_000_000, 2000),
        ("{linear: {step: 95%}}", Strategy("linear", (9500,), 60_000), 3_000_000, 500),
        ("shadow", Strategy("shadow", mirror_basis_points=2000, mirror_ms=300_000), 3_000_000, 0),
        (
            "{shadow: {share: 5%, for: 1m}}",
            Strategy("shadow", mirror_basis_points=500, mirror_ms=60_000),
            3_000_000,
            0,
        ),
    ],
)
def test_each_strategy_and_its_defaults(written: str, strategy: Strategy, soak_ms: int, hold_back: int) -> None:
    plan = production(f"strategy: {written}")
    assert (plan.strategy, plan.soak_ms, plan.hold_back_basis_points) == (strategy, soak_ms, hold_back)


def test_users_are_shielded_where_two_fleets_serve_them_unless_the_file_says_no() -> None:
    assert [production(f"strategy: {s}").shield for s in ("canary", "linear", "shadow", "blue-green")] == [
        True,
        True,
        False,
        False,
    ]
    assert not production("strategy: canary\nshield: false").shield


def test_linear_goes_as_far_as_the_hold_back_leaves() -> None:
    plan = production("strategy: {linear: {step: 25%}}\nhold_back: 0%")
    assert plan.strategy.steps == (2500, 5000, 7500)
    assert plan.hold_back_basis_points == 0


@pytest.mark.parametrize(
    ("written", "sticky"),
    [
        ("true", Sticky()),
        ("false", None),
        ("{}", Sticky()),
        ("{cookie: who, ttl: 2h}", Sticky("who", 7200)),
    ],
)
def test_sticky_is_a_switch_or_settings(written: str, sticky: Sticky | None) -> None:
    assert production(f"sticky: {written}").sticky == sticky


def test_the_other_keys_of_an_environment_reach_the_plan() -> None:
    plan = production(
        "undecided: roll-back\nwhen_busy: wait\napproval: yes\nsoak: 90s\nkeep: 1\ndrift_interval: 1m\n"
        "local: {writable: [/var/lib/small]}\n"
        "judge: {errors: {ratio: 2, extra: 1%}, latency: {p50: 50%}, min_requests: 7,"
        " refusals: {ratio: 3, extra: 5%}, answer_within: 30s}"
    )
    assert (plan.undecided, plan.when_busy, plan.approval) == ("roll-back", "wait", True)
    assert (plan.soak_ms, plan.keep, plan.drift_interval_ms) == (90_000, 1, 60_000)
    assert plan.platform_settings == {"writable": ["/var/lib/small"]}
    assert plan.judge == JudgeRules(100, 2000, 100, {"p50": 5000, "p90": 1000, "p99": 2000}, 7, 3000, 500, 30_000)


def test_an_environment_may_choose_among_the_checks() -> None:
    text = DESIGN.replace("    strategy: blue-green\n", "    strategy: blue-green\n    checks: [smoke]\n")
    assert [check.name for check in plan_for(parse(text), "staging").checks] == ["smoke"]
    none = DESIGN.replace("    strategy: blue-green\n", "    strategy: blue-green\n    checks: []\n")
    assert plan_for(parse(none), "staging").checks == ()


def test_an_environment_that_is_not_there() -> None:
    with pytest.raises(UsageError) as caught:
        plan_for(parse(DESIGN), "prodution")
    assert caught.value.code == "unknown-environment"
    assert "staging, production" in caught.value.problem
    assert caught.value.remedy == "did you mean production?"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("8080", "8080"),
        ("0644", "0644"),
        ("1.50", "1.50"),
        ("1e3", "1e3"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("-0", "-0"),
        (".inf", ".inf"),
        ("99999999999999999999999", "99999999999999999999999"),
        ("'yes'", "yes"),
        ('"null"', "null"),
        ("!!str yes", "yes"),
        ('""', ""),
        ("a # b", "a"),
    ],
)
def test_a_variable_is_the_text_as_it_is_written(written: str, means: str) -> None:
    assert settings_env(parse(SMALL + f"    env:\n      A: {written}\n"), "production") == {"A": means}


def test_a_number_in_a_command_is_its_text() -> None:
    spec = parse(SMALL.replace("[./serve]", "[./serve, 8080, 1.50]"))
    assert spec.run.command == ("./serve", "8080", "1.50")


def test_what_a_command_may_expand() -> None:
    spec = parse(SMALL.replace("[./serve]", '[./serve, $PORT, "${HOST}:$PORT", $$HOME, $TMPDIR, $REBAKE_DATA]'))
    assert spec.run.command is not None
    assert spec.run.command[3] == "$$HOME"


def test_anchors_and_merges_mean_what_yaml_says() -> None:
    text = SMALL.replace("  production:\n", "  production: &common\n") + (
        "    env: {A: a, B: b}\n  second:\n    <<: *common\n    listen: 127.0.0.1:8081\n    keep: 5\n"
    )
    plan = plan_for(parse(text), "second")
    assert (plan.platform, plan.listen, plan.keep) == ("local", "127.0.0.1:8081", 5)
    assert plan.run.env == {"A": "a", "B": "b"}


def test_a_spec_cannot_be_changed() -> None:
    spec = parse(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        spec.service = "other"


# --- the quick look --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (DESIGN, "guestbook"),
        ("# c\n\nservice: 'a-b'  # d\n", "a-b"),
        ("\ufeffservice: a\r\n", "a"),
        ("bake:\n  service: inner\nservice: outer\n", "outer"),
        ("service: Not A Name\n", None),
        ("service: [a]\n", None),
        ("", None),
    ],
)
def test_the_quick_look_finds_the_name(tmp_path: Path, text: str, name: str | None) -> None:
    path = tmp_path / "rebake.yaml"
    path.write_text(text, "utf-8")
    assert peek_service(path) == name


def test_the_quick_look_at_no_file(tmp_path: Path) -> None:
    assert peek_service(tmp_path / "rebake.yaml") is None
    assert peek_service(tmp_path) is None


def test_the_quick_look_loads_neither_yaml_nor_pydantic() -> None:
    code = "import sys, rebake.spec.peek; print([m for m in ('yaml', 'pydantic', 'json') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
