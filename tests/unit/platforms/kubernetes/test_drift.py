"""Drift: what differs between a pod and what was asked for, and what does not count."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rebake.kubernetes.resources import Json
from rebake.platforms.kubernetes import platform as room
from rebake.platforms.model import Instance
from rebake.release.manifest import Resources
from rebake.testing.kubernetes import Behaviour
from tests.unit.platforms.kubernetes.world import APPS, CORE, World, digest


def _inspected(world: World) -> dict[str, list[str]]:
    found = world.platform.inspect("shop", "production")
    return {one.id: [d.kind for d in one.drift] for one in found}


def _differs(world: World, instance: str, kind: str) -> Instance:
    def look() -> Instance | None:
        found = world.platform.inspect("shop", "production")
        return next((one for one in found if one.id == instance and kind in {d.kind for d in one.drift}), None)

    found: Instance = world.until(look, lambda: _inspected(world))
    return found


def _template(world: World, change: Callable[[Json], None]) -> None:
    (deployment,) = world.deployments()
    change(deployment["spec"]["template"]["spec"])
    answer = world.http.put(f"{APPS}/deployments/{deployment['metadata']['name']}", json=deployment)
    assert answer.status_code == 200, answer.text


def test_an_untouched_fleet_has_none_and_looking_costs_no_request(world: World) -> None:
    world.raised(world.spec(1), world.spec(2))

    def quiet() -> bool:
        """Two looks with the cluster's time between them, and nothing was asked."""
        before = len(world.cluster.asked)
        assert _inspected(world) == {"f1-1": [], "f1-2": []}
        world.cluster.advance(30)
        assert _inspected(world) == {"f1-1": [], "f1-2": []}
        return [one for one in world.cluster.asked[before:] if one.attempt.verb != "watch"] == []

    world.until(quiet)
    for _ in range(20):
        assert quiet()


def test_an_amount_that_the_server_writes_otherwise_is_none(world: World) -> None:
    world.wished["scratch"] = 1_000_000_000
    world.raised(world.spec(1, resources=Resources(cpu_millis=1000, memory_bytes=1000 << 20)))
    assert _inspected(world) == {"f1-1": []}
    (deployment,) = world.deployments()
    spec = deployment["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "1048576k"}
    assert spec["volumes"][0]["emptyDir"] == {"sizeLimit": "1G"}


def test_another_image_than_was_asked_for(world: World) -> None:
    world.raised(world.spec(1))
    world.behave("good", Behaviour(digest=digest("other")))
    drifted = _differs(world, "f1-1", "image")
    assert drifted.drift[0].expected == digest("good")
    assert drifted.drift[0].found == digest("other")
    assert "as its node says" in drifted.drift[0].where


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda pod: pod["containers"][0].update(image="registry.example/other:1"), "image"),
        (lambda pod: pod["containers"][0].update(command=["sh"]), "command"),
        (lambda pod: pod["containers"][0].update(envFrom=[]), "environment"),
        (lambda pod: pod["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False), "configuration"),
        (lambda pod: pod.update(terminationGracePeriodSeconds=1), "configuration"),
    ],
)
def test_a_template_that_somebody_changed_makes_its_pods_differ_and_is_put_back(
    world: World, change: Callable[[Json], None], kind: str
) -> None:
    world.raised(world.spec(1))
    _template(world, change)
    world.until_instance("f1-1", lambda i: i.state == "exited" or i.drift)
    world.platform.launch(world.spec(2))
    world.gone("f1-1")
    good = world.until_instance("f1-2", lambda i: i.healthy is True or i.state == "exited")
    if good.state == "exited":  # it was given a pod of the changed template, which then went
        world.platform.launch(world.spec(3))
        world.gone("f1-2")
        world.until_instance("f1-3", lambda i: i.healthy is True)
    world.until(lambda: set(map(tuple, _inspected(world).values())) == {()}, lambda: _inspected(world))


def test_a_debugging_container_is_a_session(world: World) -> None:
    world.raised(world.spec(1))
    name = world.pod_of("f1-1")["metadata"]["name"]
    body = {"spec": {"ephemeralContainers": [{"name": "debugger", "image": "busybox"}]}}
    answer = world.http.patch(
        f"{CORE}/pods/{name}/ephemeralcontainers",
        json=body,
        headers={"Content-Type": "application/strategic-merge-patch+json"},
    )
    assert answer.status_code == 200, answer.text
    drifted = _differs(world, "f1-1", "session")
    assert "ephemeral container debugger" in drifted.drift[0].where


def test_settings_and_secrets_that_were_exchanged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SECRETS_SECONDS", 0.0)
    world.raised(world.with_secret(1))
    (settings,) = [one for one in world.items(f"{CORE}/configmaps") if one.get("immutable")]
    (secret,) = world.items(f"{CORE}/secrets")
    name = settings["metadata"]["name"]
    world.http.delete(f"{CORE}/secrets/{name}")
    assert "Secret" in _differs(world, "f1-1", "environment").drift[0].where
    metadata = {"name": name, "labels": secret["metadata"]["labels"]}
    world.make(f"{CORE}/secrets", {"metadata": metadata, "data": {"TOKEN": "b3RoZXI="}})
    drifted = _differs(world, "f1-1", "environment")
    assert "b3RoZXI" not in str(drifted)
    world.http.delete(f"{CORE}/configmaps/{name}")
    world.make(f"{CORE}/configmaps", {"metadata": metadata, "data": {**settings["data"], "GREETING": "bye"}})
    world.until(lambda: "GREETING" in str(_differs(world, "f1-1", "environment").drift))


def test_a_stranger_is_told_and_ended_like_any_other(world: World) -> None:
    world.raised(world.spec(1))
    labels = dict(world.pod_of("f1-1")["metadata"]["labels"])
    del labels["pod-template-hash"], labels["rebake.dev/instance"]
    pod = {"metadata": {"name": "mine", "labels": labels}, "spec": {"containers": [{"name": "x", "image": "evil:1"}]}}
    world.make(f"{CORE}/pods", pod)
    stranger = world.until_instance("stranger-mine", lambda i: True)
    assert stranger.drift[0].sentence() == "stranger: pod mine (expected nothing, found evil:1)"
    world.gone("stranger-mine")
    assert [one.id for one in world.all()] == ["f1-1"]


def test_a_fleet_that_somebody_made_by_hand_is_strangers(world: World) -> None:
    world.raised(world.spec(1))
    (deployment,) = world.deployments()
    spec = {**deployment["spec"], "replicas": 1}
    labels = deployment["metadata"]["labels"]
    world.make(f"{APPS}/deployments", {"metadata": {"name": "by-hand", "labels": labels}, "spec": spec})
    world.until(lambda: any(one.id.startswith("stranger-by-hand-") for one in world.all()))
    assert world.until_instance("f1-1", lambda i: True).healthy


def test_a_container_that_a_mesh_adds_is_no_difference(world: World) -> None:
    world.raised(world.spec(1))
    from rebake.kubernetes.resources import DEPLOYMENTS
    from rebake.platforms.kubernetes.drift import pod_drift
    from rebake.platforms.kubernetes.records import read_fleet
    from rebake.platforms.kubernetes.requests import template_of

    fleet = read_fleet(DEPLOYMENTS, world.deployments()[0])
    assert fleet is not None
    pod = world.pod_of("f1-1")
    pod["spec"]["containers"].append({"name": "istio-proxy", "image": "proxy:1"})
    pod["spec"]["containers"][0]["env"].append({"name": "ADDED", "value": "by admission"})
    asked = template_of(fleet.record)["spec"]
    assert list(pod_drift("i", fleet, pod, asked)) == []
    pod["spec"]["containers"][0]["env"].pop(0)
    assert [one.kind for one in pod_drift("i", fleet, pod, asked)] == ["environment"]
