"""What every route must do, tried with real requests. A test module of an adapter subclasses `RouterConformance` and
gives the fixture `router`: an empty route that listens on this machine's loopback.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from rebake.errors import Permanent
from rebake.judge.history import paired, together
from rebake.judge.samples import Arm, Pairs
from rebake.release.manifest import Health
from rebake.testing.conformance.route import ENVIRONMENT, SERVICE, RouteConformance, served, until
from rebake.testing.conformance.router_world import (
    Answer,
    Crowd,
    Http2,
    Instance,
    Loop,
    ask,
    free_address,
    head_of,
    is_open,
    place,
)
from rebake.traffic.ports import (
    Counters,
    Endpoint,
    EnvironmentRoute,
    FleetRoute,
    Mirror,
    Sample,
    Samples,
    Sticky,
    TrafficRouter,
)

PREVIEW = {"x-rebake-preview": "candidate"}
QUICK = Health(interval_ms=50, timeout_ms=500, unhealthy_after=2)
# One look at the start and none for the rest of the test: what happens then only requests can find out.
ONCE = Health(interval_ms=60_000, timeout_ms=500)
MEGABYTE = 1 << 20
_UPGRADE = (
    b"GET /socket HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Open = Callable[[str], Instance]


def fleet(name: str, weight: int, *instances: Instance, health: Health = QUICK) -> FleetRoute:
    return FleetRoute(name, tuple(Endpoint(i.name, i.address) for i in instances), weight, health)


@dataclass(frozen=True)
class Recorded:
    """One reading of the records, and what it adds up to by fleet."""

    samples: tuple[Sample, ...]
    cursor: Mapping[str, Any]
    total: Mapping[str, Arm]

    @classmethod
    def of(cls, found: Samples) -> Recorded:
        fleets = sorted({name for sample in found.samples for name in sample.fleets})
        total = {name: together(s.fleets[name] for s in found.samples if name in s.fleets) for name in fleets}
        return cls(found.samples, found.cursor, total)

    @property
    def requests(self) -> int:
        return sum(arm.n for arm in self.total.values())


class RouterConformance(RouteConformance):
    """The port, seen by users and testers too."""

    @pytest.fixture
    def router(self) -> Iterator[TrafficRouter]:
        """The route under test; overridden by the adapter's test module."""
        raise NotImplementedError

    @pytest.fixture
    def loop(self) -> Iterator[Loop]:
        loop = Loop()
        yield loop
        loop.close()

    @pytest.fixture
    def open_instance(self, loop: Loop) -> Iterator[Open]:
        opened: list[Instance] = []

        def opening(name: str) -> Instance:
            opened.append(Instance(name, loop).open())
            return opened[-1]

        yield opening
        for instance in opened:
            instance.close()

    @pytest.fixture
    def stable(self, open_instance: Open) -> Instance:
        return open_instance("stable")

    @pytest.fixture
    def candidate(self, open_instance: Open) -> Instance:
        return open_instance("candidate")

    @pytest.fixture
    def route(self, stable: Instance, candidate: Instance) -> EnvironmentRoute:
        """All users on stable, the candidate registered."""
        fleets = (fleet("s1", 10_000, stable), fleet("c1", 0, candidate))
        return EnvironmentRoute(SERVICE, ENVIRONMENT, free_address(), fleets)

    @pytest.fixture
    def neighbour(self, route: EnvironmentRoute) -> EnvironmentRoute:
        return replace(route, environment="staging", listen=free_address())

    def shares(self, route: EnvironmentRoute) -> Mapping[str, float]:
        if not is_open(route.listen):
            return {}
        fleets = {endpoint.instance: one.fleet for one in route.fleets for endpoint in one.endpoints}
        met = Counter(fleets[ask(route.listen).text] for _ in range(400))
        return {name: count / met.total() for name, count in met.items()}

    def counted(self, router: TrafficRouter, name: str) -> Counters:
        found = router.observe(SERVICE, ENVIRONMENT)
        assert found is not None
        return found.counters[name]

    def records(self, router: TrafficRouter, cursor: Mapping[str, Any] | None = None) -> Recorded:
        found = router.samples(SERVICE, ENVIRONMENT, cursor)
        assert found is not None
        return Recorded.of(found)

    def recorded(self, router: TrafficRouter, requests: int, *, latency: int = 0) -> Recorded:
        """Everything that is kept, once it is that many requests (and so many of them timed)."""

        def whole() -> Recorded | None:
            found = self.records(router)
            timed = sum(sum(arm.latency) for arm in found.total.values())
            return found if found.requests >= requests and timed >= latency else None

        found = until(whole)
        assert found is not None
        assert found.requests == requests
        return found

    def since(self, router: TrafficRouter, cursor: Mapping[str, Any] | None, requests: int) -> Recorded | None:
        found = self.records(router, cursor)
        return found if found.requests >= requests else None

    # --- the wish and what is read back

    def test_an_environment_moves_to_another_address(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        moved = replace(route, listen=free_address())
        served(router, moved)
        assert ask(moved.listen).text == "stable"
        until(lambda: not is_open(route.listen))

    def test_the_neighbours_address_is_refused_and_nothing_changes(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, route)
        with pytest.raises(Permanent) as caught:
            router.apply(replace(route, environment="staging"))
        assert caught.value.code == "address-in-use"
        assert router.observe(SERVICE, "staging") is None
        assert ask(route.listen).text == "stable"

    def test_a_strangers_address_is_refused(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        with socket.socket() as stranger:
            stranger.bind(place(route.listen))
            stranger.listen()
            with pytest.raises(Permanent) as caught:
                router.apply(route)
        assert caught.value.code == "address-in-use"
        assert caught.value.remedy
        assert router.observe(SERVICE, ENVIRONMENT) is None
        served(router, route)

    # --- instances

    def test_a_dead_instance_gets_no_users_and_is_reported(
        self, router: TrafficRouter, route: EnvironmentRoute, open_instance: Open
    ) -> None:
        twin = open_instance("twin")
        wish = replace(route, fleets=(replace(route.fleets[0], endpoints=(*route.fleets[0].endpoints, _at(twin))),))
        served(router, wish)
        twin.close()
        assert {ask(route.listen).status for _ in range(20)} == {200}, "a refused connection is tried elsewhere"
        until(lambda: _unhealthy(router, "s1") == frozenset({"twin"}))
        assert {ask(route.listen).text for _ in range(10)} == {"stable"}
        twin.open(twin.address)
        until(lambda: _unhealthy(router, "s1") == frozenset())
        until(lambda: ask(route.listen).text == "twin")

    def test_an_instance_whose_health_fails_gets_no_users(
        self, router: TrafficRouter, route: EnvironmentRoute, open_instance: Open
    ) -> None:
        twin = open_instance("twin")
        wish = replace(route, fleets=(replace(route.fleets[0], endpoints=(*route.fleets[0].endpoints, _at(twin))),))
        served(router, wish)
        twin.health = 503
        until(lambda: _unhealthy(router, "s1") == frozenset({"twin"}))
        assert {ask(route.listen).text for _ in range(20)} == {"stable"}

    def test_an_instance_is_of_use_soon_after_it_answers(
        self, router: TrafficRouter, loop: Loop, route: EnvironmentRoute
    ) -> None:
        late = Instance("late", loop, address=free_address())
        slow_checks = Health(interval_ms=5_000, timeout_ms=500)
        wish = replace(route, fleets=(route.fleets[0], fleet("late", 0, late, health=slow_checks)))
        router.apply(wish)
        until(lambda: _unhealthy(router, "late") == frozenset({"late"}))
        late.open(late.address)
        try:
            until(lambda: _unhealthy(router, "late") == frozenset(), seconds=1.0)
        finally:
            late.close()

    def test_one_dead_fleet_still_tries_its_instances(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, route)
        stable.health = 500
        until(lambda: _unhealthy(router, "s1") == frozenset({"stable"}))
        assert ask(route.listen).text == "stable"

    # --- what the judge counts

    def test_answers_and_failures_are_counted_per_fleet(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, self.dealt(route, 10_000))
        for status in (200, 404, 500, 503):
            assert ask(route.listen, f"/status/{status}").status == status
        until(lambda: self.counted(router, "c1") == Counters(4, 2))
        assert self.counted(router, "s1") == Counters(0, 0)

    def test_broken_connections_are_counted_as_errors(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, self.dealt(route, 10_000))
        assert ask(route.listen, "/reset", method="POST", body=b"x").status == 503
        assert ask(route.listen, "/reset").status == 503
        until(lambda: self.counted(router, "c1") == Counters(2, 2))

    def test_a_request_that_left_is_never_sent_twice_unless_it_is_safe(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, self.dealt(route, 10_000))
        ask(route.listen, "/reset", method="POST", body=b"x")
        assert candidate.seen["POST /reset"] == 1

    def test_refused_connections_are_counted_as_errors(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        wish = replace(route, fleets=(route.fleets[0], fleet("c1", 0, candidate, health=ONCE)))
        served(router, self.dealt(wish, 10_000))
        candidate.close()
        assert ask(route.listen).status == 503
        until(lambda: self.counted(router, "c1") == Counters(1, 1))

    def test_connections_nobody_accepts_are_counted_as_errors(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        wish = replace(route, fleets=(route.fleets[0], fleet("c1", 0, candidate, health=ONCE)))
        served(router, self.dealt(wish, 10_000))
        candidate.close()
        with _deaf(candidate.address):
            assert ask(route.listen).status in (503, 504)
        until(lambda: self.counted(router, "c1") == Counters(1, 1))

    def test_each_request_is_recorded_with_its_endpoint_its_time_and_the_weights_that_dealt_it(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, self.dealt(route, 10_000))
        for number in range(4):
            assert ask(route.listen, f"/status/{200 + number}?page={number}").status == 200 + number
        assert ask(route.listen, "/status/500", method="POST", body=b"x").status == 500
        served(router, self.dealt(route, 0))
        assert ask(route.listen).status == 200
        found = self.recorded(router, 6)
        assert found.total["c1"].n == 5
        assert found.total["c1"].errors == 1
        assert sum(found.total["c1"].latency) == 4
        assert found.total["s1"].n == 1
        # An endpoint is told apart from its third sighting on.
        assert found.total["c1"].endpoints == {"(other)": (3, 1), "GET /status/{id}": (2, 0)}
        assert all(s.weights == ({"c1": 10_000} if "c1" in s.fleets else {"s1": 10_000}) for s in found.samples)

    def test_shares_are_recorded_as_they_were_when_the_request_was_dealt(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, self.dealt(route, 0))
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(ask(route.listen, "/hold")))
        caller.start()
        until(lambda: stable.seen["GET /hold"] == 1)
        served(router, self.dealt(route, 2_500))
        stable.release()
        caller.join()
        found = self.recorded(router, 1)
        assert [s.weights for s in found.samples] == [{"s1": 10_000}]

    def test_what_breaks_is_recorded_as_the_fleets_failure(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        wish = replace(route, fleets=(route.fleets[0], fleet("c1", 0, candidate, health=ONCE)))
        served(router, self.dealt(wish, 10_000))
        assert ask(route.listen, "/reset", method="POST", body=b"x").status == 503
        with pytest.raises(http.client.IncompleteRead):
            ask(route.listen, "/cut")
        candidate.close()
        assert ask(route.listen).status == 503
        found = self.recorded(router, 3).total["c1"]
        assert (found.n, found.errors, sum(found.latency)) == (3, 3, 0)

    def test_a_caller_who_leaves_is_nobodys_failure(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, self.dealt(route, 10_000))
        with socket.create_connection(place(route.listen), timeout=20) as caller:
            caller.sendall(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
            until(lambda: candidate.seen["GET /hold"] == 1)
        assert ask(route.listen).status == 200
        found = self.recorded(router, 1, latency=2).total["c1"]
        assert (found.n, found.errors, sum(found.latency)) == (1, 0, 2)

    def test_a_request_that_hangs_is_unanswered_while_it_hangs_and_an_open_stream_is_not(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(self.dealt(route, 10_000), answer_within_ms=500))
        with contextlib.ExitStack() as callers:
            for path in ("/hold", "/events"):
                caller = callers.enter_context(socket.create_connection(place(route.listen), timeout=20))
                caller.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            until(lambda: candidate.seen["GET /hold"] + candidate.seen["GET /events"] == 2)
            # Each has a clock of its own: both limits have passed before either gets its answer.
            until(lambda: any(arm.unanswered + arm.unfinished == 2 for arm in self.records(router).total.values()))
            candidate.release()
            found = self.recorded(router, 2).total["c1"]  # both have their answer now
        assert (found.errors, found.unanswered, found.unfinished) == (0, 1, 1)

    def test_previews_and_copies_are_not_recorded_as_users(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(route, preview="c1", mirror=Mirror("c1", 10_000)))
        ask(route.listen, headers=PREVIEW)
        ask(route.listen)
        until(lambda: candidate.seen["GET /who"] == 2)
        found = self.recorded(router, 1)
        assert {name: arm.n for name, arm in found.total.items()} == {"s1": 1}

    def test_absurd_paths_make_no_more_than_one_endpoint(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, self.dealt(route, 10_000))
        for path in ("/" + "x" * 5000, "/a%0ab", "/\x7f\t", "//..//;", "/%ff%fe", "/?" + "q" * 3000, "/é"):
            with socket.create_connection(place(route.listen), timeout=20) as caller:
                caller.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode("latin-1"))
                while caller.recv(4096):
                    pass
        ask(route.listen)

        def endpoints() -> set[str]:
            total = self.records(router).total
            return set(total["c1"].endpoints) if "c1" in total else set()

        until(lambda: endpoints() == {"(other)"})

    def test_a_place_in_the_records_gives_the_same_requests_again(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, self.dealt(route, 10_000))
        for _ in range(3):  # from then on its endpoint is told apart
            ask(route.listen)
        cursor = self.recorded(router, 3).cursor
        for _ in range(5):
            ask(route.listen)
        again = until(lambda: self.since(router, cursor, 5))
        assert again is not None
        assert self.since(router, cursor, 5) == again
        assert self.since(router, again.cursor, 0)

    def test_callers_who_stick_are_counted_once_a_minute(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, replace(self.dealt(route, 10_000), sticky=Sticky(cookie="cohort")))
        minute = int(time.time()) // 60
        cookie = _cookie(ask(route.listen))
        for path in ("/who", "/status/500", "/status/500", "/who"):
            ask(route.listen, path, headers={"cookie": cookie})
        ask(route.listen)
        found = until(lambda: self.since(router, None, 3))
        assert found is not None
        if int(time.time()) // 60 == minute:  # else the caller began another minute
            assert (found.total["c1"].n, found.total["c1"].errors) == (3, 1)

    def test_previews_reach_the_candidate_and_are_not_counted(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, replace(route, preview="c1"))
        assert {ask(route.listen, headers=PREVIEW).text for _ in range(10)} == {"candidate"}
        assert ask(route.listen).text == "stable"
        until(lambda: self.counted(router, "s1") == Counters(1, 0))
        assert self.counted(router, "c1") == Counters(0, 0)

    def test_without_a_preview_the_header_means_nothing(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        assert ask(route.listen, headers=PREVIEW).text == "stable"

    def test_copies_of_safe_requests_reach_the_shadow_and_nobody_else(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(route, mirror=Mirror("c1", 10_000)))
        assert {ask(route.listen).text for _ in range(10)} == {"stable"}
        assert ask(route.listen, "/digest", method="POST", body=b"once").status == 200
        until(lambda: candidate.seen["GET /who"] == 10)
        found = self.copied(router, 10)
        assert (found.n, found.failed, found.refused, found.unanswered) == (10, (0, 0, 0), (0, 0, 0), (0, 0, 0))
        assert found.endpoints["GET /who"] == (8, 0, 0, 0), "an endpoint is told apart from the third sighting on"
        assert self.counted(router, "c1") == Counters(0, 0)
        assert self.counted(router, "s1") == Counters(11, 0)
        assert candidate.seen["POST /digest"] == 0

    def test_what_a_shadow_fails_and_refuses_is_known_beside_what_stable_answered(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        stable.wrong = {"/digest": 503}
        candidate.wrong = {"/who": 500, "/digest": 500, "/headers": 404}
        served(router, replace(route, mirror=Mirror("c1", 10_000)))
        asked = ["/who"] * 4 + ["/digest"] * 3 + ["/headers"] * 2
        assert [ask(route.listen, path).status for path in asked] == [200] * 4 + [503] * 3 + [200] * 2
        found = self.copied(router, 9)
        assert (found.n, found.failed, found.refused) == (9, (3, 4, 0), (0, 2, 0))
        assert found.instances == (candidate.address,)

    def test_a_shadow_that_breaks_connections_or_is_gone_fails_its_copies(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        wish = replace(route, fleets=(route.fleets[0], fleet("c1", 0, candidate, health=ONCE)))
        served(router, replace(wish, mirror=Mirror("c1", 10_000)))
        candidate.breaks = True
        assert ask(route.listen).status == 200
        until(lambda: candidate.seen["GET /who"] == 1)
        candidate.close()
        assert ask(route.listen).status == 200
        assert self.copied(router, 2).failed == (0, 2, 0)

    def test_a_shadow_that_never_answers_is_seen_while_it_hangs(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        candidate.mute = True
        served(router, replace(route, mirror=Mirror("c1", 10_000), answer_within_ms=300))
        assert [ask(route.listen).status for _ in range(3)] == [200] * 3
        assert self.copied(router, 3).unanswered == (0, 3, 0)

    def test_a_shadow_sees_requests_as_they_came(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        served(router, replace(route, mirror=Mirror("c1", 10_000)))
        sent = {"host": "shop.example", "x-custom": "as it is", "x-request-id": "1-2-3", "cookie": "a=b"}
        ask(route.listen, "/odd//path?q=%2F", headers=sent)
        until(lambda: candidate.seen["GET /odd//path?q=%2F"] == 1)
        assert candidate.head == stable.head

    def test_pairs_whose_halves_two_readings_see_are_counted_once_by_whoever_reads_on(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        candidate.mute = True
        served(router, replace(route, mirror=Mirror("c1", 10_000)))
        assert ask(route.listen).status == 200
        cursor = self.recorded(router, 1).cursor
        until(lambda: candidate.seen["GET /who"] == 1)
        candidate.release()

        def joined() -> int:
            found = router.samples(SERVICE, ENVIRONMENT, cursor)
            assert found is not None
            return sum(pairs.n for sample in found.samples for pairs in sample.pairs.values())

        until(lambda: joined() == 1)
        assert joined() == 1, "the same cursor gives the same pair again"

    def test_a_failing_shadow_harms_nobody(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(route, mirror=Mirror("c1", 10_000)))
        candidate.close()
        assert {ask(route.listen).status for _ in range(10)} == {200}

    def copied(self, router: TrafficRouter, pairs: int) -> Pairs:
        """What all records say of copies, once there are so many."""

        def whole() -> Pairs | None:
            found = router.samples(SERVICE, ENVIRONMENT, None)
            assert found is not None
            total = paired(s.pairs["c1"] for s in found.samples if "c1" in s.pairs)
            return total if total.n >= pairs else None

        found = until(whole)
        assert found is not None
        return found

    # --- the shield

    def test_a_failed_safe_request_is_answered_by_stable_and_is_the_candidates_failure(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        stable.wrong, candidate.wrong = {}, {"/who": 500, "/digest": 503}
        served(router, replace(self.dealt(route, 9_999), shield="c1"))
        asked = [("GET", None), ("HEAD", None), ("OPTIONS", None), ("PUT", b"x" * 9_000), ("DELETE", None)]
        answers = [ask(route.listen, "/digest", method=method, body=body) for method, body in asked]
        assert {a.status for a in answers} == {200}
        digest = hashlib.sha256(b"x" * 9_000).hexdigest()
        assert answers[3].text == f"{digest} 9000", "stable got the whole body"
        assert {ask(route.listen).text for _ in range(5)} == {"stable"}
        found = self.recorded(router, 10).total
        assert set(found) == {"c1"}, "no success of stable"
        assert (found["c1"].n, found["c1"].errors, found["c1"].shielded) == (10, 10, 10)
        until(lambda: self.counted(router, "c1") == Counters(10, 10))
        assert self.counted(router, "s1") == Counters(0, 0)
        assert candidate.seen["GET /who"] == stable.seen["GET /who"] == 5

    def test_connections_that_break_or_are_refused_are_shielded_too(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        candidate.breaks = True
        wish = replace(route, fleets=(route.fleets[0], fleet("c1", 0, candidate, health=ONCE)), shield="c1")
        served(router, self.dealt(wish, 9_999))
        assert ask(route.listen).text == "stable"
        candidate.close()
        assert {ask(route.listen).text for _ in range(3)} == {"stable"}
        with _deaf(candidate.address):
            assert ask(route.listen).text == "stable"
        total = self.recorded(router, 5).total
        found = total["c1"]
        assert (found.n, found.errors, found.shielded) == (5, 5, 5)

    def test_a_dead_fleet_or_none_at_all_is_no_way_around_the_count(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        wish = replace(self.dealt(route, 9_999), shield="c1")
        served(router, wish)
        candidate.close()
        until(lambda: _unhealthy(router, "c1") == frozenset({"candidate"}))
        assert {ask(route.listen).text for _ in range(3)} == {"stable"}
        served(router, replace(wish, fleets=(wish.fleets[0], replace(wish.fleets[1], endpoints=()))))
        assert {ask(route.listen).text for _ in range(3)} == {"stable"}
        found = self.recorded(router, 6).total
        assert set(found) == {"c1"}
        assert (found["c1"].errors, found["c1"].shielded) == (6, 6)

    def test_what_may_not_be_sent_twice_is_not_shielded(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        candidate.wrong = {"/digest": 500}
        served(router, replace(self.dealt(route, 9_999), shield="c1"))
        assert ask(route.listen, "/digest", method="POST", body=b"x").status == 500
        assert ask(route.listen, "/digest", method="PATCH", body=b"x").status == 500
        assert ask(route.listen, "/digest", method="PUT", body=bytes(4 * MEGABYTE)).status == 500
        with pytest.raises(http.client.IncompleteRead):
            ask(route.listen, "/cut")
        assert candidate.seen["POST /digest"] == candidate.seen["PUT /digest"] == 1
        assert not stable.seen
        found = self.recorded(router, 4).total["c1"]
        assert (found.errors, found.shielded) == (4, 0)

    def test_stables_own_failures_testers_and_copies_are_not_shielded(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        stable.wrong, candidate.wrong = {"/who": 500}, {"/who": 503}
        served(router, replace(self.dealt(route, 1), shield="c1", preview="c1", mirror=Mirror("c1", 10_000)))
        for sent in ({}, {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "5"}):
            assert ask(route.listen, headers=sent).status == 500
        assert ask(route.listen, headers=PREVIEW).status == 503
        assert stable.seen == Counter({"GET /who": 2})
        until(lambda: candidate.seen["GET /who"] == 3)
        found = self.recorded(router, 2).total
        assert {name: (arm.n, arm.errors, arm.shielded) for name, arm in found.items()} == {"s1": (2, 2, 0)}

    def test_where_both_fail_the_caller_sees_it_after_one_second_try(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        stable.wrong, candidate.wrong = {"/who": 503}, {"/who": 500}
        served(router, replace(self.dealt(route, 9_999), shield="c1"))
        assert ask(route.listen).status == 503
        assert stable.seen["GET /who"] == candidate.seen["GET /who"] == 1
        found = self.recorded(router, 1).total["c1"]
        assert (found.n, found.errors, found.shielded) == (1, 1, 0)
        until(lambda: self.counted(router, "c1") == Counters(1, 1))

    def test_a_shield_leaves_slow_answers_streams_and_uploads_alone(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(self.dealt(route, 9_999), shield="c1"))
        answers: list[Answer] = []
        callers = [
            threading.Thread(target=lambda path=path: answers.append(ask(route.listen, path)))
            for path in ("/hold", "/events")
        ]
        for caller in callers:
            caller.start()
        with socket.create_connection(place(route.listen), timeout=20) as socket_:
            socket_.sendall(_UPGRADE)
            assert _receive(socket_, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            socket_.sendall(b"one.")
            assert _receive(socket_, b".") == b"candidate:one."
        assert ask(route.listen, "/digest", method="PUT", body=bytes(20 * MEGABYTE)).text.endswith(f" {20 * MEGABYTE}")
        until(lambda: candidate.seen["GET /hold"] + candidate.seen["GET /events"] == 2)
        candidate.release()
        for caller in callers:
            caller.join()
        assert sorted(a.text for a in answers) == ["candidate", "data: first candidate\n\ndata: last candidate\n\n"]
        found = self.recorded(router, 3).total["c1"]  # who leaves a WebSocket is no request
        assert (found.errors, found.shielded) == (0, 0)

    def test_a_request_that_hangs_on_the_candidate_is_answered_by_stable_and_was_unanswered(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        candidate.mute = True
        served(router, replace(self.dealt(route, 9_999), shield="c1", answer_within_ms=300))
        for method in ("GET", "OPTIONS", "GET"):
            answer = ask(route.listen, method=method)
            assert (answer.status, answer.text) == (200, "stable")
        assert stable.seen.total() == candidate.seen.total() == 3
        arm = self.recorded(router, 3).total["c1"]
        assert (arm.n, arm.errors, arm.shielded, arm.unanswered) == (3, 0, 0, 3)

    def test_a_slow_answer_of_the_candidate_is_given_when_it_comes_first(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance, candidate: Instance
    ) -> None:
        stable.mute = candidate.mute = True
        served(router, replace(self.dealt(route, 9_999), shield="c1", answer_within_ms=300))
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(ask(route.listen)))
        caller.start()
        until(lambda: stable.seen.total() == 1)
        candidate.release()
        caller.join()
        assert [(a.status, a.text) for a in answers] == [(200, "candidate")]
        arm = self.recorded(router, 1).total["c1"]
        assert (arm.n, arm.errors, arm.unanswered) == (1, 0, 1)

    @pytest.mark.parametrize(
        ("weight", "method", "who"), [(1, "GET", "stable"), (9_999, "POST", "candidate"), (9_999, "PUT", "candidate")]
    )
    def test_what_is_slow_on_stable_or_may_not_be_done_twice_at_once_is_waited_for(  # noqa: PLR0917
        self,
        router: TrafficRouter,
        route: EnvironmentRoute,
        stable: Instance,
        candidate: Instance,
        weight: int,
        method: str,
        who: str,
    ) -> None:
        stable.mute = candidate.mute = True
        served(router, replace(self.dealt(route, weight), shield="c1", answer_within_ms=200))
        answers: list[Answer] = []
        begun = time.monotonic()
        caller = threading.Thread(target=lambda: answers.append(ask(route.listen, method=method)))
        caller.start()
        until(lambda: any(arm.unanswered for arm in self.records(router).total.values()))
        until(lambda: time.monotonic() > begun + 0.6)  # time enough for a second try
        stable.release()
        candidate.release()
        caller.join()
        assert [(a.status, a.text) for a in answers] == [(200, who)]
        assert {i.name: i.seen.total() for i in (stable, candidate)} == {"stable": 0, "candidate": 0} | {who: 1}

    def test_shielded_callers_are_dealt_by_exactly_the_weights(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, replace(self.dealt(route, 3_000), shield="c1"))
        met = Counter(ask(route.listen, method=m).text for m in ("GET", "PUT", "POST") * 200)
        # Binomial(600, 0.3): standard deviation 11; five of them either side.
        assert abs(met["candidate"] - 180) <= 56

    def test_a_shielded_caller_keeps_its_cohort(
        self, router: TrafficRouter, route: EnvironmentRoute, candidate: Instance
    ) -> None:
        served(router, replace(self.dealt(route, 9_999), shield="c1", sticky=Sticky()))
        cookie = _cookie(ask(route.listen))
        candidate.wrong = {"/who": 500}
        assert ask(route.listen, headers={"cookie": cookie}).text == "stable"
        candidate.wrong = {}
        assert ask(route.listen, headers={"cookie": cookie}).text == "candidate"

    # --- sticky callers

    def test_a_caller_keeps_the_cohort_it_met_first(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, replace(self.dealt(route, 5_000), sticky=Sticky()))
        for _ in range(30):
            first = ask(route.listen)
            cookie = _cookie(first)
            again = [ask(route.listen, headers={"cookie": f"a=b; {cookie}; c=d"}) for _ in range(3)]
            assert {a.text for a in again} == {first.text}
            assert not any(a.headers.get_all("set-cookie") for a in again)

    def test_a_larger_candidate_weight_only_moves_callers_to_the_candidate(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        wish = replace(route, sticky=Sticky(cookie="cohort"))
        served(router, self.dealt(wish, 1_000))
        cookies = [_cookie(ask(route.listen)) for _ in range(80)]
        moved: set[str] = set()
        for weight in (1_000, 3_000, 6_000, 9_000, 10_000):
            served(router, self.dealt(wish, weight))
            met = {c for c in cookies if ask(route.listen, headers={"cookie": c}).text == "candidate"}
            assert moved <= met
            # Binomial(80, p): at most 4.5 keys standard deviation; six of them either side.
            assert abs(len(met) - 80 * weight / 10_000) < 27
            moved = met
        assert moved == set(cookies)

    # --- through a switch unharmed

    def test_a_hundred_switches_under_load_lose_nothing(
        self, router: TrafficRouter, loop: Loop, route: EnvironmentRoute
    ) -> None:
        served(router, route)
        crowd = Crowd(loop, route.listen)
        for number in range(100):
            router.apply(self.dealt(route, (0, 100, 5_000, 10_000)[number % 4]))
        until(lambda: crowd.saw(500))
        tally = crowd.finish()
        assert not tally.lost
        assert set(tally.answers) == {"stable", "candidate"}

    def test_fleets_that_come_and_go_under_load_lose_nothing(
        self, router: TrafficRouter, loop: Loop, route: EnvironmentRoute, stable: Instance, open_instance: Open
    ) -> None:
        serving = fleet("f0", 10_000, stable)
        served(router, replace(route, fleets=(serving,)))
        crowd = Crowd(loop, route.listen)
        for number in range(1, 6):
            heir = fleet(f"f{number}", 0, open_instance(f"i{number}"))
            served(router, replace(route, fleets=(serving, heir)))
            moved = (replace(serving, weight_basis_points=0), replace(heir, weight_basis_points=10_000))
            served(router, replace(route, fleets=moved))
            leaving = serving.fleet
            until(lambda leaving=leaving: _idle(router, leaving))  # type: ignore[misc]
            serving = moved[1]
            served(router, replace(route, fleets=(serving,)))
        tally = crowd.finish()
        assert not tally.lost
        assert len(tally.answers) == 6

    def test_a_fleet_with_open_requests_is_not_idle(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, route)
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(ask(route.listen, "/hold")))
        caller.start()
        until(lambda: stable.seen["GET /hold"] == 1)
        served(router, self.dealt(route, 10_000))
        assert not _idle(router, "s1")
        stable.release()
        caller.join()
        assert answers[0].text == "stable"
        until(lambda: _idle(router, "s1"))

    def test_an_open_websocket_lives_through_a_switch(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        with socket.create_connection(place(route.listen), timeout=20) as caller:
            caller.sendall(_UPGRADE)
            assert _receive(caller, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            caller.sendall(b"one.")
            assert _receive(caller, b".") == b"stable:one."
            served(router, self.dealt(route, 10_000))
            assert ask(route.listen).text == "candidate"
            caller.sendall(b"two.")
            assert _receive(caller, b".") == b"stable:two."
            assert not _idle(router, "s1")
        until(lambda: _idle(router, "s1"))

    def test_open_events_live_through_a_switch(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, route)
        connection = http.client.HTTPConnection(*place(route.listen), timeout=20)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.read1() == b"data: first stable\n\n"
        served(router, self.dealt(route, 10_000))
        stable.release()
        assert answer.read() == b"data: last stable\n\n"
        connection.close()

    def test_an_http2_connection_lives_through_a_switch(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, route)
        caller = Http2(route.listen)
        assert b"".join(caller.get("/who")) == b"stable"
        events = caller.get("/events")
        assert next(events) == b"data: first stable\n\n"
        served(router, self.dealt(route, 10_000))
        stable.release()
        assert b"".join(events) == b"data: last stable\n\n"
        assert b"".join(caller.get("/who")) == b"candidate"
        caller.close()

    def test_a_large_upload_lives_through_a_switch(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        block, blocks = bytes(MEGABYTE), 50
        connection = http.client.HTTPConnection(*place(route.listen), timeout=60)
        connection.putrequest("POST", "/digest")
        connection.putheader("content-length", str(MEGABYTE * blocks))
        connection.endheaders()
        for number in range(blocks):
            connection.send(block)
            if number == 10:
                served(router, self.dealt(route, 10_000))
        assert connection.getresponse().read().endswith(f" {MEGABYTE * blocks}".encode())
        connection.close()

    def test_a_large_download_by_a_slow_caller_lives_through_a_switch(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        served(router, route)
        size = 50 * MEGABYTE
        connection = http.client.HTTPConnection(*place(route.listen), timeout=60)
        connection.request("GET", f"/bytes/{size}")
        answer = connection.getresponse()
        read = len(answer.read(4096))
        # The caller reads nothing more until stable's other users are gone: the pipe behind it is full by then.
        served(router, self.dealt(route, 10_000))
        assert not _idle(router, "s1")
        while block := answer.read(MEGABYTE):
            read += len(block)
        assert read == size
        connection.close()

    # --- nothing is tidied up

    def test_a_request_arrives_as_it_was_sent(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        target = "/echo//a/../b/%2F%20;x?q=%41&&r"
        sent = {"host": "shop.example:81", "x-envoy-retry-on": "5xx", "cookie": "a=1; b=2", "accept-encoding": "br"}
        answer = ask(route.listen, target, headers=sent)
        assert answer.text.startswith(f"GET {target} HTTP/1.1\r\n")
        head = head_of(answer)
        assert (head["host"], head["cookie"], head["accept-encoding"]) == ("shop.example:81", "a=1; b=2", "br")
        assert (head["x-forwarded-for"], head["x-forwarded-proto"]) == ("127.0.0.1", "http")
        assert not [name for name in head if name.startswith("x-envoy")]

    def test_callers_cannot_have_a_request_sent_twice_or_cut_off(
        self, router: TrafficRouter, route: EnvironmentRoute, stable: Instance
    ) -> None:
        served(router, route)
        stable.wrong = {"/who": 500}
        orders = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9", "x-envoy-upstream-rq-timeout-ms": "1"}
        assert ask(route.listen, method="POST", body=b"once", headers=orders).status == 500
        assert stable.seen == Counter({"POST /who": 1})
        caller = threading.Thread(target=lambda: ask(route.listen, "/hold", headers=orders))
        caller.start()
        until(lambda: stable.seen["GET /hold"] == 1)
        stable.release()
        caller.join()
        assert [arm.errors for arm in self.recorded(router, 2).total.values()] == [1], "its slow answer is waited for"

    def test_a_proxy_on_this_machine_may_say_that_its_caller_used_tls(
        self, router: TrafficRouter, route: EnvironmentRoute
    ) -> None:
        """Without it, a service behind a proxy that ends TLS would redirect to https for ever."""
        served(router, route)
        sent = {"x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}
        head = head_of(ask(route.listen, "/echo", headers=sent))
        assert head["x-forwarded-proto"] == "https"
        assert head["x-forwarded-for"].replace(" ", "") == "192.0.2.7,127.0.0.1"

    def test_an_answer_arrives_as_it_was_given(self, router: TrafficRouter, route: EnvironmentRoute) -> None:
        served(router, route)
        answer = ask(route.listen, "/status/418")
        assert (answer.status, answer.text, answer.headers["server"]) == (418, "stable", "instance/1")
        assert not [name for name in answer.headers if name.lower().startswith("x-envoy")]


def _at(instance: Instance) -> Endpoint:
    return Endpoint(instance.name, instance.address)


def _unhealthy(router: TrafficRouter, name: str) -> frozenset[str] | None:
    found = router.observe(SERVICE, ENVIRONMENT)
    return found.unhealthy.get(name) if found else None


def _idle(router: TrafficRouter, name: str) -> bool:
    found = router.observe(SERVICE, ENVIRONMENT)
    return found is not None and found.active[name] == 0


def _cookie(answer: Answer) -> str:
    found = answer.headers.get_all("set-cookie")
    assert found is not None
    assert len(found) == 1
    assert re.search(r"; Max-Age=3600;", found[0])
    return found[0].partition(";")[0]


def _receive(caller: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        block = caller.recv(4096)
        assert block, f"the connection was closed after {data!r}"
        data += block
    return data


class _deaf:
    """A port that is open and accepts nobody: its queue is full, so that connections hang."""

    def __init__(self, address: str) -> None:
        self._sockets = [socket.socket() for _ in range(8)]
        listener, *callers = self._sockets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place(address))
        listener.listen(0)
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(place(address))

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()
