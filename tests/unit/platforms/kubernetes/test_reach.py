"""From outside a cluster pods are reached through its API server, and what stands in the way is named."""

from __future__ import annotations

import socket
from dataclasses import replace

import httpx
import pytest

from rebake.errors import Permanent, Transient
from rebake.platforms.kubernetes import doors
from rebake.testing.kubernetes import Behaviour, Fault
from rebake.testing.kubernetes.status import ApiError
from tests.unit.platforms.kubernetes.world import CORE, World


def _address(world: World) -> str:
    found = world.raised(world.spec(1))[0].address
    assert found is not None
    return found


def test_what_is_asked_arrives_at_the_pod_and_its_answer_here(world: World) -> None:
    world.behave("good", Behaviour(answers={"/healthz": (200, "fine"), "/deep?x=1": (404, "no such note")}))
    address = _address(world)
    with world.platform.reach([address, "127.0.0.1:9"]) as (near, other):
        assert near.startswith("127.0.0.1:")
        assert other == "127.0.0.1:9", "nobody's pod is taken as it is"
        for _ in range(3):
            assert httpx.get(f"http://{near}/healthz").text == "fine"
        missing = httpx.get(f"http://{near}/deep?x=1")
        assert (missing.status_code, missing.text) == (404, "no such note")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{near}/healthz")
    asked = [one.attempt for one in world.cluster.asked if one.attempt.subresource == "portforward"]
    assert {(one.verb, one.namespace, one.name) for one in asked} == {
        ("get", "default", world.pod_of("f1-1")["metadata"]["name"])
    }


def test_a_pod_that_does_not_listen_breaks_the_connection(world: World) -> None:
    address = _address(world)
    with world.platform.reach([address]) as (near,):
        world.behave("good", Behaviour(exits=1))
        world.cluster.advance(2)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{near}/healthz")


def test_a_permission_that_is_missing_is_named_with_its_rule(world: World) -> None:
    address = _address(world)
    said = 'User "r" cannot create resource "pods/portforward" in API group "" in the namespace "default"'
    world.cluster.faults.add(Fault(resource="pods", answer=ApiError(403, "Forbidden", said), times=9))
    with pytest.raises(Permanent) as refused, world.platform.reach([address]):
        pass
    assert refused.value.code == "kubernetes-forbidden"
    assert (
        refused.value.remedy
    ) == 'add this rule to the Role of "r": {apiGroups: [""], resources: [pods/portforward], verbs: [create]}'


def test_where_the_api_server_leads_nowhere_the_address_is_tried_and_both_are_told(world: World) -> None:
    address = _address(world)
    away = ApiError(500, "InternalError", "error dialing backend: dial tcp 10.0.0.7:10250: i/o timeout")
    world.cluster.faults.add(Fault(resource="pods", answer=away, times=9))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(doors, "_answers", lambda _address: False)
        with pytest.raises(Transient) as refused, world.platform.reach([address]):
            pass
    assert refused.value.code == "pod-unreachable"
    assert "error dialing backend" in refused.value.problem
    assert f"not at {address}" in refused.value.problem
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        assert doors._answers(here)
    assert not doors._answers(here)


def test_within_the_cluster_the_address_is_taken(world: World) -> None:
    address = _address(world)
    client = next(iter(world.platform._clusters.links())).client
    client.sign = replace(client.sign, inside=True)
    with world.platform.reach([address]) as (near,):
        assert near == address
    assert not [one for one in world.cluster.asked if one.attempt.subresource == "portforward"]


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({}, "ports=80", 400),
        ({"Upgrade": "websocket", "Sec-WebSocket-Protocol": "v9.channel.k8s.io"}, "ports=80", 403),
        ({"Upgrade": "websocket", "Sec-WebSocket-Protocol": "v4.channel.k8s.io"}, "ports=0", 400),
    ],
)
def test_the_emulated_server_leads_nobody_who_asks_in_another_way(
    world: World, headers: dict[str, str], query: str, code: int
) -> None:
    _address(world)
    path = f"{CORE}/pods/{world.pod_of('f1-1')['metadata']['name']}/portforward?{query}"
    assert world.http.get(path, headers=headers).status_code == code
