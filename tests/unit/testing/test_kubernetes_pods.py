"""What becomes of pods in the emulated cluster, as an adapter reads it."""

from __future__ import annotations

from typing import Any

from rebake.testing.kubernetes import Behaviour
from tests.unit.testing.bench import APPS, BAD, CORE, GOOD, Bench, container_of, deployment

Json = dict[str, Any]
PROFILE = {f"pod-security.kubernetes.io/{one}": "restricted" for one in ("enforce", "warn")}


def _one(bench: Bench, **template: Any) -> Json:
    """The only pod of a deployment, five seconds after it was made."""
    body = deployment(replicas=1, image=BAD)
    container_of(body).update(template)
    bench.make(f"{APPS}/deployments", body)
    bench.cluster.advance(5)
    return bench.pods()[0]


def _state(pod: Json) -> Json:
    found: Json = pod["status"]["containerStatuses"][0]["state"]
    return found


def _log(bench: Bench, pod: Json, **query: str) -> str:
    answer = bench.http.get(f"{CORE}/pods/{pod['metadata']['name']}/log", params=query)
    return answer.text if answer.status_code == 200 else str(answer.json()["message"])


def test_a_pod_that_serves_says_which_image_it_runs(bench: Bench) -> None:
    pod = _one(bench)
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["containerStatuses"][0]["imageID"] == BAD
    assert _log(bench, pod) == "listening\n"
    bench.cluster.write_log("default", pod["metadata"]["name"], "one", "two")
    assert _log(bench, pod, tailLines="1") == "two\n"


def test_an_image_other_than_the_one_asked_for(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(digest="sha256:" + "c" * 64))
    assert _one(bench)["status"]["containerStatuses"][0]["imageID"].endswith("@sha256:" + "c" * 64)


def test_an_image_that_cannot_be_pulled(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(pulls=False, pull_error="401 Unauthorized"))
    pod = _one(bench)
    assert pod["status"]["phase"] == "Pending"
    assert _state(pod)["waiting"]["reason"] == "ErrImagePull"
    bench.cluster.advance(10)
    waiting = _state(bench.pods()[0])["waiting"]
    assert waiting["reason"] == "ImagePullBackOff"
    assert "401 Unauthorized" in waiting["message"]
    assert any("401 Unauthorized" in one for one in bench.events("Failed"))
    assert "trying and failing to pull image" in _log(bench, pod)
    bench.cluster.behave(BAD, Behaviour())
    bench.cluster.advance(15)
    assert bench.pods()[0]["status"]["phase"] == "Running"


def test_a_crash_loop_keeps_the_last_words(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(exits=3, log=("starting", "no such table: notes")))
    pod = _one(bench)
    row = pod["status"]["containerStatuses"][0]
    assert row["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert row["state"]["waiting"]["message"].startswith("back-off 10s restarting failed container=web pod=web-")
    assert row["lastState"]["terminated"]["exitCode"] == 3
    assert _log(bench, pod, previous="true") == "starting\nno such table: notes\n"
    bench.cluster.advance(60)
    assert bench.pods()[0]["status"]["containerStatuses"][0]["restartCount"] == 2


def test_a_crash_of_a_pod_that_served(bench: Bench) -> None:
    name = _one(bench)["metadata"]["name"]
    bench.cluster.crash("default", name, 137, "killed")
    row = bench.pods()[0]["status"]["containerStatuses"][0]
    assert (row["ready"], row["lastState"]["terminated"]["exitCode"]) == (False, 137)
    assert _log(bench, bench.pods()[0], previous="true").endswith("killed\n")
    bench.cluster.advance(20)
    assert bench.pods()[0]["status"]["containerStatuses"][0]["ready"] is True


def test_no_room_on_any_node(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(schedulable=False))
    pod = _one(bench)
    scheduled = next(one for one in pod["status"]["conditions"] if one["type"] == "PodScheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert scheduled["message"].startswith("0/3 nodes are available: 3 Insufficient cpu.")
    assert bench.events("FailedScheduling")
    assert bench.http.delete(f"{CORE}/pods/{pod['metadata']['name']}").json()["kind"] == "Pod"
    assert bench.http.get(f"{CORE}/pods/{pod['metadata']['name']}").status_code == 404


def test_slow_and_never_ready(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(start_seconds=8))
    assert _one(bench)["status"]["containerStatuses"][0]["ready"] is False
    bench.cluster.advance(4)
    assert bench.pods()[0]["status"]["containerStatuses"][0]["ready"] is True
    bench.cluster.behave(BAD, Behaviour(ready=False))
    bench.cluster.settle()
    assert bench.pods()[0]["status"]["containerStatuses"][0]["ready"] is False
    assert any("Readiness probe failed" in one for one in bench.events("Unhealthy"))


def test_a_setting_that_is_not_there(bench: Bench) -> None:
    pod = _one(bench, envFrom=[{"configMapRef": {"name": "settings"}}])
    assert _state(pod)["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'configmap "settings" not found',
    }
    bench.make(f"{CORE}/configmaps", {"metadata": {"name": "settings"}})
    bench.cluster.advance(2)
    assert "running" in _state(bench.pods()[0])


def test_pre_stop_and_grace_pass_before_a_pod_is_gone(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(stop_seconds=1))
    name = _one(bench, lifecycle={"preStop": {"sleep": {"seconds": 5}}})["metadata"]["name"]
    answer = bench.http.delete(f"{CORE}/pods/{name}").json()
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 30
    bench.cluster.advance(5)
    assert bench.get(f"{CORE}/pods/{name}")["status"]["phase"] == "Running"
    bench.cluster.advance(1.5)
    assert bench.http.get(f"{CORE}/pods/{name}").status_code == 404


def test_a_shorter_grace_ends_it_earlier(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(stop_seconds=100))
    name = _one(bench)["metadata"]["name"]
    bench.http.request("DELETE", f"{CORE}/pods/{name}", json={"gracePeriodSeconds": 3})
    bench.cluster.advance(4)
    assert bench.http.get(f"{CORE}/pods/{name}").status_code == 404


def test_the_profile_restricted_refuses_what_could_do_more(bench: Bench) -> None:
    bench.merge("/api/v1/namespaces/default", {"metadata": {"labels": PROFILE}})
    body = deployment(replicas=1)
    warned = bench.http.post(f"{APPS}/deployments", json=body)
    assert "would violate PodSecurity" in warned.headers["Warning"]
    bench.cluster.settle()
    assert bench.pods() == []
    told = bench.events("FailedCreate")[0]
    for part in (
        'violates PodSecurity "restricted:latest"',
        'allowPrivilegeEscalation != false (container "web" must set securityContext.allowPrivilegeEscalation=false)',
        'unrestricted capabilities (container "web" must set securityContext.capabilities.drop=["ALL"])',
        'runAsNonRoot != true (pod or container "web" must set securityContext.runAsNonRoot=true)',
        'seccompProfile (pod or container "web" must set securityContext.seccompProfile.type to',
    ):
        assert part in told
    safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container_of(body)["securityContext"] = {**safe, "seccompProfile": {"type": "RuntimeDefault"}}
    answer = bench.apply(f"{APPS}/deployments/web", body, force="true")
    assert "Warning" not in answer.headers
    bench.cluster.advance(5)
    assert [one["status"]["phase"] for one in bench.pods()] == ["Running"]


def test_a_pod_cannot_be_changed_in_place(bench: Bench) -> None:
    name = _one(bench)["metadata"]["name"]
    patch = [{"op": "add", "path": "/spec/containers/0/env", "value": [{"name": "A", "value": "1"}]}]
    headers = {"Content-Type": "application/json-patch+json"}
    refused = bench.http.patch(f"{CORE}/pods/{name}", json=patch, headers=headers)
    assert "pod updates may not change fields other than" in refused.json()["message"]
    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": GOOD}]}}
    path = f"{CORE}/pods/{name}/ephemeralcontainers"
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    assert bench.http.patch(path, json=debug, headers=headers).status_code == 200
    assert bench.get(f"{CORE}/pods/{name}")["spec"]["ephemeralContainers"][0]["name"] == "debug"


def test_time_passes_by_itself_where_it_is_asked_to(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment())
    query = {"watch": "true", "fieldSelector": "metadata.name=web"}
    with bench.cluster.in_real_time(speed=20), bench.http.stream("GET", f"{APPS}/deployments", params=query) as answer:
        for line in answer.iter_lines():
            if '"availableReplicas":3' in line:
                break
    assert len(bench.pods()) == 3
