"""Two engines in processes of their own, both allowed to act on the same environment, on one PostgreSQL.

Either is killed, stopped for longer than its lease and continued. Nothing may be done twice and nothing be lost: each
instance starts once, weights only rise on the way to a promotion, users always find somebody, and every rollout ends as
it was asked for.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.engine_process import SECRET, Exchange

from rebake.core.clock import SystemClock
from rebake.core.codec import dump
from rebake.errors import LedgerConflict
from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.ports import Draft, Fence, Put
from rebake.platforms.model import Instance
from rebake.release.manifest import Health
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.world import Command, Rollout
from rebake.testing.simulated import Behaviour, SimulatedPlatform, SimulatedRouter
from rebake.testing.simulation.scenario import ENVIRONMENT, KEY, SERVICE, digest, plan_of, revision_of
from rebake.traffic.ports import RouteObservation

pytestmark = pytest.mark.real

LEASE_SECONDS = 1.0
REQUESTS_EVERY_SECONDS = 0.02


class World:
    """What both engines act on, and what users see of it."""

    def __init__(self) -> None:
        self.platform = SimulatedPlatform(SystemClock())
        self.router = SimulatedRouter(self.platform)
        self.done: list[tuple[str, str, int]] = []
        self.refused: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        for name in "ab":
            self.platform.behaviours[digest(name)] = Behaviour(start_seconds=0.2)
        self._users = threading.Thread(target=self._serve, daemon=True)
        self._users.start()

    def effect(self, owner: str, call: str, args: tuple[Any, ...], fence: Fence | None) -> tuple[str, str] | None:
        """Do what an engine asks for. Returns what it is refused with."""
        on = self.platform if call in ("launch", "retire") else self.router
        with self._lock:
            try:
                getattr(on, call)(*args, fence=fence)
            except LedgerConflict as late:
                self.refused.append((owner, call))
                return late.code, late.problem
            assert fence is not None
            self.done.append((owner, call, fence.token))
            return None

    def instances(self, service: str, environment: str) -> list[Instance]:
        with self._lock:
            return list(self.platform.observe(service, environment))

    def route(self, service: str, environment: str) -> RouteObservation | None:
        with self._lock:
            return self.router.observe(service, environment)

    def _serve(self) -> None:
        while not self._ended.wait(REQUESTS_EVERY_SECONDS):
            with self._lock:
                if any(f.weight_basis_points for r in self.router.routes.values() for f in r.fleets):
                    self.router.serve(SERVICE, ENVIRONMENT, 4)

    def close(self) -> None:
        self._ended.set()
        self._users.join()


class Bench:
    """The world, the database and the engines of one test."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.socket = url, str(folder / "world")
        self.world = World()
        self.ledger: DatabaseLedger = open_ledger(url)
        self.engines: dict[str, subprocess.Popen[str]] = {}
        self._asked = 0

        class Here(Exchange):
            pass

        Here.register("world", callable=lambda: self.world)
        server = Here(self.socket, SECRET).get_server()
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(self, owner: str, stand_still: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.conformance.engine_process", self.url, self.socket, owner]
        process = subprocess.Popen(
            [*command, str(LEASE_SECONDS), stand_still], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.engines[owner] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def kill(self, owner: str) -> None:
        process = self.engines.pop(owner)
        process.kill()
        process.communicate()

    def deploy(self, release: str) -> str:
        self._asked += 1
        now, name = time.time(), f"r-{self._asked:03}"
        rollout = Rollout(name, "deploy", revision_of(release, 0), _plan(), "ann", now)
        command = Command(f"c-{self._asked:03}", "begin", "ann", now, rollout)
        puts = [Put("command", f"{KEY}/{command.id}", dump(command))]
        self.ledger.commit([Draft("request", SERVICE, ENVIRONMENT, name, {"request": command.id})], puts, at=now)
        return name

    def state(self) -> str:
        doc = self.ledger.get("environment", KEY) or {}
        rollout = doc.get("rollout")
        return "" if rollout is None else str(rollout["state"])

    def ended(self, rollout: str) -> bool:
        doc = self.ledger.get("rollout", f"{KEY}/{rollout}")
        return doc is not None and doc["ended"] is not None

    def quiet(self) -> bool:
        doc = self.ledger.get("environment", KEY) or {}
        return not doc.get("rollout") and not doc.get("leaving") and len(self.world.platform.processes) == 2

    def close(self) -> None:
        for process in self.engines.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()
        self.world.close()
        self.ledger.close()


@pytest.fixture
def bench(postgresql_url: str, tmp_path: Path) -> Iterator[Bench]:
    built = Bench(postgresql_url, tmp_path)
    yield built
    built.close()


def _plan() -> Plan:
    return replace(
        plan_of(1, 0),
        run=replace(plan_of(1, 0).run, health=Health(start_timeout_ms=60_000), drain_ms=200),
        instances=2,
        strategy=Strategy("linear", steps=(3000, 6000), hold_ms=300),
        undecided="promote",
        checks=(),
        soak_ms=300,
        hold_back_basis_points=0,
        approval=False,
        when_busy="wait",
    )


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds:g}s"
        time.sleep(0.02)


def _stands_still(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _nothing_twice_nothing_lost(bench: Bench, rollouts: list[str]) -> None:
    world = bench.world
    views = [bench.ledger.get("rollout", f"{KEY}/{name}") for name in rollouts]
    assert [v and v["outcome"] for v in views] == ["promoted"] * len(rollouts)
    assert max(Counter(world.platform.launches).values()) == 1
    assert Counter(name.rpartition("-")[0] for name in world.platform.launches) == dict.fromkeys(rollouts, 2)
    assert world.router.lost == 0
    tokens = [token for _, _, token in world.done]
    assert tokens == sorted(tokens)
    _weights_only_rise(world, rollouts)
    assert bench.ledger.verify().faults == ()
    for name in rollouts:
        steps = [e.body for e in bench.ledger.entries(rollout=name, kinds=["transition"])]
        assert [s["from"] for s in steps[1:]] == [s["to"] for s in steps[:-1]]


def _weights_only_rise(world: World, rollouts: list[str]) -> None:
    for name, successor in zip(rollouts, [*rollouts[1:], None], strict=True):
        shares = []
        for route in world.router.history:
            weights = {f.fleet: f.weight_basis_points for f in route.fleets}
            if successor in weights:
                break
            shares.append(weights.get(name, 0))
        assert shares == sorted(shares), f"{name}: {shares}"


@pytest.mark.parametrize("effect", ["launch", "apply"])
def test_an_effect_of_an_engine_that_stood_still_is_refused(bench: Bench, effect: str) -> None:
    """It stops between its record and its effect; the other goes on and ends the rollout; then it is continued."""
    slow = bench.start("slow", stand_still=effect)
    first = bench.deploy("a")
    until(lambda: _stands_still(slow))
    bench.start("swift")
    until(lambda: bench.ended(first) and bench.quiet())
    slow.send_signal(signal.SIGCONT)
    until(lambda: bench.world.refused)
    assert ("slow", effect) in bench.world.refused
    last = bench.deploy("b")
    bench.kill("swift")  # who was refused leads again
    until(lambda: bench.ended(last) and bench.quiet())
    _nothing_twice_nothing_lost(bench, [first, last])


def test_either_engine_is_killed_stopped_and_continued_at_random_instants(bench: Bench) -> None:
    chance = random.Random(20261123)
    for owner in ("one", "two"):
        bench.start(owner)
    rollouts = []
    for number in range(4):
        rollouts.append(name := bench.deploy("ab"[number % 2]))
        owner = ("one", "two")[number // 2 % 2]
        wanted = chance.choice(("launching", "shifting", "holding", "soaking"))
        with contextlib.suppress(AssertionError):  # a state may be over before it is seen: then at any instant
            until(lambda wanted=wanted: bench.state() == wanted, 2)  # type: ignore[misc]
        if number % 2:
            bench.kill(owner)
            until(lambda name=name: bench.ended(name))  # type: ignore[misc]
            bench.start(owner)
        else:
            bench.engines[owner].send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            until(lambda stopped=stopped: time.monotonic() > stopped + 1.5 * LEASE_SECONDS)  # type: ignore[misc]
            bench.engines[owner].send_signal(signal.SIGCONT)
            until(lambda name=name: bench.ended(name))  # type: ignore[misc]
    until(bench.quiet)
    _nothing_twice_nothing_lost(bench, rollouts)
