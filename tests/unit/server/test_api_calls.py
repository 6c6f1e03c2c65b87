"""The API over a fake application: documents, refusals, defects, versions and streams."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.cli.fake import FakeApplication, promoted, rollout_view

from rebake import __version__
from rebake.errors import (
    BakeError,
    BrokenInvariant,
    LedgerConflict,
    Mistake,
    Permanent,
    RebakeError,
    Refused,
    SpecError,
    Transient,
    UsageError,
)
from rebake.server.api import api_app, has_ended
from rebake.server.replies import status_of
from rebake.server.requests import MAX_BODY_BYTES


class FakeHost:
    """A process that serves."""

    def __init__(self) -> None:
        self.stopped = False
        self.ports: list[int] = []

    def facts(self) -> dict[str, Any]:
        return {"running": True, "pid": 1, "socket": "s", "version": __version__, "since": "t", "home": "h"}

    def stop(self) -> None:
        self.stopped = True

    async def open_dashboard(self, port: int) -> str:
        self.ports.append(port)
        return f"http://127.0.0.1:{port}/"


@pytest.fixture
def application() -> FakeApplication:
    return FakeApplication()


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def api(application: FakeApplication, host: FakeHost) -> TestClient:
    return TestClient(api_app(application, host))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/agent", "pid"),
        ("/v1/status", "environments"),
        ("/v1/rollouts/r-0001", "rollout"),
        ("/v1/environments/guestbook/production", "stable"),
        ("/v1/environments/guestbook/production/drift", "checked"),
        ("/v1/environments/guestbook/production/logs", "logs"),
        ("/v1/environments/guestbook/production/history", "history"),
        ("/v1/ledger", "head"),
        ("/v1/ledger/verify", "faults"),
        ("/v1/leases", "leases"),
        ("/v1/quarantine", "quarantine"),
        ("/v1/kept", "releases"),
    ],
)
def test_every_reading_call(path: str, key: str, api: TestClient) -> None:
    response = api.get(path)
    assert response.status_code == 200
    assert key in response.json()
    assert response.headers["rebake-version"] == __version__
    assert api.post(path).json()["error"] == "unknown-call"


def test_a_verification_that_fails_ends_its_stream_with_the_error(
    api: TestClient, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(**_: object) -> None:
        raise Transient("ledger-unreachable", "the database does not answer")

    monkeypatch.setattr(application, "verify", verify)
    (last,) = api.get("/v1/ledger/verify?progress=1").text.splitlines()
    assert json.loads(last)["error"] == "ledger-unreachable"


@pytest.mark.parametrize("verb", ["undo", "stop", "approve", "down"])
def test_every_acting_call(verb: str, api: TestClient, application: FakeApplication) -> None:
    path = f"/v1/environments/guestbook/production/{verb}"
    assert api.post(path, json={"requested_by": "ada"}).status_code == 200
    assert application.calls == [(verb, "guestbook", "production", {"requested_by": "ada"})]
    assert api.get(path).status_code == 404


def test_begin_is_accepted(api: TestClient, application: FakeApplication) -> None:
    response = api.post("/v1/rollouts", json={"release": "sha256:…"})
    assert response.status_code == 202
    assert response.json()["rollout"] == "r-0001"


def test_parameters_reach_the_application(api: TestClient, application: FakeApplication) -> None:
    api.get("/v1/ledger?after=1&limit=2&service=a&environment=b&rollout=c")
    api.get("/v1/environments/guestbook/production/logs?instance=i&lines=1")
    assert application.calls == [("ledger", 1, 2, "a", "b", "c"), ("logs", "guestbook", "production", "i", 1)]


def test_stop_and_dashboard_are_the_hosts(api: TestClient, host: FakeHost) -> None:
    assert api.post("/v1/agent/stop").json() == {}
    assert api.post("/v1/dashboard", json={"port": 81}).json() == {"url": "http://127.0.0.1:81/"}
    assert host.stopped
    assert host.ports == [81]


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=99999999999", "limit=٣", "limit=1e3"])
def test_a_number_that_is_none(query: str, api: TestClient) -> None:
    response = api.get(f"/v1/environments/guestbook/production/history?{query}")
    assert response.status_code == 400
    assert response.json()["error"] == "parameter-invalid"
    assert response.json()["where"] == "limit"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"'])
def test_a_body_that_is_no_object(body: bytes, api: TestClient) -> None:
    response = api.post("/v1/rollouts", content=body)
    assert response.status_code == 400
    assert response.json()["error"] == "request-not-json"


def test_a_body_without_end(api: TestClient, application: FakeApplication) -> None:
    response = api.post("/v1/rollouts", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.json()["error"] == "request-too-large"
    assert application.calls == []


@pytest.mark.parametrize("port", [-1, 65536, "x", 1.5])
def test_a_port_that_is_none(port: object, api: TestClient, host: FakeHost) -> None:
    assert api.post("/v1/dashboard", json={"port": port}).json()["error"] == "parameter-invalid"
    assert host.ports == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("unknown-rollout", "p"), 404),
        (UsageError("which", "p"), 400),
        (SpecError("rebake.yaml", [Mistake("c", "k", "p")]), 422),
        (BakeError("c", "p"), 422),
        (Refused("c", "p"), 409),
        (LedgerConflict("c", "p"), 409),
        (Transient("c", "p"), 503),
        (Permanent("c", "p"), 502),
        (BrokenInvariant("p"), 500),
    ],
)
def test_a_refusal_goes_over_whole(
    error: RebakeError, status: int, api: TestClient, application: FakeApplication
) -> None:
    assert status_of(error) == status
    application.refuse = error
    response = api.post("/v1/rollouts", json={})
    assert response.status_code == status
    assert response.json() == error.to_json()


def test_a_defect_is_told_by_reference_and_logged_with_its_traceback(
    api: TestClient, application: FakeApplication, caplog: pytest.LogCaptureFixture
) -> None:
    application.refuse = ZeroDivisionError("by zero")
    with caplog.at_level(logging.ERROR):
        response = api.post("/v1/rollouts", json={})
    assert response.status_code == 500
    doc = response.json()
    assert doc["error"] == "broken-invariant"
    reference = doc["where"].rpartition(" ")[2]
    assert reference in caplog.text
    assert "Traceback" in caplog.text


def test_a_caller_of_another_version_is_refused_before_anything_is_done(
    api: TestClient, application: FakeApplication
) -> None:
    path = "/v1/environments/guestbook/production/undo"
    response = api.post(path, json={}, headers={"rebake-version": "9.9"})
    assert response.json()["error"] == "agent-of-another-version"
    assert application.calls == []
    assert api.post(path, json={}, headers={"rebake-version": __version__}).status_code == 200


def test_names_with_odd_characters(api: TestClient) -> None:
    response = api.get("/v1/environments/a%3Fb/pro%20duction")
    assert response.status_code == 404
    assert response.json()["problem"] == "nothing of a?b runs in pro duction"


def watched(api: TestClient, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"/v1/rollouts/r-0001/watch{query}")
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(text) for text in response.text.splitlines()]


def test_a_watch_ends_with_the_outcome(api: TestClient) -> None:
    views = watched(api)
    assert [view["state"] for view in views] == ["raising", "shifting", "soaking"]
    assert views[-1]["outcome"] == "promoted"


def test_a_watch_until_the_end_goes_on_after_the_outcome(api: TestClient, application: FakeApplication) -> None:
    over = promoted(ended="2026-01-02T03:05:00.000Z") | {"state": "done"}
    application.journey = [rollout_view(), promoted(), over]
    assert [view["state"] for view in watched(api, "?until=end")] == ["shifting", "soaking", "done"]


def test_a_watch_of_nothing(api: TestClient) -> None:
    assert api.get("/v1/rollouts/r-9/watch").status_code == 404
    assert api.get("/v1/rollouts/r-0001/watch?until=never").json()["error"] == "parameter-invalid"


def test_a_watch_that_breaks_ends_with_the_error(
    api: TestClient, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(since: int, timeout_seconds: float) -> int:
        raise Transient("ledger-busy", "another program holds it")

    monkeypatch.setattr(application, "changes", broken)
    assert watched(api)[-1]["error"] == "ledger-busy"


def test_a_silent_rollout_is_heard_each_second(
    api: TestClient, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes for two heartbeats, by a clock that we move."""
    now = [0.0]
    views = iter([rollout_view()] * 5 + [promoted()])

    def wait(since: int, timeout_seconds: float) -> int:
        now[0] += timeout_seconds
        return since

    monkeypatch.setattr("anyio.current_time", lambda: now[0])
    monkeypatch.setattr(application, "changes", wait)
    monkeypatch.setattr(application, "rollout", lambda rollout: next(views))
    assert len(watched(api)) == 6


def test_what_ends_a_watch() -> None:
    assert not has_ended(rollout_view(), "promoted")
    assert has_ended(promoted(), "promoted")
    assert not has_ended(promoted(), "end")
    assert has_ended(rollout_view(ended="t"), "end")
