"""The route of a cluster, against an API server that is strict where the real one is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.traffic.kubernetes_world import (
    ENVIRONMENT,
    GATEWAY,
    NAME,
    NAMESPACE,
    SERVICE,
    RouteWorld,
    world,
)

from rebake.errors import LedgerConflict, Permanent, Transient
from rebake.kubernetes import names
from rebake.kubernetes.owners import Owner
from rebake.kubernetes.resources import CONFIG_MAPS, ENDPOINT_SLICES, HTTP_ROUTES, PODS, SERVICES, Json, Kind
from rebake.ledger.ports import Fence
from rebake.testing.kubernetes import ApiError, Fault
from rebake.testing.simulated import ManualClock
from rebake.traffic.kubernetes import reading
from rebake.traffic.kubernetes.router import AWAITED_SECONDS
from rebake.traffic.ports import EnvironmentRoute


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RouteWorld]:
    with world(tmp_path, GATEWAY) as made:
        made.raise_fleet("s1")
        made.raise_fleet("c1")
        yield made


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[RouteWorld]:
    """Without a gateway."""
    with world(tmp_path, {}) as made:
        made.raise_fleet("s1")
        made.raise_fleet("c1")
        yield made


def _dealt(shop: RouteWorld, candidate: int) -> EnvironmentRoute:
    return shop.route(shop.fleet("s1", 10_000 - candidate), shop.fleet("c1", candidate), preview="c1")


# --- with a gateway


def test_before_the_first_promotion_nobody_is_answered_and_health_is_known(shop: RouteWorld) -> None:
    found = shop.served(shop.route(shop.fleet("c1", 0), preview="c1"))
    assert (found.listening, found.weights) == (False, {"c1": 0})
    assert not shop.live()["spec"].get("parentRefs")
    shop.until(lambda: shop.healthy("c1"))
    assert shop.shares() == {"": 1.0}


def test_users_are_dealt_by_weight_and_the_weights_are_read_back(shop: RouteWorld) -> None:
    found = shop.shifted(_dealt(shop, 2_500))
    assert (found.weights, found.listening) == ({"s1": 7_500, "c1": 2_500}, True)
    assert shop.shares() == {"s1": 0.75, "c1": 0.25}
    assert found.healthy == {"s1": frozenset({"s1-1", "s1-2"}), "c1": frozenset({"c1-1", "c1-2"})}
    assert not found.counts


def test_testers_reach_the_candidate_by_header(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    assert set(shop.cluster.gateway.shares(NAMESPACE, NAME, 1)) == {names.route_name(SERVICE, ENVIRONMENT, "c1")}
    header = shop.live()["spec"]["rules"][1]["matches"][0]["headers"][0]
    assert (header["name"], header["value"]) == ("x-rebake-preview", "candidate")


def test_what_is_written_and_not_programmed_is_not_served(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.cluster.gateway.lag_seconds = 5.0
    whole = _dealt(shop, 10_000)
    shop.router.apply(whole)
    shop.cluster.settle()
    found = shop.observe()
    assert found is not None
    assert found.version is None
    assert found.weights == {"s1": 10_000, "c1": 10_000}, "any of them may still be dealt by"
    assert shop.shares() == {"s1": 1.0}
    shop.cluster.advance(5.0)
    shop.until(lambda: (seen := shop.observe()) is not None and seen.version == whole.version)
    assert shop.shares() == {"c1": 1.0}


def test_a_gateway_whose_controller_is_away_is_told_when_that_lasts(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.cluster.gateway.lag_seconds = 1_000.0
    shop.router.apply(_dealt(shop, 10_000))
    shop.cluster.settle()
    assert isinstance(shop.clock, ManualClock)
    told = []
    for _ in range(3):
        found = shop.observe()
        assert found is not None
        told.append(found.problem)
        shop.clock.advance(AWAITED_SECONDS / 2)
    assert told[:2] == ["", ""]
    assert told[2].startswith("the controller of Gateway default/public has not taken up what is written")
    shop.cluster.advance(1_000.0)
    assert shop.until(lambda: seen if (seen := shop.observe()) is not None and seen.version else None).problem == ""


def test_a_restarted_router_knows_what_may_still_be_programmed(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.cluster.gateway.lag_seconds = 5.0
    shop.router.apply(_dealt(shop, 10_000))
    shop.cluster.settle()
    shop.restart()
    found = shop.observe()
    assert found is not None
    assert found.weights == {"s1": 10_000, "c1": 10_000}


def test_a_restarted_router_knows_what_it_serves_and_writes_nothing(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    shop.restart()
    before = shop.writes()
    found = shop.observe()
    assert found is not None
    assert found.version == route.version
    shop.router.apply(route)
    assert shop.writes() == before


def test_a_gateway_that_does_not_take_the_route_is_quoted(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.wished.doc["gateway"] = {"name": "public", "namespace": "default", "section": "tls"}
    shop.router.apply(_dealt(shop, 500))
    found = shop.until(lambda: seen if (seen := shop.observe()) is not None and "tls" in seen.problem else None)
    assert found.problem.startswith("NoMatchingParent: No listener named tls (Accepted by ")
    assert found.version is None
    assert not found.listening
    shop.wished.doc["gateway"] = {"name": "privat", "namespace": "default"}
    shop.router.apply(_dealt(shop, 600))
    found = shop.until(lambda: seen if (seen := shop.observe()) is not None and "privat" in seen.problem else None)
    assert found.problem == "no controller has taken it up for Gateway default/privat"


def test_no_user_is_sent_to_a_fleet_that_nobody_answers_for(shop: RouteWorld) -> None:
    shop.shifted(shop.route(shop.fleet("s1", 10_000)))
    before = shop.live()["spec"]
    shop.raise_fleet("c2", labels={names.SERVING: "false"})
    with pytest.raises(Transient) as refused:
        shop.router.apply(shop.route(shop.fleet("s1", 5_000), shop.fleet("c2", 5_000)))
    assert refused.value.code == "fleet-not-reachable"
    assert shop.live()["spec"] == before


def test_where_nobody_answers_at_all_users_follow_the_wish(shop: RouteWorld) -> None:
    shop.shifted(shop.route(shop.fleet("s1", 10_000), shop.fleet("c1", 0)))
    for pod in shop.pods["s1"]:
        shop.cluster.crash(NAMESPACE, pod)
        shop.admin.delete(PODS.path(NAMESPACE, pod))
    shop.cluster.advance(40)
    found = shop.served(shop.route(shop.fleet("c1", 10_000)))
    assert found.weights["c1"] == 10_000


def test_an_instance_that_left_serves_no_more_and_serves_again_when_it_is_back(shop: RouteWorld) -> None:
    shop.shifted(shop.route(shop.fleet("s1", 10_000)))
    without = shop.route(shop.fleet("s1", 10_000, ["s1-2"]))
    shop.served(without)
    assert (shop.serving("s1-1"), shop.serving("s1-2")) == ("false", "true")
    found = shop.until(lambda: seen if (seen := shop.observe()) and seen.healthy["s1"] == {"s1-2"} else None)
    assert found.unhealthy["s1"] == frozenset()
    assert shop.shares() == {"s1": 1.0}
    shop.served(shop.route(shop.fleet("s1", 10_000)))
    assert shop.serving("s1-1") == "true"


def test_a_pod_that_never_had_a_place_in_the_route_serves_as_it_was_made(shop: RouteWorld) -> None:
    shop.shifted(shop.route(shop.fleet("s1", 10_000)))
    shop.raise_fleet("s1", 1)
    shop.served(shop.route(shop.fleet("s1", 10_000, ["s1-1", "s1-2"])))
    assert shop.serving("s1-3") == "true"


def test_a_label_that_somebody_turned_is_put_back(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    body = {"metadata": {"labels": {names.SERVING: "false"}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    shop.admin.patch(PODS.path(NAMESPACE, "c1-1"), json=body, headers=merge).raise_for_status()
    shop.until(lambda: (seen := shop.observe()) is not None and seen.version is None)
    shop.served(route)
    assert shop.serving("c1-1") == "true"


def test_a_fleet_that_left_is_forgotten_and_its_service_goes(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 10_000))
    found = shop.served(shop.route(shop.fleet("c1", 10_000)))
    assert found.weights == {"c1": 10_000}
    gone = SERVICES.path(NAMESPACE, names.route_name(SERVICE, ENVIRONMENT, "s1"))
    assert shop.admin.get(gone).status_code == 404


def test_the_service_of_a_fleet_that_had_users_a_moment_ago_stays(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 5_000))
    shop.served(shop.route(shop.fleet("s1", 10_000)))
    kept = SERVICES.path(NAMESPACE, names.route_name(SERVICE, ENVIRONMENT, "c1"))
    assert shop.admin.get(kept).status_code == 200
    shop.served(shop.route(shop.fleet("s1", 10_000, ["s1-1"])))
    assert shop.admin.get(kept).status_code == 404


def test_what_is_removed_is_gone_and_removing_again_is_fine(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 2_500))
    shop.router.remove(SERVICE, ENVIRONMENT)
    assert shop.observe() is None
    shop.router.remove(SERVICE, ENVIRONMENT)
    left = shop.admin.get(SERVICES.path(NAMESPACE), params={"labelSelector": names.OURS}).json()["items"]
    assert left == []
    assert shop.admin.get(HTTP_ROUTES.path(NAMESPACE, NAME)).status_code == 404


# --- late and foreign hands


def test_a_change_with_an_older_token_is_refused_however_late_and_by_whomever(shop: RouteWorld) -> None:
    route = _dealt(shop, 0)
    shop.router.apply(route, fence=Fence("shop/production", 7))
    shop.restart()  # another process, which remembers nothing
    late = Fence("shop/production", 6)
    with pytest.raises(LedgerConflict) as refused:
        shop.router.apply(_dealt(shop, 100), fence=late)
    assert refused.value.code == "lease-lost"
    with pytest.raises(LedgerConflict):
        shop.router.remove(SERVICE, ENVIRONMENT, fence=late)
    shop.router.apply(route, fence=Fence("shop/production", 8))
    assert shop.live()["metadata"]["annotations"]["rebake.dev/token"] == "8"


def test_an_engine_that_was_outrun_brings_no_route_back_that_its_successor_removed(shop: RouteWorld) -> None:
    record = {"metadata": {"name": names.lead_name(SERVICE, ENVIRONMENT)}, "data": {"token": "9"}}
    shop.admin.post(CONFIG_MAPS.path(NAMESPACE), json=record).raise_for_status()
    with pytest.raises(LedgerConflict):
        shop.router.apply(_dealt(shop, 0), fence=Fence("shop/production", 8))
    assert shop.admin.get(HTTP_ROUTES.path(NAMESPACE, NAME)).status_code == 404
    shop.router.apply(_dealt(shop, 0), fence=Fence("shop/production", 9))


def test_of_two_engines_the_newer_one_wins_also_between_reading_and_writing(shop: RouteWorld) -> None:
    """The older one has read the route; before it writes, the newer one does."""
    shop.shifted(_dealt(shop, 0))
    _, newer = shop.new_router()
    wish = _dealt(shop, 1_000)
    older = shop.clusters.links()[0].client
    apply = older.apply

    def late(kind: Kind, namespace: str, body: Json) -> Json:
        older.apply = apply  # type: ignore[method-assign]
        newer.apply(wish, fence=Fence("shop/production", 9))
        return apply(kind, namespace, body)

    older.apply = late  # type: ignore[method-assign]
    with pytest.raises(LedgerConflict):
        shop.router.apply(_dealt(shop, 9_000), fence=Fence("shop/production", 8))
    shop.until(lambda: (seen := shop.observe()) is not None and seen.version == wish.version)


def test_weights_that_somebody_forces_are_seen_and_put_back(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    rules = shop.live()["spec"]["rules"]
    rules[0]["backendRefs"][0]["weight"] = rules[0]["backendRefs"][1]["weight"] = 1
    shop.force({"spec": {"rules": rules}})
    found = shop.until(lambda: seen if (seen := shop.observe()) and seen.weights["c1"] == 5_000 else None)
    assert found.version is None
    shop.served(route)
    assert shop.shares() == {"s1": 0.75, "c1": 0.25}


def test_a_fight_is_not_endless_and_names_the_other_side(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    rules = shop.live()["spec"]["rules"]
    rules[0]["backendRefs"][0]["weight"] = 1

    def forced() -> None:
        shop.force({"spec": {"rules": rules}})
        shop.until(lambda: (seen := shop.observe()) is not None and seen.weights["s1"] == 4)

    def fight() -> None:
        forced()
        shop.router.apply(route)

    for _ in range(5):
        fight()
    with pytest.raises(Transient, match=r"changed again by argo \(spec.rules\)") as contested:
        fight()
    assert contested.value.retry_after_seconds > 10
    other = _dealt(shop, 0)
    shop.served(other)  # a new wish is never held up, least of all the way back
    shop.clock.advance(61)  # type: ignore[union-attr]
    forced()
    shop.served(other)


def test_a_route_that_somebody_removed_comes_back(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    shop.admin.delete(HTTP_ROUTES.path(NAMESPACE, NAME)).raise_for_status()
    shop.until(lambda: shop.observe() is None)
    shop.served(route)
    assert shop.shares() == {"s1": 0.75, "c1": 0.25}


def test_somebody_elses_route_of_that_name_is_left_alone(shop: RouteWorld) -> None:
    body = {"apiVersion": HTTP_ROUTES.api_version, "kind": "HTTPRoute", "metadata": {"name": NAME}, "spec": {}}
    shop.admin.post(HTTP_ROUTES.path(NAMESPACE), json=body).raise_for_status()
    with pytest.raises(Permanent) as refused:
        shop.router.apply(_dealt(shop, 0))
    assert refused.value.code == "route-not-ours"
    assert "kubectl delete httproutes" in str(refused.value.remedy)
    assert not shop.live()["metadata"].get("labels")


def test_another_installations_route_is_not_seen_and_not_changed(shop: RouteWorld) -> None:
    ours, theirs = Owner("aaaa", "one:/a"), Owner("bbbb", "two:/b")
    shop.clusters.close()
    shop.clusters, shop.router = shop.new_router(lambda: ours)
    record = {"name": names.lead_name(SERVICE, ENVIRONMENT), "labels": names.environment_labels(SERVICE, ENVIRONMENT)}
    body = {"metadata": record, "data": {"token": "7", "owner": "aaaa", "home": "one:/a"}}
    shop.admin.post(CONFIG_MAPS.path(NAMESPACE), json=body).raise_for_status()
    shop.shifted(_dealt(shop, 2_500))
    shop.router.apply(_dealt(shop, 2_500), fence=Fence(f"{SERVICE}/{ENVIRONMENT}", 70))
    clusters, other = shop.new_router(lambda: theirs)
    before = shop.writes()
    with pytest.raises(Permanent) as refused:
        other.apply(_dealt(shop, 5_000), fence=Fence(f"{SERVICE}/{ENVIRONMENT}", 9))
    assert refused.value.code == "environment-of-another-ledger"
    assert other.observe(SERVICE, ENVIRONMENT) is None
    other.remove(SERVICE, ENVIRONMENT)
    assert shop.writes() == before
    assert shop.shares() == {"s1": 0.75, "c1": 0.25}
    shop.admin.delete(CONFIG_MAPS.path(NAMESPACE, names.lead_name(SERVICE, ENVIRONMENT))).raise_for_status()
    shop.until(lambda: other.observe(SERVICE, ENVIRONMENT) is not None)
    other.apply(_dealt(shop, 0), fence=Fence(f"{SERVICE}/{ENVIRONMENT}", 9))
    shop.until(lambda: shop.shares() == {"s1": 1.0})
    clusters.close()


# --- an API server in trouble


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("resource", ["httproutes", "services", "pods"])
def test_a_write_that_is_lost_before_or_after_its_effect_is_repeated(
    shop: RouteWorld, resource: str, after: bool
) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.raise_fleet("c2")
    wish = shop.route(shop.fleet("s1", 10_000, ["s1-1"]), shop.fleet("c2", 0), preview="c2")
    verb = "create" if resource == "services" else "patch"
    shop.cluster.faults.add(Fault(verb=verb, resource=resource, after=after))
    with pytest.raises(Transient) as lost:
        shop.router.apply(wish)
    assert lost.value.code == "kubernetes-unreachable"
    shop.served(wish)
    assert shop.serving("s1-1") == "true"
    assert shop.serving("s1-2") == "false"


def test_a_write_that_the_server_refuses_as_stale_is_made_on_what_is_there_now(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.admin.patch(
        HTTP_ROUTES.path(NAMESPACE, NAME),
        json={"metadata": {"annotations": {"theirs": "kept"}}},
        headers={"Content-Type": "application/merge-patch+json"},
    ).raise_for_status()
    shop.served(_dealt(shop, 700))  # our watch may not have it yet
    assert shop.live()["metadata"]["annotations"]["theirs"] == "kept"


def test_a_webhook_that_refuses_is_quoted(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.cluster.faults.add(
        Fault(
            verb="patch",
            resource="httproutes",
            answer=ApiError(403, "Forbidden", 'admission webhook "no-friday" denied the request: it is Friday'),
        )
    )
    with pytest.raises(Permanent, match="it is Friday"):
        shop.router.apply(_dealt(shop, 500))


def test_while_nobody_answers_what_was_seen_stays_seen(shop: RouteWorld) -> None:
    route, back = _dealt(shop, 2_500), _dealt(shop, 0)
    shop.shifted(route)
    with shop.cluster.api_server_away():
        found = shop.observe()
        assert found is not None
        assert found.version == route.version
        with pytest.raises(Transient):
            shop.router.apply(back)
    shop.until(lambda: _applied(shop, back))
    assert shop.shares() == {"s1": 1.0}


def _applied(shop: RouteWorld, route: EnvironmentRoute) -> bool:
    try:
        shop.router.apply(route)
    except Transient:
        return False
    found = shop.observe()
    return found is not None and found.version == route.version


def test_an_idle_look_asks_nothing(shop: RouteWorld) -> None:
    route = _dealt(shop, 2_500)
    shop.shifted(route)
    before = len(shop.cluster.asked)
    for _ in range(100):
        shop.observe()
        shop.router.apply(route)
    assert len(shop.cluster.asked) == before


# --- without a gateway


def test_the_service_moves_as_a_whole_and_back(plain: RouteWorld) -> None:
    found = plain.shifted(_dealt(plain, 0))
    assert (found.weights, found.listening) == ({"s1": 10_000, "c1": 0}, True)
    found = plain.served(_dealt(plain, 10_000))
    assert found.weights == {"s1": 0, "c1": 10_000}
    assert plain.live(gateway=False)["spec"]["selector"][names.FLEET] == "c1"
    assert plain.served(_dealt(plain, 0)).weights == {"s1": 10_000, "c1": 0}


def test_before_the_first_promotion_the_service_has_nobody_behind_it(plain: RouteWorld) -> None:
    found = plain.served(plain.route(plain.fleet("c1", 0)))
    assert (found.listening, found.weights) == (False, {"c1": 0})
    plain.until(lambda: plain.healthy("c1"))


def test_a_service_whose_endpoints_do_not_follow_yet_is_not_served(plain: RouteWorld) -> None:
    plain.shifted(_dealt(plain, 0))
    plain.router.apply(_dealt(plain, 10_000))  # no controller has moved since
    found = plain.observe()
    assert found is not None
    assert found.version is None
    assert found.weights == {"s1": 10_000, "c1": 10_000}


def test_the_endpoints_of_a_removed_service_say_nothing_of_the_next_one_of_its_name(plain: RouteWorld) -> None:
    plain.shifted(_dealt(plain, 0))
    service = plain.live(gateway=False)
    fleets, slices, pods = (
        plain.admin.get(kind.path(NAMESPACE)).raise_for_status().json()["items"]
        for kind in (SERVICES, ENDPOINT_SLICES, PODS)
    )
    seen = reading.Seen(SERVICE, ENVIRONMENT, NAMESPACE, None, service, fleets, slices, pods)
    assert reading.programmed(seen).done
    assert reading.endpoints(seen, "s1")[0] == set(plain.pods["s1"])
    again = [{**one, "metadata": {**one["metadata"], "uid": "made-again"}} for one in (service, *fleets)]
    seen = replace(seen, route=again[0], services=again[1:])
    assert not reading.programmed(seen).done
    assert reading.endpoints(seen, "s1") == (frozenset(), frozenset())


def test_a_service_deals_no_shares(plain: RouteWorld) -> None:
    with pytest.raises(Permanent) as refused:
        plain.router.apply(_dealt(plain, 500))
    assert refused.value.code == "gateway-needed"
    assert "strategy: blue-green" in str(refused.value.remedy)


def test_what_users_set_on_the_service_is_theirs(plain: RouteWorld) -> None:
    plain.shifted(_dealt(plain, 0))
    plain.admin.patch(
        SERVICES.path(NAMESPACE, NAME),
        json={"spec": {"type": "NodePort"}},
        headers={"Content-Type": "application/merge-patch+json"},
    ).raise_for_status()
    plain.served(_dealt(plain, 10_000))
    assert plain.live(gateway=False)["spec"]["type"] == "NodePort"


def test_a_gateway_cannot_be_added_under_users_of_the_service(plain: RouteWorld) -> None:
    plain.shifted(_dealt(plain, 0))
    plain.wished.doc |= GATEWAY
    with pytest.raises(Permanent) as refused:
        plain.router.apply(_dealt(plain, 0))
    assert refused.value.code == "route-kind-changed"


def test_a_cluster_without_the_gateway_api_does_what_a_service_can(tmp_path: Path) -> None:
    with world(tmp_path, {}, api=False) as bare:
        bare.raise_fleet("s1")
        assert bare.shifted(bare.route(bare.fleet("s1", 10_000))).weights == {"s1": 10_000}


def test_a_gateway_in_a_cluster_without_the_api_is_refused_at_once(tmp_path: Path) -> None:
    with world(tmp_path, GATEWAY, api=False) as bare:
        bare.raise_fleet("s1")
        for call in (lambda: bare.router.apply(bare.route(bare.fleet("s1", 10_000))), bare.observe):
            with pytest.raises(Permanent) as refused:
                call()
            assert refused.value.code == "gateway-api-missing"


def test_a_role_without_rights_on_http_routes_is_enough_for_a_service(plain: RouteWorld) -> None:
    forbidden = ApiError(403, "Forbidden", 'User "r" cannot get resource "httproutes" in API group "g"')
    plain.cluster.faults.add(Fault(resource="httproutes", answer=forbidden, times=99))
    assert plain.shifted(_dealt(plain, 0)).weights == {"s1": 10_000, "c1": 0}
