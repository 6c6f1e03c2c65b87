"""One engine over many environments, in a process of its own so that its memory and processor time are its alone.

`python -m benchmarks.scale_engine WHERE IDLE ACTIVE SECONDS`: fills the ledger at WHERE, works, and prints what it
took as one JSON object. What is real in here: the loop and its threads, the engine, `decide`, the judge, the jobs, the
clock, and the ledger. What is not: instances and route (`scale_world`); and requests do not come over the API.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.scale_world import LightPlatform, LightRouter
from rebake.core.clock import SystemClock
from rebake.core.codec import dump
from rebake.core.ids import timed_id
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Draft, Ledger, Put
from rebake.release.manifest import Resources, Revision, RunContract, Settings
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.loop import Loop
from rebake.rollout.plan import Plan, Strategy
from rebake.rollout.route import desired_route
from rebake.rollout.world import Command, Environment, Fleet, Place, Rollout, World
from rebake.testing.simulated import simulated_release

CANARY = Strategy("canary", steps=(500, 2500, 5000), hold_ms=10_000)
SOAK_MS = 20_000
HERE = Place("p-bench", "bench", "/home")
PREVIOUS = 3
BATCH = 500


def _plan(service: str, name: str) -> Plan:
    """An ordinary plan with the defaults of `rebake.yaml`: drift is looked for every ten seconds."""
    run = RunContract(
        ("python", "-m", service),
        port=8080,
        env={"GREETING": "welcome", "LOG_LEVEL": "info", "DATABASE": f"/srv/{service}/{name}.db"},
        resources=Resources(memory_bytes=256 << 20),
    )
    return Plan(service, name, "light", run, 2, "127.0.0.1:8080", CANARY, soak_ms=SOAK_MS)


def _fleet(number: int, service: str, name: str) -> Fleet:
    plan = _plan(service, name)
    revision = Revision(service, name, f"sha256:{number:064x}", Settings(dict(plan.run.env)))
    return Fleet(f"r-{number:012d}", revision, plan, next=3)


def environment(number: int) -> Environment:
    service, name = f"service-{number // 3:04d}", ("testing", "staging", "production")[number % 3]
    stable, *previous = (_fleet(number * 10 + n, service, name) for n in range(PREVIOUS + 1))
    return Environment(service, name, stable=stable, previous=tuple(previous), platform="light", place=HERE)


def _fill(ledger: Ledger, platform: LightPlatform, router: LightRouter, count: int, now: float) -> list[str]:
    """Environments that serve, as a month of use leaves them: in the ledger, on the platform and on the route."""
    keys = []
    for first in range(0, count, BATCH):  # what filling needs is not to be taken for the engine's memory
        found = [environment(number) for number in range(first, min(count, first + BATCH))]
        puts = []
        for one in found:
            platform.adopt(one)
            instances = tuple(platform.observe(one.service, one.environment))
            wanted = desired_route(one, World(instances=instances), now)
            assert wanted is not None
            router.apply(wanted)
            puts.append(Put("environment", one.key, dump(replace(one, served=wanted.version))))
        ledger.commit([], puts, at=now)
        keys += [one.key for one in found]
    return keys


class Bench:
    """The engine, its loop, and a person who deploys wherever a rollout has ended."""

    def __init__(self, where: str, environments: int, active: int) -> None:
        self.clock = SystemClock()
        self.ledger = open_ledger(where)
        self.platform, self.router = LightPlatform(self.clock), LightRouter(self.clock)
        self.keys = _fill(self.ledger, self.platform, self.router, environments, self.clock.now())
        self.active = self.keys[:: max(1, environments // active)][:active] if active else []
        self.router.visited.update(self.active)
        self.jobs = ThreadJobs()
        self.engine = Engine(
            Ports(
                self.ledger,
                {"light": self.platform},
                {"light": self.router},
                self.jobs,
                self.clock,
                simulated_release,
                "home:p-bench",
                {"light": HERE},
            ),
            self._changed,
        )
        self.loop = Loop(self._tick, self.clock)
        self.engine.wake = self.loop.wake
        self.looked: dict[str, int] = defaultdict(int)
        self.due: dict[str, float] = {}
        self.late: list[float] = []
        self.begun = 0
        self._deploys = 0

    def _tick(self, key: str, asked: bool) -> float:
        now, due = self.clock.now(), self.due.get(key)
        if due is not None and key in self.router.visited:
            self.late.append(now - due)
        again = self.due[key] = self.engine.tick(key, asked)
        self.looked[key] += 1
        return again

    def _changed(self, key: str) -> None:
        environment = self.engine.memory(key).environment
        if key in self.router.visited and environment.rollout is None and not environment.queue:
            threading.Thread(target=self.deploy, args=[key]).start()

    def deploy(self, key: str) -> None:
        """Ask for a rollout of another release, as the desk does."""
        stable, now = self.engine.memory(key).environment.stable, self.clock.now()
        if stable is None or self.ledger.list("command", f"{key}/"):
            return
        self._deploys += 1
        revision = replace(stable.revision, release=f"sha256:{self._deploys:064x}")
        plan = replace(stable.plan, checks=())
        rollout = Rollout(timed_id("r", now), "deploy", revision, plan, "ann", now)
        command = Command(timed_id("c", now), "begin", "ann", now, rollout)
        entry = Draft("request", revision.service, revision.environment, rollout.id, {"request": command.id})
        puts = [Put("command", f"{key}/{command.id}", dump(command)), Put("revision", revision.digest, dump(revision))]
        self.ledger.commit([entry], puts, at=now)
        self.loop.wake(key)

    def states(self) -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for key in self.active:
            rollout = self.engine.memory(key).environment.rollout
            found["none" if rollout is None else str(rollout.state)] += 1
        return dict(found)

    def close(self) -> None:
        self.loop.close()
        self.jobs.close()
        self.ledger.close()


def _until(condition: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "the engine is not there yet"
        time.sleep(0.05)
    return time.monotonic() - began


def memory_kib(name: str) -> int:
    with Path("/proc/self/smaps_rollup").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def measure(where: str, idle: int, active: int, seconds: float) -> dict[str, Any]:
    """What one engine takes while it is at work. Memory: PSS in KiB; processor: seconds of it a second."""
    with closing(Bench(where, idle + active, active)) as bench:
        bench.loop.start(bench.engine.urgent_first())
        known = _until(lambda: len(bench.looked) == len(bench.keys), 300)
        for number, key in enumerate(bench.active):  # not all in step
            bench.deploy(key)
            if number % 10 == 9:
                time.sleep(0.5)
        time.sleep(10 if not active else 30)
        bench.late.clear()
        looks, entries, began = sum(bench.looked.values()), bench.ledger.head()[0], time.monotonic()
        spent, rollouts = time.process_time(), bench._deploys
        time.sleep(seconds)
        spent, took = time.process_time() - spent, time.monotonic() - began
        late = sorted(bench.late)
        return {
            "known_seconds": known,
            "cores": spent / took,
            "pss_kib": memory_kib("Pss"),
            "looks_a_second": (sum(bench.looked.values()) - looks) / took,
            "entries_a_second": (bench.ledger.head()[0] - entries) / took,
            "begun": bench._deploys - rollouts,
            "late_ms": [round(1000 * late[int(len(late) * q)], 2) for q in (0.5, 0.99)] if late else [],
            "states": bench.states(),
        }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
