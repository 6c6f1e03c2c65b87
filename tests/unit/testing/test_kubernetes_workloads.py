"""Deployments, StatefulSets and ReplicaSets of the emulated cluster, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.testing.kubernetes import Behaviour
from tests.unit.testing.bench import APPS, BAD, CORE, POLICY, Bench, container_of, deployment, service

WEB = f"{APPS}/deployments/web"
Json = dict[str, Any]


def _ready(pods: list[Json]) -> int:
    rows = [one["status"].get("conditions", ()) for one in pods]
    return sum(any(c["type"] == "Ready" and c["status"] == "True" for c in one) for one in rows)


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), ("25%", "25%"), ("100%", 0), (2, 1)])
def test_a_rolling_update_keeps_within_its_bounds_at_every_step(
    bench: Bench, surge: int | str, unavailable: int | str
) -> None:
    strategy = {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    bench.make(f"{APPS}/deployments", deployment(replicas=4, strategy=strategy))
    bench.cluster.advance(5)
    bench.apply(WEB, deployment(replicas=4, image=BAD, strategy=strategy), force="true").raise_for_status()
    most = {"25%": 1, "100%": 4}.get(str(surge), surge)
    least = 4 - {"25%": 1}.get(str(unavailable), int(str(unavailable).rstrip("%")))
    images: list[set[str]] = []
    for _ in range(400):
        moved = bench.cluster.step()
        pods = [one for one in bench.pods() if "deletionTimestamp" not in one["metadata"]]
        assert len(pods) <= 4 + int(most)
        assert _ready(pods) >= least
        images.append({one["spec"]["containers"][0]["image"] for one in pods})
        if not moved:
            if images[-1] == {BAD} and _ready(pods) == 4:
                break
            bench.cluster.clock.advance(0.5)
    assert images[-1] == {BAD}
    assert any(len(one) == 2 for one in images), "the fleets overlapped"
    assert bench.conditions(WEB)["Progressing"]["reason"] == "NewReplicaSetAvailable"


def test_recreate_waits_until_nothing_of_before_runs(bench: Bench) -> None:
    strategy = {"type": "Recreate"}
    bench.make(f"{APPS}/deployments", deployment(strategy=strategy))
    bench.cluster.advance(5)
    bench.apply(WEB, deployment(image=BAD, strategy=strategy), force="true").raise_for_status()
    for _ in range(200):
        if not bench.cluster.step():
            bench.cluster.clock.advance(0.25)
        assert len({one["spec"]["containers"][0]["image"] for one in bench.pods()}) <= 1
    assert _ready(bench.pods()) == 3


def test_going_back_reuses_the_replica_set_and_counts_a_revision(bench: Bench) -> None:
    for image in ("one", "two", "one"):
        bench.apply(WEB, deployment(image=f"r/{image}:1"), force="true").raise_for_status()
        bench.cluster.advance(10)
    sets = bench.items(f"{APPS}/replicasets")
    assert len(sets) == 2
    assert bench.get(WEB)["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    live = next(one for one in sets if one["spec"]["replicas"])
    assert container_of(live)["image"] == "r/one:1"
    assert live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


def test_only_so_many_old_replica_sets_are_kept(bench: Bench) -> None:
    for number in range(5):
        body = deployment(image=f"r/web:{number}", revisionHistoryLimit=2)
        bench.apply(WEB, body, force="true").raise_for_status()
        bench.cluster.advance(10)
    assert len(bench.items(f"{APPS}/replicasets")) == 3


def test_a_rollout_without_progress_passes_its_deadline(bench: Bench) -> None:
    bench.cluster.behave(BAD, Behaviour(ready=False))
    bench.make(f"{APPS}/deployments", deployment(progressDeadlineSeconds=60))
    bench.cluster.advance(5)
    bench.apply(WEB, deployment(image=BAD, progressDeadlineSeconds=60), force="true").raise_for_status()
    bench.cluster.advance(50)
    assert bench.conditions(WEB)["Progressing"]["status"] == "True"
    bench.cluster.advance(20)
    progress = bench.conditions(WEB)["Progressing"]
    assert (progress["status"], progress["reason"]) == ("False", "ProgressDeadlineExceeded")
    assert progress["message"].endswith("has timed out progressing.")
    assert bench.conditions(WEB)["Available"]["status"] == "True"


def test_pods_that_fail_after_a_rollout_do_not_reopen_it(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment(progressDeadlineSeconds=60))
    bench.cluster.settle()
    assert bench.conditions(WEB)["Progressing"]["reason"] == "ReplicaSetUpdated"
    bench.cluster.advance(5)
    bench.cluster.behave("web", Behaviour(ready=False))
    bench.cluster.advance(200)
    assert bench.conditions(WEB)["Progressing"]["reason"] == "NewReplicaSetAvailable"
    assert bench.conditions(WEB)["Available"]["status"] == "False"


def test_a_full_quota_is_told_by_event_and_condition(bench: Bench) -> None:
    bench.make(f"{CORE}/resourcequotas", {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}})
    bench.make(f"{APPS}/deployments", deployment())
    bench.cluster.advance(5)
    assert len(bench.pods()) == 2
    failed = bench.conditions(WEB)["ReplicaFailure"]
    assert failed["reason"] == "FailedCreate"
    assert "exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2" in failed["message"]
    assert any("exceeded quota: small" in one for one in bench.events("FailedCreate"))
    bench.merge(f"{CORE}/resourcequotas/small", {"spec": {"hard": {"pods": "9"}}})
    bench.cluster.advance(5)
    assert "ReplicaFailure" not in bench.conditions(WEB)
    assert len(bench.pods()) == 3


def test_an_autoscaler_keeps_the_replicas_that_an_applier_does_not_name(bench: Bench) -> None:
    body = deployment()
    del body["spec"]["replicas"]
    bench.apply(WEB, body).raise_for_status()
    bench.cluster.autoscale("default", "web", 5)
    bench.cluster.advance(5)
    assert len(bench.pods()) == 5
    assert bench.apply(WEB, body).json()["spec"]["replicas"] == 5


def test_deleting_a_deployment_in_the_foreground_ends_its_pods_first(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment())
    bench.cluster.advance(5)
    bench.http.request("DELETE", WEB, json={"propagationPolicy": "Foreground"})
    while bench.http.get(WEB).status_code == 200:
        bench.cluster.advance(0.2)
    assert bench.pods() == []
    assert bench.items(f"{APPS}/replicasets") == []


def test_orphaned_pods_go_on(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment())
    bench.cluster.advance(5)
    bench.http.request("DELETE", WEB, json={"propagationPolicy": "Orphan"})
    bench.cluster.advance(5)
    assert bench.http.get(WEB).status_code == 404
    assert _ready(bench.pods()) == 3


def _stateful(replicas: int = 3, image: str = "r/db:1") -> Json:
    body = deployment("db", replicas, image)
    return {**body, "kind": "StatefulSet", "spec": {**body["spec"], "serviceName": "db"}}


def test_a_stateful_set_starts_one_pod_after_the_other_and_ends_the_last_first(bench: Bench) -> None:
    bench.cluster.behave("db", Behaviour(start_seconds=2))
    bench.make(f"{APPS}/statefulsets", _stateful())
    seen = []
    for _ in range(5):
        seen.append([one["metadata"]["name"] for one in bench.pods("db")])
        bench.cluster.advance(2)
    assert seen == [[], ["db-0", "db-1"], ["db-0", "db-1", "db-2"], ["db-0", "db-1", "db-2"], ["db-0", "db-1", "db-2"]]
    bench.merge(f"{APPS}/statefulsets/db", {"spec": {"replicas": 1}})
    bench.cluster.advance(10)
    assert [one["metadata"]["name"] for one in bench.pods("db")] == ["db-0"]


def test_a_stateful_set_updates_from_the_highest_and_stops_at_one_that_is_not_well(bench: Bench) -> None:
    bench.make(f"{APPS}/statefulsets", _stateful())
    bench.cluster.advance(20)
    bench.cluster.behave("r/db:2", Behaviour(ready=False))
    bench.apply(f"{APPS}/statefulsets/db", _stateful(image="r/db:2"), force="true").raise_for_status()
    bench.cluster.advance(30)
    images = {one["metadata"]["name"]: one["spec"]["containers"][0]["image"] for one in bench.pods("db")}
    assert images == {"db-0": "r/db:1", "db-1": "r/db:1", "db-2": "r/db:2"}
    status = bench.get(f"{APPS}/statefulsets/db")["status"]
    assert status["currentRevision"] != status["updateRevision"]
    assert (status["readyReplicas"], status["updatedReplicas"]) == (2, 1)


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_a_broken_pod_in_order_is_not_replaced_by_going_back(bench: Bench, policy: str) -> None:
    path = f"{APPS}/statefulsets/db"
    good, bad = _stateful(), _stateful(image="r/db:2")
    for body in (good, bad):
        body["spec"]["podManagementPolicy"] = policy
    bench.make(f"{APPS}/statefulsets", good)
    bench.cluster.advance(20)
    bench.cluster.behave("r/db:2", Behaviour(ready=False))
    for body in (bad, good):
        bench.apply(path, body, force="true").raise_for_status()
        bench.cluster.advance(30)
    stuck = policy == "OrderedReady"
    assert bench.pods("db")[2]["spec"]["containers"][0]["image"] == ("r/db:2" if stuck else "r/db:1")
    bench.http.delete(f"{CORE}/pods/db-2")
    bench.cluster.advance(30)
    assert bench.pods("db")[2]["spec"]["containers"][0]["image"] == "r/db:1"


def test_a_stateful_sets_fixed_fields_are_refused(bench: Bench) -> None:
    bench.make(f"{APPS}/statefulsets", _stateful())
    refused = bench.merge(f"{APPS}/statefulsets/db", {"spec": {"serviceName": "other"}})
    assert refused.status_code == 422
    assert "updates to statefulset spec for fields other than 'replicas'" in refused.json()["message"]


def test_endpoints_follow_readiness_and_say_when_a_pod_ends(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment(replicas=2))
    bench.make(f"{CORE}/services", service())
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"

    def conditions() -> list[tuple[bool, bool, bool]]:
        found = bench.items(path)[0]["endpoints"]
        return sorted(tuple(one["conditions"][k] for k in ("ready", "serving", "terminating")) for one in found)

    bench.cluster.settle()
    assert conditions() == [(False, False, False)] * 2
    bench.cluster.advance(2)
    assert conditions() == [(True, True, False)] * 2
    assert bench.items(path)[0]["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    bench.http.delete(f"{CORE}/pods/{bench.pods()[0]['metadata']['name']}")
    bench.cluster.settle()
    assert (False, True, True) in conditions()
    bench.cluster.advance(5)
    assert conditions() == [(True, True, False)] * 2


def test_a_budget_that_was_just_changed_lets_nobody_go_yet(bench: Bench) -> None:
    bench.make(f"{APPS}/deployments", deployment())
    bench.make(
        f"{POLICY}/poddisruptionbudgets",
        {
            "metadata": {"name": "web"},
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        },
    )
    bench.cluster.advance(5)
    bench.merge(f"{POLICY}/poddisruptionbudgets/web", {"spec": {"maxUnavailable": 2}})
    name = bench.pods()[0]["metadata"]["name"]
    early = bench.http.post(f"{CORE}/pods/{name}/eviction", json={"metadata": {"name": name}})
    assert (early.status_code, early.headers["Retry-After"]) == (429, "10")
    assert "is still being processed by the server" in early.json()["details"]["causes"][0]["message"]
    bench.cluster.settle()
    assert bench.http.post(f"{CORE}/pods/{name}/eviction", json={"metadata": {"name": name}}).status_code == 201
