"""Whatever is sent to the emulated API server, it answers as one, and its cluster goes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebake.testing.kubernetes import ADMIN_TOKEN, Cluster
from rebake.testing.kubernetes.api import Request
from tests.unit.testing.bench import APPS, CORE, GATEWAY, POLICY, RBAC, Bench, deployment, service

Json = dict[str, Any]
_ROUTE = {
    "metadata": {"name": "web"},
    "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
}
_STATEFUL = {**deployment("db"), "kind": "StatefulSet"}
_STATEFUL["spec"] = {**_STATEFUL["spec"], "serviceName": "db"}
_SETTINGS = {"metadata": {"name": "settings"}, "data": {"a": "MQ=="}}
_POD_SPEC = deployment()["spec"]["template"]["spec"]
_ROLE = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "deployer"}
BASES: list[tuple[str, Json]] = [
    (f"{APPS}/deployments", deployment()),
    (f"{APPS}/statefulsets", _STATEFUL),
    (f"{CORE}/services", service()),
    (f"{CORE}/pods", {"metadata": {"name": "web"}, "spec": _POD_SPEC}),
    (f"{CORE}/secrets", _SETTINGS),
    (f"{CORE}/configmaps", _SETTINGS),
    (f"{CORE}/resourcequotas", {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}),
    (f"{GATEWAY}/httproutes", _ROUTE),
    (f"{POLICY}/poddisruptionbudgets", {"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {}}}),
    (
        f"{RBAC}/rolebindings",
        {"metadata": {"name": "a"}, "roleRef": _ROLE, "subjects": [{"kind": "User", "name": "a"}]},
    ),
    ("/api/v1/namespaces", {"metadata": {"name": "other"}}),
]
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 10**12, 1.5, "", "x", "-1", "5%", [], {}, [None], [{}], {"": ""}, {"name": 1}]
)
MEDIA = ["application/apply-patch+yaml", "application/merge-patch+json", "application/strategic-merge-patch+json"]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        yield (*path, key)
        yield from _places(one, (*path, key))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, Json]:
    """A valid object with one to three things in it replaced or removed."""
    path, base = draw(st.sampled_from(BASES))
    body = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(body))
        if not places:
            break
        place = draw(st.sampled_from(places))
        holder: Any = body
        for key in place[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            del holder[place[-1]]
        else:
            holder[place[-1]] = copy.deepcopy(draw(VALUES))
    return path, body


def _ask(cluster: Cluster, method: str, path: str, body: object, media: str) -> int:
    headers = {"authorization": f"Bearer {ADMIN_TOKEN}", "content-type": media}
    query = {"fieldManager": "someone"}
    answer = cluster.answer(Request(method, path, query, headers, json.dumps(body).encode()))
    said = json.loads(answer.body)
    if answer.code >= 400:
        assert (said["kind"], said["code"]) == ("Status", answer.code)
    return answer.code


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for all examples; what it is left with is part of the trial."""
    with Cluster() as made:
        yield made


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=bodies(), media=st.sampled_from(MEDIA))
def test_a_broken_body_is_refused_or_taken_and_never_breaks_the_cluster(
    cluster: Cluster, made: tuple[str, Json], media: str
) -> None:
    path, body = made
    cluster.defects.clear()
    _ask(cluster, "POST", path, body, "application/json")
    name = next(one["metadata"]["name"] for where, one in BASES if where == path)
    _ask(cluster, "PATCH", f"{path}/{name}", body, media)
    _ask(cluster, "PUT", f"{path}/{name}", body, "application/json")
    cluster.advance(1)
    _ask(cluster, "DELETE", f"{path}/{name}", {}, "application/json")
    cluster.advance(40)
    for one in cluster.defects:
        raise one


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (f"{CORE}/pods", {"limit": "many"}),
        (f"{CORE}/pods", {"continue": "nonsense"}),
        (f"{CORE}/pods", {"resourceVersion": "x"}),
        (f"{CORE}/pods", {"labelSelector": "a in b"}),
        (f"{CORE}/pods", {"fieldSelector": "nothing"}),
        (f"{CORE}/pods", {"watch": "true", "sendInitialEvents": "true"}),
    ],
)
def test_a_broken_question_is_a_bad_request(bench: Bench, path: str, query: dict[str, str]) -> None:
    answer = bench.http.get(path, params=query)
    assert answer.status_code in {400, 422}
    assert answer.json()["kind"] == "Status"


def test_a_body_that_is_no_json(bench: Bench) -> None:
    for body in (b"{", b"[]", b"1", b"\xff"):
        headers = {"Content-Type": "application/json"}
        assert bench.http.post(f"{CORE}/configmaps", content=body, headers=headers).status_code == 400
    assert bench.http.post(f"{CORE}/configmaps", content=b"a", headers={"Content-Type": "text/html"}).status_code == 415


def test_a_defect_of_the_emulator_fails_the_test_that_met_it() -> None:
    def breaks(resource: object, item: object) -> str:
        raise ZeroDivisionError

    cluster = Cluster()
    cluster.webhooks["broken.example"] = breaks
    with Bench(cluster) as bench:
        assert bench.http.post(f"{CORE}/configmaps", json=_SETTINGS).status_code == 500
    with pytest.raises(RuntimeError, match="has a defect"):
        cluster.close()
