"""Without a gateway, and by instances: a share of the users is one of the pods behind one Service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.unit.traffic.kubernetes_world import ENVIRONMENT, NAME, NAMESPACE, SERVICE, RouteWorld, world

from rebake.errors import LedgerConflict, RebakeError, Transient
from rebake.kubernetes import names
from rebake.kubernetes.resources import ENDPOINT_SLICES, SERVICES, Json
from rebake.ledger.ports import Fence
from rebake.testing.kubernetes import Fault
from rebake.testing.kubernetes.access import Attempt
from rebake.testing.kubernetes.resources import BUILT_IN
from rebake.traffic.pods import deal
from rebake.traffic.ports import EnvironmentRoute

SIZE = 4
PODS, SERVICE_KIND = (next(one for one in BUILT_IN if one.plural == plural) for plural in ("pods", "services"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RouteWorld]:
    with world(tmp_path, {"instances": SIZE, "canary_by": "instances"}) as made:
        made.raise_fleet("s1", SIZE)
        made.raise_fleet("c1", SIZE)
        yield made


def _dealt(shop: RouteWorld, candidate: int) -> EnvironmentRoute:
    """As the engine wishes for it."""
    stable, ours = shop.fleet("s1", 10_000 - candidate), shop.fleet("c1", candidate)
    if 0 < candidate < 10_000:
        parts = deal(candidate, SIZE, SIZE)
        stable, ours = replace(stable, called=parts.stable), replace(ours, called=parts.candidate)
    return shop.route(stable, ours)


def _behind(shop: RouteWorld) -> set[str]:
    """Pods that kube-proxy would send users to."""
    slices = shop.admin.get(ENDPOINT_SLICES.path(NAMESPACE)).json()["items"]
    mine = [one for one in slices if one["metadata"]["labels"]["kubernetes.io/service-name"] == NAME]
    return {row["targetRef"]["name"] for one in mine for row in one["endpoints"] or () if row["conditions"]["ready"]}


def _counts(shop: RouteWorld) -> tuple[int, int]:
    found = _behind(shop)
    return len([one for one in found if one.startswith("s1")]), len([one for one in found if one.startswith("c1")])


def _patch(shop: RouteWorld, path: str, body: Json) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    shop.admin.patch(path, json=body, headers=headers).raise_for_status()


@pytest.mark.parametrize(("share", "counts"), [(2000, (4, 1)), (2500, (3, 1)), (5000, (4, 4)), (8000, (1, 4))])
def test_a_share_of_the_users_is_one_of_the_pods_and_is_read_back(
    shop: RouteWorld, share: int, counts: tuple[int, int]
) -> None:
    shop.shifted(_dealt(shop, 0))
    found = shop.served(_dealt(shop, share))
    assert (found.weights, found.listening) == ({"s1": 10_000 - share, "c1": share}, True)
    assert _counts(shop) == counts


def test_every_step_and_the_way_back_costs_no_capacity(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    for share, counts in (
        (2000, (4, 1)),
        (6000, (2, 3)),
        (8000, (1, 4)),
        (10_000, (0, 4)),
        (8000, (1, 4)),
        (0, (4, 0)),
    ):
        shop.served(_dealt(shop, share))
        assert _counts(shop) == counts
    assert {shop.pod(one)["metadata"]["labels"][names.USERS] for one in shop.pods["c1"]} == {"c1"}
    assert {shop.pod(one)["metadata"]["labels"][names.USERS] for one in shop.pods["s1"]} == {"s1"}


def test_going_back_is_the_selector_alone(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.served(_dealt(shop, 8000))
    shop.cluster.faults.add(Fault(verb="patch", resource="pods", times=99))
    with pytest.raises(Transient):
        shop.router.apply(_dealt(shop, 0))
    shop.until(lambda: _counts(shop) == (4, 0))


def test_pods_that_come_while_nobody_looks_serve_if_they_are_stables(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.served(_dealt(shop, 2000))
    labels = {names.INSTANCE: None}
    for fleet in ("s1", "c1"):
        new = shop.raise_fleet(fleet, called=[f"{fleet}-9"])
        shop.pods[fleet].remove(new[0])
        _patch(shop, f"/api/v1/namespaces/{NAMESPACE}/pods/{new[0]}", {"metadata": {"labels": labels}})
    shop.until(lambda: "s1-9" in _behind(shop))
    assert _counts(shop) == (5, 1)
    found = shop.observe()
    assert found is not None
    assert found.version == _dealt(shop, 2000).version, "they belong to what was asked for"


def test_what_endpoints_do_not_show_is_not_served(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.router.apply(_dealt(shop, 5000))  # no controller has moved since
    found = shop.observe()
    assert found is not None
    assert found.version is None
    assert found.weights == {"s1": 10_000, "c1": 5_000}, "any of them may still be what is called"


def test_a_pod_that_fails_is_made_up_for_and_no_failure_raises_the_candidates_share(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.served(_dealt(shop, 5000))
    shop.pods["s1"].remove("s1-1")
    shop.admin.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/s1-1").raise_for_status()
    shop.served(_dealt(shop, 5000))
    assert _counts(shop) == (3, 4)


def test_labels_and_selectors_that_somebody_turned_are_seen_and_put_back(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    wish = _dealt(shop, 2000)
    shop.served(wish)
    pod = f"/api/v1/namespaces/{NAMESPACE}/pods/c1-3"
    service = SERVICES.path(NAMESPACE, NAME)
    for path, body in (
        (pod, {"metadata": {"labels": {names.USERS: "s1"}}}),
        (service, {"spec": {"selector": {names.USERS: "c1"}}}),
        (service, {"spec": {"selector": {names.USERS: None}}}),
        (service, {"spec": {"selector": {"team": "shop"}}}),
    ):
        _patch(shop, path, body)
        shop.until(lambda: (found := shop.observe()) is not None and found.version is None)
        shop.served(wish)
        assert _counts(shop) == (4, 1), body


def test_what_really_is_called_is_told_while_a_stranger_has_turned_it(shop: RouteWorld) -> None:
    shop.shifted(_dealt(shop, 0))
    shop.served(_dealt(shop, 2000))
    _patch(shop, f"/api/v1/namespaces/{NAMESPACE}/pods/c1-2", {"metadata": {"labels": {names.USERS: "s1"}}})
    shop.until(lambda: _counts(shop) == (4, 2))

    def told() -> bool:
        found = shop.observe()
        return found is not None and found.version is None and found.weights == {"s1": 6_667, "c1": 3_333}

    shop.until(told)


def test_a_late_engine_changes_no_share(shop: RouteWorld) -> None:
    key = f"{SERVICE}/{ENVIRONMENT}"
    shop.shifted(_dealt(shop, 0))
    shop.router.apply(_dealt(shop, 2000), fence=Fence(key, 7))
    clusters, late = shop.new_router()
    with pytest.raises(LedgerConflict):
        late.apply(_dealt(shop, 5000), fence=Fence(key, 6))
    clusters.close()
    shop.until(lambda: _counts(shop) == (4, 1))


# --- kills


@dataclass(slots=True)
class Kill(Fault):
    """From the nth request on nothing is answered; the nth may take effect. Each request is looked at before it."""

    nth: int = 0
    armed: bool = False
    look: Callable[[], None] = lambda: None
    asked: int = 0
    struck: threading.Event = field(default_factory=threading.Event)

    def fits(self, attempt: Attempt) -> bool:
        if not self.armed or attempt.verb == "watch" or attempt.resource is None:
            return False
        self.look()
        self.asked += 1
        if self.asked == self.nth:
            self.struck.set()
            return True
        self.after = False
        return self.struck.is_set()


JOURNEY = (2000, 6000, 8000, 0, 5000, 10_000)
LONGEST = 40
EACH = 3


def _selected(shop: RouteWorld) -> tuple[int, int]:
    """What the selector asks for at this very moment, whatever any controller has done."""
    with shop.cluster.store.changed:
        service = next(one for one in shop.cluster.store.all(SERVICE_KIND) if one["metadata"]["name"] == NAME)
        chosen = service["spec"]["selector"].items()
        pods = [one for one in shop.cluster.store.all(PODS) if chosen <= one["metadata"]["labels"].items()]
    fleets = [pod["metadata"]["labels"][names.FLEET] for pod in pods]
    return fleets.count("s1"), fleets.count("c1")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [*range(1, LONGEST, EACH), 0])
def test_killed_at_any_request_no_user_loses_a_pod_and_none_meets_the_candidate_too_early(
    shop: RouteWorld, nth: int, after: bool
) -> None:
    shop.shifted(_dealt(shop, 0))
    seen: list[tuple[int, int]] = []
    wishes = [_dealt(shop, share) for share in JOURNEY]
    kill = Kill(nth=nth, after=after, times=1 << 30, look=lambda: seen.append(_selected(shop)))
    shop.cluster.faults.add(kill)
    before = deal(0, SIZE, SIZE)
    for share, wish in zip(JOURNEY, wishes, strict=True):
        wanted = deal(share, SIZE, SIZE)
        kill.armed = True
        with suppress(RebakeError):
            shop.router.apply(wish)
        kill.armed = False
        if kill.struck.is_set():
            shop.restart()
        shop.served(wish)
        seen.append(_selected(shop))
        assert _counts(shop) == (wanted.stable, wanted.candidate)
        assert all(stable + ours >= SIZE for stable, ours in seen)
        assert all(ours <= max(before.candidate, wanted.candidate) for _, ours in seen)
        assert all(stable >= min(before.stable, wanted.stable) for stable, _ in seen)
        seen.clear()
        before = wanted
    if not nth:
        assert kill.asked <= LONGEST
