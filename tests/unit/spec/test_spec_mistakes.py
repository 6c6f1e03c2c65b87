"""Every mistake has its own code, its exact place, and says what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rebake.errors import Mistake, SpecError, UsageError
from rebake.spec.load import LARGEST, load, parse
from rebake.spec.plan import plan_for, run_contract
from rebake.spec.tree import DEEPEST

BASE = """\
service: guestbook
bake:
  builder: python
  source: .
run:
  command: [python, -m, guestbook]
  drain: 10s
  env: {GREETING: hello}
checks:
  - {name: smoke, http: {path: /notes}}
environments:
  staging:
    platform: local
    listen: 127.0.0.1:8080
    strategy: blue-green
  production:
    after: staging
    platform: local
    listen: 127.0.0.1:8081
    strategy: {canary: {steps: [1%, 5%], hold: 2m}}
"""


def mistakes_of(text: str) -> tuple[Mistake, ...]:
    with pytest.raises(SpecError) as caught:
        parse(text)
    return caught.value.mistakes


def place_of(text: str, part: str) -> tuple[int, int]:
    before = text[: text.index(part)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@dataclass
class Case:
    """`was` in BASE becomes `now`; then `code` at `key`, where `at` begins, with these words in sentence and remedy."""

    code: str
    key: str
    was: str
    now: str
    at: str
    says: str = ""
    remedy: str | None = None


CASES = [
    # names of keys
    Case("unknown-key", "environments.staging.platfrom", "platform: local\n    listen: 127.0.0.1:8080",
         "platfrom: local\n    listen: 127.0.0.1:8080", "platfrom", "found platfrom", "did you mean platform?"),
    Case("unknown-key", "run.comand", "command:", "comand:", "comand", remedy="did you mean command?"),
    Case("unknown-key", "instances", "checks:", "instances: 3\nchecks:", "instances",
         remedy="instances belongs to environments.*.instances"),
    Case("unknown-key", "timeout", "checks:", "timeout: 3m\nchecks:", "timeout",
         remedy="timeout belongs to run.health.timeout, checks.*.timeout, checks.*.http.timeout or "
                "environments.*.schedule.timeout"),
    Case("unknown-key", "environments.staging.strategy.canary.stepz", "strategy: blue-green",
         "strategy: {canary: {stepz: [1%]}}", "stepz", remedy="did you mean steps?"),
    Case("missing-key", "environments.staging.listen", "    listen: 127.0.0.1:8080\n", "", "staging:", "key listen"),
    Case("missing-key", "bake", "bake:\n  builder: python\n  source: .\n", "", "service", "key bake"),
    Case("key-without-value", "environments.production.after", "after: staging", "after:", "after:", "found nothing"),
    Case("key-without-value", "run.env.GREETING", "GREETING: hello", "GREETING: ", "GREETING",
         remedy='write "" for empty text'),
    Case("duplicate-key", "service", "bake:", "service: other\nbake:", "service: other", "line 1 and again on line 2"),
    Case("duplicate-key", "environments.production.after", "    after: staging\n",
         "    after: staging\n    after: production\n", "after: production", "line 17 and again on line 18"),
    # values
    Case("wrong-name", "service", "service: guestbook", "service: Guest_Book", "Guest_Book",
         remedy="did you mean guest-book?"),
    Case("wrong-name", "service", "service: guestbook", "service: " + "a" * 64, "aaaa", "1 to 63"),
    Case("wrong-name", "environments.Prod 1", "  production:", "  Prod 1:", "Prod 1", remedy="did you mean prod-1?"),
    Case("unknown-value", "bake.builder", "builder: python", "builder: pyhton", "pyhton",
         "python, node, files", "did you mean python?"),
    Case("unknown-value", "environments.staging.strategy", "blue-green", "cannary", "cannary",
         "all-at-once, blue-green, canary, linear or shadow", "did you mean canary?"),
    Case("unknown-value", "environments.staging.undecided", "strategy: blue-green",
         "undecided: rollback", "rollback", remedy="did you mean roll-back?"),
    Case("builder-not-available", "bake.builder", "builder: python", "builder: machine-image", "machine-image",
         "builder machine-image is not available in this version", "use one of python, node"),
    Case("image-missing", "bake.base", "builder: python\n  source: .", "builder: image\n  base: host", "host",
         "expected an image under base"),
    Case("key-does-nothing", "bake.source", "builder: python", "builder: image\n  base: a/b:1", "source", "no source"),
    Case("key-does-nothing", "bake.base", "builder: python", "builder: dockerfile\n  base: a:1", "base", "no base"),
    Case("key-does-nothing", "bake.dockerfile", "source: .", "dockerfile: D", "dockerfile", "only with builder"),
    Case("wrong-reference", "bake.base", "source: .", "base: debian", "debian", "with its tag or digest"),
    Case("wrong-reference", "bake.base", "source: .", "base: hots", "hots", "expected host, scratch, oci:FOLDER"),
    Case("wrong-reference", "bake.repository", "source: .", "repository: r.io/shop:1", "r.io", "without a tag"),
    Case("wrong-reference", "bake.repository", "source: .", "repository: shop", "shop", "team/shop"),
    Case("platform-not-available", "environments.staging.platform",
         "platform: local\n    listen: 127.0.0.1:8080", "platform: aws-ecs\n    listen: 127.0.0.1:8080",
         "aws-ecs",
         "platform aws-ecs is not available in this version", "write local, docker or kubernetes"),
    Case("platform-block", "environments.staging.docker", "strategy: blue-green", "docker: {network: a}", "docker",
         "settings of local, on which staging runs, found settings of docker"),
    Case("wrong-type", "bake.exclude", "source: .", "exclude: tests", "tests", "a list", "write exclude: [tests]"),
    Case("wrong-type", "run.env", "env: {GREETING: hello}", "env: [a]", "[a]", "found a list"),
    Case("wrong-type", "environments.staging.approval", "strategy: blue-green", "approval: maybe", "maybe",
         "true or false"),
    Case("command-not-list", "run.command", "[python, -m, guestbook]", "python -m guestbook --port 80", "python -m",
         "since no shell reads it", 'write command: [python, -m, guestbook, --port, "80"]'),
    Case("text-needs-quotes", "run.env.GREETING", "hello", "yes", "yes", "found yes, which YAML reads as true",
         "quotes"),
    Case("text-needs-quotes", "run.command[1]", "-m,", "no,", "no,", "which YAML reads as false"),
    Case("wrong-duration", "run.drain", "10s", "10", "10\n", "with its unit", "did you mean 10s?"),
    Case("wrong-duration", "run.drain", "10s", "10 secs", "10 secs", remedy="did you mean 10s?"),
    Case("wrong-duration", "run.drain", "10s", "2h", "2h", "from 0s to 1h"),
    Case("wrong-duration", "environments.production.strategy.canary.hold", "hold: 2m", "hold: 2min", "2min",
         remedy="did you mean 2m?"),
    Case("wrong-size", "run.resources.memory", "  drain: 10s", "  resources: {memory: 256MB}", "256MB",
         remedy="did you mean 256MiB?"),
    Case("wrong-size", "run.resources.memory", "  drain: 10s", "  resources: {memory: 512}", "512",
         remedy="did you mean 512MiB?"),
    Case("out-of-range", "run.resources.cpu", "  drain: 10s", "  resources: {cpu: 0}", "0}", "from 0.01 to 1024"),
    Case("out-of-range", "environments.staging.instances", "strategy: blue-green", "instances: 0", "0\n  prod",
         "from 1"),
    Case("out-of-range", "environments.staging.instances", "strategy: blue-green", "instances: two", "two",
         "whole number"),
    Case("out-of-range", "run.port", "  drain: 10s", "  port: 70000", "70000", "from 1 to 65535"),
    Case("out-of-range", "run.command", "[python, -m, guestbook]", "[]", "[]", "at least one value"),
    Case("wrong-path", "run.health.path", "  drain: 10s", "  health: {path: healthz}", "healthz",
         remedy="did you mean /healthz?"),
    Case("wrong-share", "environments.production.strategy.canary.steps[0]", "1%", "101%", "101%", "at most 100%"),
    Case("wrong-share", "environments.production.strategy.canary.steps[0]", "1%", "0.01", "0.01", "with its unit",
         "did you mean 1%?"),
    Case("wrong-share", "environments.staging.judge.false_rollbacks", "strategy: blue-green",
         "judge: {false_rollbacks: 0%}", "0%", "from 0.01% to 20%"),
    # strategies
    Case("steps-not-rising", "environments.production.strategy.canary.steps[1]", "1%, 5%", "5%, 1%", "1%]",
         "found 1% after 5%"),
    Case("steps-not-rising", "environments.production.strategy.canary.steps[2]", "1%, 5%", "1%, 5%, 5%", "5%]",
         "found 5% after 5%"),
    Case("step-complete", "environments.production.strategy.canary.steps[2]", "1%, 5%", "1%, 5%, 100%", "100%",
         "is implied"),
    Case("canary-two-ways", "environments.production.strategy.canary.steps", "{steps", "{profile: fast, steps", "steps",
         "found both"),
    Case("key-does-nothing", "environments.production.strategy.canary.hold", "steps: [1%, 5%], ", "", "hold"),
    Case("wrong-strategy", "environments.production.strategy", "{canary: {steps: [1%, 5%], hold: 2m}}",
         "{blue-green: {}}", "{blue-green", "blue-green has no settings", "write strategy: blue-green"),
    Case("wrong-strategy", "environments.production.strategy", "{canary: {steps: [1%, 5%], hold: 2m}}",
         "{canary: {}, linear: {}}", "{canary", "found 2 keys"),
    Case("wrong-strategy", "environments.production.strategy", "{canary: {steps: [1%, 5%], hold: 2m}}", "[canary]",
         "[canary]", "found a list"),
    Case("hold-back-not-here", "environments.staging.hold_back", "strategy: blue-green",
         "strategy: blue-green\n    hold_back: 20%", "hold_back", "found it with blue-green"),
    Case("key-does-nothing", "environments.staging.shield", "strategy: blue-green",
         "strategy: blue-green\n    shield: true", "shield", "found it with blue-green"),
    Case("hold-back-too-large", "environments.production.hold_back", "{steps: [1%, 5%], hold: 2m}}",
         "{steps: [1%, 90%], hold: 2m}}\n    hold_back: 20%", "20%", "at most 10%"),
    Case("key-does-nothing", "environments.staging.undecided_limit", "strategy: blue-green",
         "undecided: promote\n    undecided_limit: 5m", "undecided_limit", "found it with promote"),
    Case("key-does-nothing", "bake.build", "source: .", "build: dist", "build: dist", "only with builder node"),
    # environments
    Case("wrong-day", "environments.staging.window.days[0]", "strategy: blue-green", "window: {days: [tues]}", "tues",
         remedy="did you mean tue?"),
    Case("window-without-days", "environments.staging.window.days", "strategy: blue-green", "window: {days: []}", "[]"),
    Case("wrong-time", "environments.staging.window.to", "strategy: blue-green", "window: {to: '25:00'}", "'25:00'",
         "from 00:00 to 24:00"),
    Case("unknown-zone", "environments.staging.window[0].zone", "strategy: blue-green",
         "window: [{zone: Europe/Berlim}]", "Europe/Berlim", remedy="did you mean Europe/Berlin?"),
    Case("wrong-date", "environments.staging.freeze[0].to", "strategy: blue-green",
         "freeze: [{from: 2026-12-20, to: 2026-13-01, reason: feast}]", "2026-13-01"),
    Case("freeze-ends-first", "environments.staging.freeze[0].to", "strategy: blue-green",
         "freeze: [{from: 2026-12-20, to: 2026-12-19, reason: feast}]", "2026-12-19", "ends after it begins"),
    Case("wrong-listen", "environments.staging.listen", "127.0.0.1:8080", "localhost:8080", "localhost",
         remedy="did you mean 127.0.0.1:8080?"),
    Case("wrong-listen", "environments.staging.listen", "127.0.0.1:8080", "8080", "8080",
         remedy="did you mean 127.0.0.1:8080?"),
    Case("wrong-listen", "environments.staging.listen", "127.0.0.1:8080", "':8080'", "':8080'",
         remedy="did you mean 0.0.0.0:8080?"),
    Case("wrong-listen", "environments.staging.listen", "127.0.0.1:8080", "127.0.0.1:80800", "127.0.0.1:80800",
         "from 1 to 65535"),
    Case("wrong-listen", "environments.staging.listen", "127.0.0.1:8080", "256.0.0.1:80", "256.0.0.1:80"),
    Case("listen-taken", "environments.production.listen", "127.0.0.1:8081", "127.0.0.1:8080",
         "127.0.0.1:8080\n    strategy: {", "staging (line 14) takes too"),
    Case("listen-taken", "environments.production.listen", "127.0.0.1:8081", "0.0.0.0:8080", "0.0.0.0:8080",
         "staging (line 14) takes too"),
    Case("after-unknown", "environments.production.after", "after: staging", "after: stagin", "stagin\n",
         "another environment (staging)", "did you mean staging?"),
    Case("after-unknown", "environments.production.after", "after: staging", "after: qa", "qa", "found qa"),
    Case("after-circle", "environments.production.after", "after: staging", "after: production", "production\n    plat",
         "production after production"),
    Case("after-circle", "environments.staging.after", "strategy: blue-green", "after: production",
         "production\n  prod",
         "staging after production after staging"),
    # variables
    Case("unknown-variable", "run.command[2]", "guestbook]", "$PROT]", "$PROT", "found $PROT", "did you mean PORT?"),
    Case("unknown-variable", "run.command[2]", "guestbook]", '"${PORT:-80}"]', '"${PORT', "found ${PORT:-80}"),
    Case("unknown-variable", "run.command[2]", "guestbook]\n  drain: 10s\n  env: {GREETING: hello}",
         "$ONLY]\n  env: {X: y}", "$ONLY", "found $ONLY", "write $$ONLY"),
    Case("wrong-variable-name", "run.env.1ST", "GREETING: hello", "1ST: hello", "1ST"),
    Case("reserved-variable", "run.env.PORT", "GREETING: hello", "PORT: 80", "PORT", "its own port"),
    Case("reserved-variable", "run.env.REBAKE_URL", "GREETING: hello", "REBAKE_URL: a", "REBAKE_URL"),
    Case("secret-collides", "environments.staging.secrets.GREETING", "strategy: blue-green",
         "secrets: {GREETING: {env: G}}", "GREETING: {env", "run.env"),
    Case("secret-source", "environments.staging.secrets.TOKEN", "strategy: blue-green", "secrets: {TOKEN: {}}", "{}}",
         "found neither"),
    Case("wrong-path", "environments.staging.secrets.TOKEN.file", "strategy: blue-green",
         "secrets: {TOKEN: {file: token}}", "token}", "absolute path"),
    # checks
    Case("check-kind", "checks[0]", ", http: {path: /notes}", "", "{name: smoke", "found neither"),
    Case("check-kind", "checks[0]", "http: {path: /notes}", "http: {path: /notes}, command: [a]", "{name: smoke",
         "found both"),
    Case("duplicate-check", "checks[1].name", "environments:", "  - {name: smoke, command: [a]}\nenvironments:",
         "smoke, command", "the check on line 10"),
    Case("unknown-check", "environments.staging.checks[0]", "strategy: blue-green", "checks: [smok]", "smok]",
         remedy="did you mean smoke?"),
    Case("wrong-type", "checks[0]", "{name: smoke, http: {path: /notes}}", "smoke", "smoke", "a mapping"),
    Case("key-does-nothing", "checks[0].timeout", "http: {path: /notes}", "http: {path: /notes}, timeout: 1s",
         "timeout"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}-{case.now[:20]!r}")
def test_one_mistake_is_told_once_with_its_exact_place(case: Case) -> None:
    assert BASE.count(case.was) >= 1
    text = BASE.replace(case.was, case.now, 1)
    (mistake,) = mistakes_of(text)
    assert (mistake.code, mistake.key) == (case.code, case.key)
    assert (mistake.line, mistake.column) == place_of(text, case.at)
    assert case.says in mistake.problem
    assert (case.remedy or "") in (mistake.remedy or "")


def test_the_base_of_these_cases_has_no_mistake() -> None:
    spec = parse(BASE)
    assert plan_for(spec, "production").after == "staging"
    assert run_contract(spec).command == ("python", "-m", "guestbook")


def test_every_mistake_is_told_in_one_answer_in_the_order_of_the_file() -> None:
    text = (
        BASE.replace("builder: python", "builder: pyton")
        .replace("drain: 10s", "drain: 10")
        .replace("after: staging", "after: staginng")
        .replace("127.0.0.1:8081", "0.0.0.0:8080")
        .replace("1%, 5%", "5%, 1%")
        .replace("blue-green", "canry")
    )
    found = mistakes_of(text)
    assert [m.code for m in found] == [
        "unknown-value", "wrong-duration", "unknown-value", "after-unknown", "listen-taken", "steps-not-rising",
    ]  # fmt: skip
    assert [m.line for m in found] == sorted(m.line for m in found)


WHOLE_FILES = [
    ("", "file-empty", 1, 1),
    ("# only a comment\n", "file-empty", 1, 1),
    ("---\n", "file-empty", 1, 1),
    ("- a\n- b\n", "not-a-mapping", 1, 1),
    ("guestbook\n", "not-a-mapping", 1, 1),
    ("service: a\n---\nservice: b\n", "several-documents", 2, 1),
    ("service: a\nbake:\n\tbuilder: python\nrun:\n\tcommand: [a]\n", "yaml-tab", 3, 1),
    ("service: a\nbake: {builder: python\nrun: b\n", "yaml-syntax", 3, 4),
    ("service: a: b\n", "yaml-syntax", 1, 11),
    ('service: "a\n', "yaml-syntax", 2, 1),
    ("service: a\n  bake: b\n", "yaml-syntax", 2, 7),
    ("service: @a\n", "yaml-syntax", 1, 10),
    ("service: a\x07\n", "yaml-syntax", 1, 11),
    ("service: *nowhere\n", "yaml-anchor", 1, 10),
    ("a: &x [*x]\n", "yaml-anchor", 1, 8),
    ("a: " + "[" * (DEEPEST + 5), "nesting-too-deep", 1, 3 + DEEPEST + 1),
]


@pytest.mark.parametrize(("text", "code", "line", "column"), WHOLE_FILES, ids=[repr(c[0][:24]) for c in WHOLE_FILES])
def test_a_file_that_is_no_such_file(text: str, code: str, line: int, column: int) -> None:
    first = mistakes_of(text)[0]
    assert (first.code, first.line, first.column) == (code, line, column)
    assert first.problem.startswith("expected ")


def test_every_line_indented_with_a_tab_is_named() -> None:
    found = mistakes_of("service: a\nbake:\n\tbuilder: python\nrun:\n\tcommand: [a]\n")
    assert [(m.code, m.line) for m in found] == [("yaml-tab", 3), ("yaml-tab", 5)]


def test_anchors_that_explode_are_refused_before_they_are_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (mistake,) = mistakes_of("\n".join(lines))
    assert mistake.code == "anchor-expands"
    assert mistake.line <= 5


def test_aliases_nested_within_each_other_are_refused_when_too_deep() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
    assert [m.code for m in mistakes_of("\n".join(lines))] == ["nesting-too-deep"]


def test_a_tag_is_refused_and_never_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    text = BASE.replace("service: guestbook", f'service: !!python/object/apply:os.mkdir ["{witness}"]')
    codes = [m.code for m in mistakes_of(text)]
    assert "yaml-tag" in codes
    assert not witness.exists()


def test_a_key_that_is_a_list_is_refused() -> None:
    assert "yaml-key" in [m.code for m in mistakes_of(BASE + "? [a, b]\n: c\n")]


def test_a_circle_of_three_is_told_once_and_shown() -> None:
    environments = "".join(
        f"  {name}:\n    platform: local\n    listen: 127.0.0.1:{port}\n    after: {after}\n"
        for name, port, after in (("a", 1, "b"), ("b", 2, "c"), ("c", 3, "a"), ("d", 4, "a"))
    )
    (mistake,) = mistakes_of(BASE[: BASE.index("environments:")] + "environments:\n" + environments)
    assert mistake.code == "after-circle"
    assert "a after b after c after a" in mistake.problem


def test_a_variable_that_only_some_environments_have_names_the_others() -> None:
    text = BASE.replace("guestbook]", "$LEVEL]").replace(
        "    after: staging\n", "    after: staging\n    env: {LEVEL: a}\n"
    )
    (mistake,) = mistakes_of(text)
    assert mistake.code == "unknown-variable"
    assert "found none in staging" in mistake.problem


def test_a_secret_in_the_command_is_refused() -> None:
    text = BASE.replace("guestbook]", "--token=$TOKEN]").replace("strategy: blue-green", "secrets: {TOKEN: {env: T}}")
    assert [m.code for m in mistakes_of(text)] == ["secret-in-command"]


def test_two_environments_on_the_same_port_of_different_addresses_are_fine() -> None:
    assert parse(BASE.replace("127.0.0.1:8081", "127.0.0.2:8080")).environments["production"].listen == "127.0.0.2:8080"


def test_a_mistake_in_an_anchored_block_points_at_the_block() -> None:
    text = BASE.replace("  staging:\n", "  staging: &common\n").replace("listen: 127.0.0.1:8080", "listen: nowhere")
    text = text.replace("  production:\n", "  production:\n    <<: *common\n")
    (mistake,) = mistakes_of(text)
    assert (mistake.code, mistake.key) == ("wrong-listen", "environments.staging.listen")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_folder_without_the_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "rebake.yaml")
    assert caught.value.code == "no-rebake-yaml"
    assert "rebake init" in (caught.value.remedy or "")
    assert str(tmp_path) in caught.value.problem


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "rebake.yaml").mkdir()
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "rebake.yaml")
    assert caught.value.code == "file-unreadable"


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"service: a\nbake: \xff\n", "not-utf8", 2, 7),
        ("service: a\n".encode("utf-16"), "not-utf8", 1, 1),
        (b"#" * (LARGEST + 1), "file-too-large", 0, 0),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, data: bytes, code: str, line: int, column: int) -> None:
    path = tmp_path / "rebake.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        load(path)
    (mistake,) = caught.value.mistakes
    assert (mistake.code, mistake.line, mistake.column) == (code, line, column)


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "rebake.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load(path).service == "guestbook"
