"""Why a rollout on a cluster stops: each reason in the cluster's own sentence, at once where waiting cures nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.errors import PlatformError
from rebake.kubernetes.resources import Json, condition
from rebake.platforms.kubernetes.reasons import UNSCHEDULABLE_SECONDS, end_of, hindrance, last_refusal, last_word
from rebake.platforms.kubernetes.records import FleetRecord
from rebake.platforms.model import Instance
from rebake.release.manifest import Resources
from rebake.testing.kubernetes import Behaviour
from rebake.testing.kubernetes.resources import Resource
from rebake.testing.kubernetes.status import internal_error
from tests.unit.platforms.kubernetes.world import CORE, World

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"


def _exited(world: World, marker: str = "good") -> Instance:
    world.platform.launch(world.spec(1, marker))
    return world.until_instance("f1-1", lambda i: i.state == "exited")


def test_a_quota_that_is_used_up(world: World) -> None:
    world.make(f"{CORE}/resourcequotas", {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
    world.raised(world.spec(1))
    world.platform.launch(world.spec(2))
    exited = world.until_instance("f1-2", lambda i: i.state == "exited")
    assert "could not be started: FailedCreate: " in (exited.exit or "")
    assert "exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1" in (exited.exit or "")
    assert world.one("f1-1") is not None
    world.gone("f1-2")
    world.http.delete(f"{CORE}/resourcequotas/small")
    world.until(lambda: condition(world.deployments()[0], "ReplicaFailure") is None)
    world.raised(world.spec(3))


def test_a_stateful_fleet_that_gets_no_pods_ends_as_early_with_the_same_sentence(world: World) -> None:
    world.wished["kind"] = "statefulset"
    world.make(f"{CORE}/resourcequotas", {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
    world.raised(world.spec(1))
    began = world.cluster.clock.now()
    world.platform.launch(world.spec(2))
    exited = world.until_instance("f1-2", lambda i: i.state == "exited")
    assert "could not be started: FailedCreate: " in (exited.exit or "")
    assert "exceeded quota: small" in (exited.exit or "")
    assert world.cluster.clock.now() - began < 5.0
    assert world.one("f1-1") is not None
    world.gone("f1-2")
    world.http.delete(f"{CORE}/resourcequotas/small")
    world.cluster.advance(30)
    world.raised(world.spec(3))


def test_a_refusal_of_before_is_none_of_now() -> None:
    events = [
        {"reason": "FailedCreate", "message": "quota", "lastTimestamp": "2026-01-01T00:00:10Z"},
        {"reason": "FailedCreate", "message": 'pods "w-0" already exists', "lastTimestamp": "2026-01-01T00:00:50Z"},
        {"reason": "SuccessfulCreate", "message": "Created", "lastTimestamp": "2026-01-01T00:00:50Z"},
    ]
    refusal = last_refusal(events)
    assert refusal is not None
    assert refusal.text == "FailedCreate: quota"
    assert refusal.at % 60 == 10
    assert last_refusal(events[1:]) is None


def test_a_webhook_that_refuses_the_pods_and_one_that_refuses_the_fleet(world: World) -> None:
    world.cluster.webhooks["policy.example"] = lambda kind, _: "unsigned" if kind.kind == "Pod" else ""
    exited = _exited(world)
    assert 'admission webhook "policy.example" denied the request: unsigned' in (exited.exit or "")
    world.cluster.webhooks["policy.example"] = lambda kind, _: "unsigned" if kind.kind == "Deployment" else ""
    with pytest.raises(PlatformError, match="unsigned") as refused:
        world.platform.launch(world.spec(1, fleet="f2"))
    assert refused.value.code == "kubernetes-policy"


def test_a_webhook_that_does_not_answer_is_waited_for(world: World) -> None:
    said = (
        'failed calling webhook "policy.example": failed to call webhook: Post "https://x": connect: connection refused'
    )

    def away(kind: Resource, _: Json) -> str:
        if kind.kind == "Pod":
            raise internal_error(said)
        return ""

    world.cluster.webhooks["policy.example"] = away
    world.platform.launch(world.spec(1))
    since = world.cluster.clock.now()
    world.until(lambda: world.cluster.clock.now() > since + 10)
    waiting = world.one("f1-1")
    assert waiting is not None
    assert (waiting.state, waiting.detail) == ("starting", f"FailedCreate: Internal error occurred: {said}")
    del world.cluster.webhooks["policy.example"]
    world.until_instance("f1-1", lambda i: i.healthy is True)


def test_an_image_that_is_not_there(world: World) -> None:
    world.behave("lost", Behaviour(pulls=False, pull_error="manifest unknown"))
    exited = _exited(world, "lost")
    assert (exited.exit or "").startswith("could not be started: ErrImagePull: failed to pull and unpack image")
    assert "manifest unknown" in (exited.exit or "")


def test_a_registry_that_does_not_answer_is_waited_for(world: World) -> None:
    world.behave("slow", Behaviour(pulls=False, pull_error="dial tcp 10.0.0.1:443: i/o timeout"))
    world.platform.launch(world.spec(1, "slow"))
    waiting = world.until_instance("f1-1", lambda i: "i/o timeout" in (i.detail or ""))
    assert (waiting.state, waiting.healthy) == ("starting", None)
    world.cluster.advance(30)
    world.behave("slow", Behaviour())
    world.until_instance("f1-1", lambda i: i.healthy is True)


def test_a_cluster_without_room(world: World) -> None:
    world.behave("large", Behaviour(schedulable=False))
    world.platform.launch(world.spec(1, "large"))
    waiting = world.until_instance("f1-1", lambda i: i.detail != "waits for its pod")
    assert (waiting.detail or "").startswith("Unschedulable: 0/3 nodes are available")
    exited = world.until_instance("f1-1", lambda i: i.state == "exited")
    assert "3 Insufficient cpu" in (exited.exit or "")


def test_a_node_that_is_on_its_way_is_waited_for(world: World) -> None:
    world.behave("large", Behaviour(schedulable=False))
    world.platform.launch(world.spec(1, "large"))
    world.until_instance("f1-1", lambda i: i.detail is not None and i.detail.startswith("Unschedulable"))
    pod = world.pods()[0]["metadata"]
    event: Json = {
        "metadata": {"name": "scales"},
        "involvedObject": {"kind": "Pod", "name": pod["name"], "namespace": "default", "uid": pod["uid"]},
        "reason": "TriggeredScaleUp",
        "message": "pod triggered scale-up",
        "type": "Normal",
    }
    world.make(f"{CORE}/events", event)

    def waits(instance: Instance) -> bool:
        """Longer than without that word."""
        assert instance.state == "starting", instance
        return world.cluster.clock.now() - instance.started_at > 3 * UNSCHEDULABLE_SECONDS

    world.until_instance("f1-1", waits)
    world.behave("large", Behaviour())
    world.until_instance("f1-1", lambda i: i.healthy is True)


def test_a_crash_loop_with_the_last_words_of_the_one_that_ended(world: World) -> None:
    world.behave("broken", Behaviour(exits=2, log=("no such table: notes",)))
    exited = _exited(world, "broken")
    assert exited.exit == "exit 2"
    world.cluster.advance(60)
    assert world.one("f1-1") == exited
    assert list(world.platform.logs("f1-1", 5)) == ["no such table: notes"]
    world.gone("f1-1")
    assert list(world.platform.logs("f1-1", 5)) == ["no such table: notes"]


def test_a_setting_that_somebody_removed(world: World) -> None:
    world.raised(world.spec(1))
    for one in world.items(f"{CORE}/configmaps"):
        if one.get("immutable"):
            world.http.delete(f"{CORE}/configmaps/{one['metadata']['name']}")
    world.platform.launch(world.spec(2))
    exited = world.until_instance("f1-2", lambda i: i.state == "exited")
    assert "CreateContainerConfigError: configmap" in (exited.exit or "")
    assert "not found" in (exited.exit or "")


def test_one_that_crashes_later_and_one_that_is_evicted(world: World) -> None:
    world.raised(world.spec(1), world.spec(2), world.spec(3))
    world.cluster.crash("default", world.pod_of("f1-1")["metadata"]["name"], 139, "segmentation fault")
    exited = world.until_instance("f1-1", lambda i: i.state == "exited")
    assert (exited.exit, exited.was_healthy) == ("killed by SIGSEGV", True)
    name = world.pod_of("f1-2")["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    world.gone("f1-1")
    world.raised(world.spec(4))
    world.until(lambda: world.http.post(f"{CORE}/pods/{name}/eviction", json=body).status_code == 201)
    gone = world.until_instance("f1-2", lambda i: i.state == "exited")
    assert (gone.exit or "").startswith("its pod was ")
    world.gone("f1-2")
    world.raised(world.spec(5))
    assert {one.id for one in world.all()} == {"f1-3", "f1-4", "f1-5"}
    world.until(lambda: len(world.pods()) == 3)


def test_one_that_never_becomes_well_says_what_it_answers(world: World) -> None:
    world.behave("sick", Behaviour(answers={"/healthz": (500, "")}))
    world.platform.launch(world.spec(1, "sick"))
    said = "not healthy within 30s: last: GET /healthz answered 500"
    sick = world.until_instance("f1-1", lambda i: i.detail == said)
    assert (sick.state, sick.healthy) == ("starting", False)


def test_one_that_stops_being_well_stays_and_says_so(world: World) -> None:
    world.raised(world.spec(1))
    world.behave("good", Behaviour(ready=False))
    sick = world.until_instance("f1-1", lambda i: i.healthy is False)
    assert (sick.state, sick.was_healthy) == ("running", True)
    world.kill()
    assert world.until_instance("f1-1", lambda i: True).was_healthy
    world.behave("good", Behaviour())
    world.until_instance("f1-1", lambda i: i.healthy is True)


# --- sentences from single objects --------------------------------------------------------------------------------


def _record(world: World, memory: int | None = None) -> FleetRecord:
    from rebake.kubernetes.settings import KubernetesSettings

    return FleetRecord(world.spec(1, resources=Resources(memory_bytes=memory)), KubernetesSettings(), "r/shop@x")


def _pod(state: Json, last: Json | None = None, restarts: int = 0, **status: Any) -> Json:
    row = {"name": "main", "state": state, "lastState": last or {}, "restartCount": restarts}
    return {
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"containerStatuses": [row], **status},
    }


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (_pod({"running": {}}, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, 1), "memory limit 64MiB"),
        (_pod({"running": {}}, {"terminated": {"exitCode": 143}}, 1), "killed by SIGTERM"),
        (_pod({"terminated": {"exitCode": 0}}), "exit 0"),
        (_pod({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: serve"}}), "exec: serve"),
        (_pod({}, phase="Failed", reason="Evicted", message="The node was low on memory"), "Evicted: The node was low"),
    ],
)
def test_how_a_container_ended(world: World, pod: Json, said: str) -> None:
    assert said in (end_of(pod, _record(world, 64 << 20)) or "")


def test_a_disruption_is_told_by_its_reason(world: World) -> None:
    pod = _pod({"running": {}})
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert end_of(pod, _record(world)) == "its pod was deleted by somebody else"
    found = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by shop/big"}
    pod["status"]["conditions"] = [found]
    assert end_of(pod, _record(world)) == "its pod was preempted by a pod of higher priority: by shop/big"


@pytest.mark.parametrize(
    ("reason", "message", "over"),
    [
        ("ErrImagePull", "pull access denied, repository does not exist or may require authorization", True),
        (
            "ImagePullBackOff",
            'Back-off pulling image "x": ErrImagePull: unexpected status: 503 Service Unavailable',
            False,
        ),
        ("ErrImagePull", "no match for platform in manifest: not found", True),
        ("InvalidImageName", "couldn't parse image name", True),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", True),
        ("CreateContainerConfigError", 'configmap "shop-production" not found', True),
        ("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition", False),
        ("CreateContainerError", "context deadline exceeded", False),
        ("CreateContainerError", 'failed to reserve container name "main": name "main" is reserved for "9f8"', False),
        ("ContainerCreating", "", None),
    ],
)
def test_what_waiting_cures(reason: str, message: str, over: bool | None) -> None:
    found = hindrance(_pod({"waiting": {"reason": reason, "message": message}}), 1.0)
    assert (found[1] if found else None) == over


def test_the_newest_warning_is_the_last_word() -> None:
    events: list[Json] = [
        {"type": "Warning", "reason": "FailedMount", "message": "later", "lastTimestamp": "2026-01-01T00:00:09Z"},
        {"type": "Warning", "reason": "Unhealthy", "message": "first", "lastTimestamp": "2026-01-01T00:00:01Z"},
        {"type": "Normal", "reason": "Pulled", "message": "calm", "lastTimestamp": "2026-01-01T00:00:10Z"},
    ]
    assert last_word(events, "/") == "FailedMount: later"
    assert last_word([], "/") is None
