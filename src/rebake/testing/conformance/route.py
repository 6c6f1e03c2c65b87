"""What every route must do that an engine relies on, whoever answers the users: what is applied is read back, users are
dealt by it, late changes are refused. A test module of an adapter subclasses `RouteConformance`.

What only a route of rebake's own can be asked (addresses, health checks, records of each request, the shield, open
connections) is in `router`, which goes on from here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import pytest

from rebake.errors import LedgerConflict
from rebake.ledger.ports import Fence
from rebake.traffic.ports import EnvironmentRoute, RouteObservation, TrafficRouter

SERVICE, ENVIRONMENT = "shop", "production"
T = TypeVar("T")


def until(done: Callable[[], T], seconds: float = 10.0) -> T:
    """Ask until the answer is true. Raises: AssertionError with the last answer when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {seconds} s: {found!r}")
        time.sleep(0.005)


def served(router: TrafficRouter, route: EnvironmentRoute) -> RouteObservation:
    """Apply, and wait until the route is read back whole, with every instance that has users found healthy."""
    router.apply(route)

    def whole() -> RouteObservation | None:
        found = router.observe(route.service, route.environment)
        if found is None or found.version != route.version:
            return None
        ready = all(len(found.healthy.get(f.fleet, ())) == len(f.endpoints) for f in route.fleets)
        return found if ready else None

    found = until(whole)
    assert found is not None
    return found


class RouteConformance:
    """The port, seen by the engine."""

    @pytest.fixture
    def router(self) -> Iterator[TrafficRouter]:
        """The route under test, which knows no environment."""
        raise NotImplementedError

    @pytest.fixture
    def route(self) -> EnvironmentRoute:
        """All users on fleet `s1` with one instance `stable`, fleet `c1` with one instance `candidate` registered."""
        raise NotImplementedError

    @pytest.fixture
    def neighbour(self, route: EnvironmentRoute) -> EnvironmentRoute:
        """The same for another environment."""
        raise NotImplementedError

    def shares(self, route: EnvironmentRoute) -> Mapping[str, float]:
        """By fleet, the part of the users that it really answers, to within 0.14; empty where nobody is answered."""
        raise NotImplementedError

    @staticmethod
    def dealt(route: EnvironmentRoute, candidate_weight: int) -> EnvironmentRoute:
        first, second = route.fleets
        return replace(
            route,
            fleets=(
                replace(first, weight_basis_points=10_000 - candidate_weight),
                replace(second, weight_basis_points=candidate_weight),
            ),
        )

    def test_an_environment_nobody_applied_is_unknown(self, router: TrafficRouter) -> None:
        assert router.observe(SERVICE, ENVIRONMENT) is None
        router.remove(SERVICE, ENVIRONMENT)

    def test_before_the_first_promotion_nobody_is_answered_but_health_is_known(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        alone = replace(route, fleets=route.fleets[1:])
        found = served(router, alone)
        assert found.healthy == {"c1": frozenset({"candidate"})}
        assert (found.listening, found.weights) == (False, {"c1": 0})
        assert not self.shares(alone)

    def test_a_whole_route_is_read_back(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        wish = self.dealt(route, 2_500)
        found = served(router, wish)
        assert found.version == wish.version
        assert found.weights == {"s1": 7_500, "c1": 2_500}
        assert found.healthy == {"s1": frozenset({"stable"}), "c1": frozenset({"candidate"})}
        assert found.listening
        assert found.epoch

    def test_applying_twice_changes_nothing(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        first = served(router, route)
        router.apply(route)
        assert router.observe(SERVICE, ENVIRONMENT) == first

    def test_a_change_that_comes_after_one_with_a_newer_token_is_refused(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        key = f"{SERVICE}/{ENVIRONMENT}"
        router.apply(route, fence=Fence(key, 7))
        wish = served(router, route).version
        with pytest.raises(LedgerConflict, match="token 6"):
            router.apply(self.dealt(route, 5_000), fence=Fence(key, 6))
        with pytest.raises(LedgerConflict, match="token 6"):
            router.remove(SERVICE, ENVIRONMENT, fence=Fence(key, 6))
        found = router.observe(SERVICE, ENVIRONMENT)
        assert found is not None
        assert found.version == wish
        router.remove(SERVICE, ENVIRONMENT, fence=Fence(key, 7))

    def test_users_are_dealt_by_weight(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        served(router, self.dealt(route, 3_000))
        met = self.shares(route)
        assert 0.16 < met["c1"] < 0.44
        assert met["s1"] == pytest.approx(1.0 - met["c1"])

    def test_all_users_follow_a_whole_switch_and_the_way_back(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        for weight, expected in ((0, "s1"), (10_000, "c1"), (0, "s1")):
            served(router, self.dealt(route, weight))
            assert self.shares(route) == {expected: 1.0}

    def test_a_fleet_that_left_is_forgotten(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        served(router, self.dealt(route, 10_000))
        found = served(router, replace(route, fleets=(replace(route.fleets[1], weight_basis_points=10_000),)))
        assert set(found.weights) == set(found.healthy) == {"c1"}
        assert self.shares(route) == {"c1": 1.0}

    def test_a_removed_environment_is_gone_and_its_neighbour_stays(
        self, router: TrafficRouter, route: EnvironmentRoute, neighbour: EnvironmentRoute
    ) -> None:
        served(router, route)
        served(router, neighbour)
        router.remove(SERVICE, ENVIRONMENT)
        until(lambda: not self.shares(route))
        until(lambda: router.observe(SERVICE, ENVIRONMENT) is None)
        assert self.shares(neighbour) == {"s1": 1.0}
        served(router, route)
        assert self.shares(route) == {"s1": 1.0}

    def test_calls_from_many_threads_at_once_end_in_one_whole_route(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, route)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for step in range(5):
                    router.apply(self.dealt(route, 1_000 * number + step))
                    router.observe(SERVICE, ENVIRONMENT)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        served(router, self.dealt(route, 4_321))
