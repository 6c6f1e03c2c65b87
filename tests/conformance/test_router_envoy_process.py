"""What only a process of its own can get wrong: death, adoption, replacement, and other people's ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rebake.core.codec import dump
from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.testing.conformance.route import ENVIRONMENT, SERVICE, served, until
from rebake.testing.conformance.router import fleet
from rebake.testing.conformance.router_world import Crowd, Instance, Loop, ask, free_address, is_open, place
from rebake.traffic.envoy import EdgeSettings, EnvoyRouter
from rebake.traffic.envoy.process import EnvoyProcess, Running
from rebake.traffic.ports import EnvironmentRoute, Mirror, RouteObservation, Sticky

SETTINGS = EdgeSettings(concurrency=2, drain_seconds=1, handover_seconds=2)
OTHER_SETTINGS = replace(SETTINGS, drain_seconds=2)  # another build, hence a hot restart

pytestmark = pytest.mark.real

OpenRouter = Callable[..., EnvoyRouter]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def open_router(home: Home) -> Iterator[OpenRouter]:
    """Routers as agents of the same home open them one after another; the last one ends Envoy."""
    opened: list[EnvoyRouter] = []

    def opening(settings: EdgeSettings = SETTINGS, at: Home = home) -> EnvoyRouter:
        opened.append(EnvoyRouter(at, settings))
        return opened[-1]

    yield opening
    for router in opened:
        router.stop()
        router.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def route(loop: Loop) -> EnvironmentRoute:
    stable, candidate = (Instance(name, loop).open() for name in ("stable", "candidate"))
    return EnvironmentRoute(
        SERVICE, ENVIRONMENT, free_address(), (fleet("s1", 7_000, stable), fleet("c1", 3_000, candidate)), preview="c1"
    )


def envoys(home: Home) -> list[Running]:
    """Live Envoys of a home, as any agent would find them."""
    return EnvoyProcess(home, SETTINGS).find()


def heir_of(killed: Running, home: Home) -> list[Running]:
    return [running for running in envoys(home) if running != killed]


def answers(listen: str) -> bool:
    try:
        return ask(listen, seconds=1).status == 200
    except OSError:
        return False


def test_a_killed_envoy_is_back_within_a_second_with_the_same_route(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute
) -> None:
    router = open_router()
    before = served(router, route)
    killed = envoys(home)[0]
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: heir_of(killed, home), seconds=1.0)
    until(lambda: answers(route.listen), seconds=1.0)
    after = served(router, route)
    assert (after.weights, after.version) == (before.weights, before.version)
    assert after.epoch != before.epoch, "counters began again from zero"
    assert not killed.admin.exists()


def test_an_envoy_killed_again_and_again_comes_back(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute
) -> None:
    router = open_router()
    served(router, route)
    for _ in range(3):
        killed = envoys(home)[0]
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda killed=killed: heir_of(killed, home))  # type: ignore[misc]
        until(lambda: answers(route.listen))


def test_the_next_agent_adopts_the_running_envoy(open_router: OpenRouter, home: Home, route: EnvironmentRoute) -> None:
    first = open_router()
    before = served(first, route)
    running = envoys(home)
    first.close()
    second = open_router()
    second.resume()
    assert second.observe(SERVICE, ENVIRONMENT) == before
    assert envoys(home) == running
    os.kill(running[0].pid, signal.SIGKILL)
    until(lambda: answers(route.listen), seconds=1.5)


def test_envoy_outlives_the_thread_and_the_process_that_started_it(home: Home, route: EnvironmentRoute) -> None:
    doc = f"""
import os, threading
from pathlib import Path
from rebake.core.codec import load
from rebake.core.home import Home
from rebake.traffic.envoy import EdgeSettings, EnvoyRouter
from rebake.traffic.ports import EnvironmentRoute
router = EnvoyRouter(Home(Path({str(home.root)!r})), EdgeSettings(concurrency=2, drain_seconds=1, handover_seconds=2))
route = load(EnvironmentRoute, {dump(route)!r})
thread = threading.Thread(target=router.apply, args=(route,))
thread.start()
thread.join()
os.kill(os.getpid(), 9)
"""
    agent = subprocess.run([sys.executable, "-c", doc], check=False, timeout=30)
    assert agent.returncode == -signal.SIGKILL
    router = EnvoyRouter(home, SETTINGS)
    try:
        assert answers(route.listen)
        started = envoys(home)
        assert served(router, route).listening
        assert envoys(home) == started
    finally:
        router.stop()
        router.close()


def test_after_everything_died_the_next_agent_serves_the_same_without_being_told(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute
) -> None:
    first = open_router()
    wish = replace(route, sticky=Sticky(), mirror=Mirror("c1", 100))
    before = served(first, wish)
    first.close()
    os.kill(envoys(home)[0].pid, signal.SIGKILL)
    until(lambda: not envoys(home))
    second = open_router()
    second.resume()
    found = until(lambda: second.observe(SERVICE, ENVIRONMENT))
    assert found is not None
    assert (found.version, found.weights) == (before.version, before.weights)
    assert second.environments() == [(SERVICE, ENVIRONMENT)]


def test_a_home_without_routes_starts_nothing(open_router: OpenRouter, home: Home) -> None:
    router = open_router()
    router.resume()
    assert router.observe(SERVICE, ENVIRONMENT) is None
    assert not envoys(home)


def test_a_hot_restart_under_load_loses_nothing_and_counts_on(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute, loop: Loop
) -> None:
    first = open_router()
    before = served(first, route)
    former = envoys(home)[0]
    crowd = Crowd(loop, route.listen, callers=6)
    until(lambda: crowd.saw(300))
    counted = _requests(served(first, route))
    first.close()
    second = open_router(OTHER_SETTINGS)
    second.resume()
    heir = envoys(home)[0]
    assert (heir.generation, heir.epoch) == (former.generation, former.epoch + 1)
    seen = crowd.tally.total
    until(lambda: crowd.saw(seen + 300))
    until(lambda: envoys(home) == [heir])
    tally = crowd.finish()
    assert tally.lost == {}
    after = served(second, route)
    assert after.weights == before.weights
    assert after.epoch != before.epoch, "counters began again"
    # What the former Envoy finished between the last look and its end is the only thing not handed over.
    assert 0.99 * tally.total <= counted + _requests(after) <= tally.total
    served(second, replace(route, fleets=(replace(route.fleets[0], weight_basis_points=10_000),), preview=None))


def test_envoys_that_cannot_hand_over_overlap_instead(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_router()
    before = served(first, route)
    former = envoys(home)[0]
    crowd = Crowd(loop, route.listen, callers=4)
    until(lambda: crowd.saw(200))
    first.close()
    monkeypatch.setattr(EnvoyProcess, "_protocol", staticmethod(str))
    second = open_router(OTHER_SETTINGS)
    second.resume()
    heir = envoys(home)[0]
    assert heir.generation != former.generation
    until(lambda: envoys(home) == [heir])
    seen = crowd.tally.total
    until(lambda: crowd.saw(seen + 200))
    assert crowd.finish().lost == {}
    assert served(second, route).epoch != before.epoch


def test_the_holder_of_an_address_is_named(open_router: OpenRouter, home: Home, route: EnvironmentRoute) -> None:
    router = open_router()
    with socket.socket() as stranger:
        stranger.bind(("0.0.0.0", place(route.listen)[1]))
        stranger.listen()
        with pytest.raises(Permanent) as caught:
            router.apply(route)
    assert caught.value.code == "address-in-use"
    assert f"(pid {os.getpid()})" in caught.value.problem
    assert not envoys(home), "nothing is started for a route that was refused"
    assert not list(home.edge.glob("routes/*"))


def test_two_homes_never_share_an_address(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute, tmp_path: Path
) -> None:
    served(open_router(), route)
    with pytest.raises(Permanent) as caught:
        open_router(SETTINGS, Home(tmp_path / "other")).apply(route)
    assert caught.value.code == "address-in-use"
    assert "envoy" in caught.value.problem


def test_two_homes_at_the_same_moment_never_share_an_address(
    open_router: OpenRouter, route: EnvironmentRoute, tmp_path: Path
) -> None:
    routers = [open_router(SETTINGS, Home(tmp_path / f"home{n}")) for n in range(2)]
    refused: list[str] = []

    def apply(router: EnvoyRouter) -> None:
        try:
            router.apply(route)
        except Permanent as error:
            refused.append(error.code)

    threads = [threading.Thread(target=apply, args=(router,)) for router in routers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["address-in-use"]


def test_an_address_taken_while_envoy_was_dead_is_not_shared_but_taken_back_once_free(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute
) -> None:
    neighbour = replace(route, environment="staging", listen=free_address())
    first = open_router()
    served(first, route)
    served(first, neighbour)
    first.stop()
    first.close()
    until(lambda: not is_open(route.listen))
    second = open_router()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(place(route.listen))
        stranger.listen()
        second.resume()
        assert answers(neighbour.listen)
        found = second.observe(SERVICE, ENVIRONMENT)
        assert found is not None
        assert (found.listening, found.version) == (False, None)
        with pytest.raises(Permanent) as caught:
            second.apply(route)
        assert caught.value.code == "address-in-use"
    until(lambda: answers(route.listen))


def test_an_address_of_another_machine_is_refused(open_router: OpenRouter, route: EnvironmentRoute) -> None:
    with pytest.raises(Permanent) as caught:
        open_router().apply(replace(route, listen="203.0.113.7:8080"))
    assert caught.value.code == "address-unavailable"


def test_a_route_file_cut_short_by_a_power_failure_harms_no_other(
    open_router: OpenRouter, home: Home, route: EnvironmentRoute
) -> None:
    first = open_router()
    served(first, route)
    first.stop()
    first.close()
    (home.edge / "routes" / "shop.staging.json").write_text('{"service": "sh')
    second = open_router()
    second.resume()
    until(lambda: answers(route.listen))
    assert second.observe(SERVICE, "staging") is None


def test_stopping_leaves_nothing_behind(open_router: OpenRouter, home: Home, route: EnvironmentRoute) -> None:
    router = open_router()
    served(router, route)
    running = envoys(home)[0]
    shared = Path(f"/dev/shm/envoy_shared_memory_{running.base_id * 10}")
    assert shared.exists()
    router.stop()
    assert not envoys(home)
    assert not shared.exists()
    assert not list(home.root.glob("*.sock"))
    assert not is_open(route.listen)
    served(router, route)
    assert answers(route.listen)


def test_the_log_does_not_grow_for_ever(open_router: OpenRouter, home: Home, route: EnvironmentRoute) -> None:
    router = open_router()
    home.edge.mkdir(parents=True)
    (home.edge / "envoy.log").write_bytes(b"x" * (5 << 20))
    served(router, route)
    assert (home.edge / "envoy.log").stat().st_size < 1 << 20
    assert (home.edge / "envoy.log.1").stat().st_size == 5 << 20


def _requests(found: RouteObservation) -> int:
    return sum(counters.requests for counters in found.counters.values())
