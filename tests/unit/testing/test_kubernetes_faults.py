"""What goes wrong at the API, as a test orders it."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from rebake.testing.kubernetes import ApiError, Fault, Gate
from rebake.testing.kubernetes.status import internal_error, too_many_requests
from tests.unit.testing.bench import APPS, CORE, Bench, deployment

Json = dict[str, Any]
SETTINGS = f"{CORE}/configmaps/settings"


def _settings(bench: Bench) -> Json:
    return bench.make(f"{CORE}/configmaps", {"metadata": {"name": "settings"}, "data": {"a": "1"}})


def test_a_request_that_is_refused_took_no_effect(bench: Bench) -> None:
    _settings(bench)
    bench.cluster.faults.add(Fault("patch", "configmaps", answer=internal_error("etcdserver: leader changed")))
    refused = bench.merge(SETTINGS, {"data": {"a": "2"}})
    assert refused.status_code == 500
    assert refused.json()["message"] == "Internal error occurred: etcdserver: leader changed"
    assert bench.get(SETTINGS)["data"] == {"a": "1"}
    assert bench.merge(SETTINGS, {"data": {"a": "2"}}).status_code == 200


def test_a_lost_answer_of_a_request_that_took_effect(bench: Bench) -> None:
    bench.cluster.faults.add(Fault("create", "configmaps", after=True))
    with pytest.raises(httpx.RemoteProtocolError):
        _settings(bench)
    assert bench.http.post(f"{CORE}/configmaps", json={"metadata": {"name": "settings"}}).status_code == 409


def test_an_answer_that_says_failure_after_the_effect(bench: Bench) -> None:
    timeout = ApiError(504, "Timeout", "Timeout: request did not complete within requested timeout")
    bench.cluster.faults.add(Fault("create", "configmaps", answer=timeout, after=True))
    assert bench.http.post(f"{CORE}/configmaps", json={"metadata": {"name": "settings"}}).status_code == 504
    assert bench.get(SETTINGS)["metadata"]["name"] == "settings"


def test_a_server_with_too_much_to_do_says_when_to_come_back(bench: Bench) -> None:
    busy = too_many_requests("Too many requests, please try again later.", 1)
    bench.cluster.faults.add(Fault(answer=busy, times=2))
    answers = [bench.http.get(f"{CORE}/pods") for _ in range(3)]
    assert [one.status_code for one in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"


@pytest.mark.parametrize("after", [False, True])
def test_a_slow_answer_comes_when_the_gate_opens(bench: Bench, after: bool) -> None:
    _settings(bench)
    gate = Gate()
    bench.cluster.faults.add(Fault("patch", "configmaps", gate=gate, passes=True, after=after))
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(bench.merge(SETTINGS, {"data": {"a": "2"}}).status_code))
    thread.start()
    gate.wait_for_request()
    assert bench.get(SETTINGS)["data"] == {"a": "2" if after else "1"} or after
    assert answers == []
    gate.open()
    thread.join()
    assert answers == [200]
    assert bench.get(SETTINGS)["data"] == {"a": "2"}


def _events(answer: httpx.Response, count: int) -> list[Json]:
    lines = answer.iter_lines()
    return [json.loads(next(lines)) for _ in range(count)]


def test_while_the_api_server_is_away_the_rest_of_the_cluster_goes_on(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment())
    watch = bench.http.stream("GET", f"{CORE}/pods", params={"watch": "true"})
    with watch as answer, bench.cluster.api_server_away():
        with pytest.raises(httpx.RemoteProtocolError):
            list(answer.iter_lines())
        with pytest.raises(httpx.ConnectError):
            httpx.get(bench.cluster.url)
        bench.cluster.advance(5)
    assert len(bench.pods()) == 3


def test_a_watch_that_is_cut_breaks_in_its_middle(bench: Bench) -> None:
    with bench.http.stream("GET", f"{CORE}/configmaps", params={"watch": "true"}) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines))["type"] == "ADDED"
        bench.cluster.faults.cut_watches()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_a_forgotten_version_ends_a_watch_inside_its_stream(bench: Bench) -> None:
    since = _settings(bench)["metadata"]["resourceVersion"]
    bench.merge(SETTINGS, {"data": {"a": "2"}})
    bench.cluster.forget_history()
    query = {"watch": "true", "resourceVersion": since}
    with bench.http.stream("GET", f"{CORE}/configmaps", params=query) as answer:
        assert answer.status_code == 200
        lines = [json.loads(one) for one in answer.iter_lines()]
    assert [one["type"] for one in lines] == ["ERROR"]
    status = lines[0]["object"]
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert status["message"].startswith(f"too old resource version: {since} (")


def test_after_very_many_writes_the_oldest_versions_are_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebake.testing.kubernetes.store.KEPT_CHANGES", 10)
    versions = [int(_settings(bench)["metadata"]["resourceVersion"])]
    for number in range(20):
        answer = bench.merge(SETTINGS, {"data": {"a": f"n{number}"}})
        versions.append(int(answer.json()["metadata"]["resourceVersion"]))
    old, late = (
        bench.http.get(f"{CORE}/configmaps", params={"resourceVersion": str(v), "resourceVersionMatch": "Exact"})
        for v in (versions[1], versions[-2])
    )
    assert old.status_code == 410
    assert late.status_code == 200
    assert {"a": "n18"} in [one.get("data") for one in late.json()["items"]]


def test_a_page_of_a_forgotten_list_is_gone(bench: Bench) -> None:
    for number in range(3):
        bench.make(f"{CORE}/configmaps", {"metadata": {"name": f"c{number}"}})
    first = bench.get(f"{CORE}/configmaps", limit="1")
    _settings(bench)
    bench.cluster.forget_history()
    query = {"limit": "1", "continue": first["metadata"]["continue"]}
    gone = bench.http.get(f"{CORE}/configmaps", params=query)
    assert (gone.status_code, gone.json()["reason"]) == (410, "Expired")
    rest = bench.get(f"{CORE}/configmaps", **{"continue": gone.json()["metadata"]["continue"]})
    assert rest["items"], "the rest can be read, at a newer version"


def test_a_watch_ends_at_its_time_with_a_last_bookmark(bench: Bench) -> None:
    version = bench.get(f"{CORE}/configmaps")["metadata"]["resourceVersion"]
    query = {"watch": "1", "timeoutSeconds": "90", "allowWatchBookmarks": "true", "resourceVersion": version}
    with bench.http.stream("GET", f"{CORE}/configmaps", params=query) as answer:
        lines = answer.iter_lines()
        bench.cluster.advance(61)
        assert json.loads(next(lines))["type"] == "BOOKMARK"
        _settings(bench)
        assert json.loads(next(lines))["type"] == "ADDED"
        bench.cluster.advance(60)
        last = [json.loads(one) for one in lines]
    assert [one["type"] for one in last] == ["BOOKMARK"]
    assert (
        last[0]["object"]["metadata"]["resourceVersion"]
        == bench.get(f"{CORE}/configmaps")["metadata"]["resourceVersion"]
    )


def test_a_version_of_the_future_is_too_large(bench: Bench) -> None:
    answer = bench.http.get(f"{CORE}/configmaps", params={"resourceVersion": "999999"})
    assert answer.status_code == 504
    assert answer.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_a_webhook_refuses_with_its_own_words(bench: Bench) -> None:
    def refuses(resource: Any, item: Json) -> str:
        return "images must be signed" if resource.plural == "deployments" else ""

    bench.cluster.webhooks["policy.example"] = refuses
    refused = bench.http.post(f"{APPS}/deployments", json=deployment())
    assert refused.json()["message"] == 'admission webhook "policy.example" denied the request: images must be signed'


def test_every_request_is_counted(bench: Bench) -> None:
    bench.get(f"{CORE}/pods")
    bench.http.get(f"{CORE}/pods/nobody")
    found = [(one.attempt.verb, one.attempt.name, one.user, one.code) for one in bench.cluster.asked]
    assert found == [("list", "", "admin", 200), ("get", "nobody", "admin", 404)]
