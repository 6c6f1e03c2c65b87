"""A platform and a route that cost next to nothing, for more environments than a machine has room for processes.

They stand for what is outside of the engine: instances start within a third of a second, users' requests are dealt as
the weights say, evenly, each second is one sample with endpoints and latencies as real records have them. Everything is
looked up by environment, so that what a look costs does not depend on how many environments there are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from rebake.core.clock import Clock
from rebake.core.units import FULL
from rebake.judge.samples import LATENCY_BUCKETS, Arm
from rebake.ledger.ports import Fence
from rebake.platforms.model import Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.release.manifest import Release
from rebake.rollout.world import Environment
from rebake.traffic.ports import Counters, EnvironmentRoute, RouteObservation, Sample, Samples

START_SECONDS = 0.3
RATE = 200
"""Users' requests a second in an environment with users."""
_BUCKETS = range(40, 120)
"""A tenth of a second, give or take: where latencies lie in the samples."""


class LightPlatform:
    """Instances as values, by environment."""

    name = "light"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._instances: dict[str, dict[str, Instance]] = {}
        self._keys: dict[str, str] = {}
        self._lock = threading.Lock()

    def adopt(self, environment: Environment) -> None:
        """Have every instance of the stable fleet running."""
        stable = environment.stable
        if stable is None:
            return
        for number in range(1, stable.plan.instances + 1):
            name = f"{stable.id}-{number}"
            instance = Instance(name, stable.id, stable.revision.digest, "running", f"127.0.0.1:{20_000 + number}")
            started = replace(instance, healthy=True, was_healthy=True, started_at=self._clock.now() - 3600)
            self._instances.setdefault(environment.key, {})[name] = started
            self._keys[name] = environment.key

    def prepare(self, release: Release, progress: Progress) -> None:
        progress(f"prepared {release.digest}")

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        key, now = f"{spec.service}/{spec.environment}", self._clock.now()
        with self._lock:
            address = f"127.0.0.1:{20_000 + len(self._keys) % 40_000}"
            instance = Instance(spec.id, spec.fleet, spec.revision, "starting", address, False, started_at=now)
            self._instances.setdefault(key, {}).setdefault(spec.id, instance)
            self._keys[spec.id] = key

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(addresses)

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        now = self._clock.now()
        with self._lock:
            mine = self._instances.get(f"{service}/{environment}", {})
            for name, instance in mine.items():
                if instance.state == "starting" and now - instance.started_at >= START_SECONDS:
                    mine[name] = replace(instance, state="running", healthy=True, was_healthy=True)
            return list(mine.values())

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        return self.observe(service, environment)

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        with self._lock:
            key = self._keys.pop(instance, None)
            if key is not None:
                self._instances[key].pop(instance, None)

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        return []


@dataclass(slots=True)
class _Served:
    """One environment's route, since when, and what its users met until then."""

    route: EnvironmentRoute
    version: str
    since: float
    counters: dict[str, Counters] = field(default_factory=dict)
    past: list[tuple[float, float, dict[str, int]]] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, int]:
        return {fleet.fleet: fleet.weight_basis_points for fleet in self.route.fleets}


class LightRouter:
    """A route that is served as soon as it is applied; users are there where `visited` says so."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._served: dict[str, _Served] = {}
        self.visited: set[str] = set()
        self._lock = threading.Lock()

    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        key, now = f"{route.service}/{route.environment}", self._clock.now()
        with self._lock:
            before = self._served.get(key)
            served = _Served(route, route.version, now)
            if before is not None:
                served.counters = _grown(before, now, key in self.visited)
                served.past = [*before.past, (before.since, now, before.weights)][-8:]
            fleets = {fleet.fleet for fleet in route.fleets}
            served.counters = {fleet: count for fleet, count in served.counters.items() if fleet in fleets}
            self._served[key] = served

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        key, now = f"{service}/{environment}", self._clock.now()
        with self._lock:
            served = self._served.get(key)
            if served is None:
                return None
            counters = _grown(served, now, key in self.visited)
        return RouteObservation(
            version=served.version,
            weights=served.weights,
            healthy={f.fleet: frozenset(e.instance for e in f.endpoints) for f in served.route.fleets},
            unhealthy={f.fleet: frozenset() for f in served.route.fleets},
            active={f.fleet: 0 for f in served.route.fleets},
            counters=counters,
            epoch="1",
            listening=sum(served.weights.values()) == FULL,
        )

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        with self._lock:
            self._served.pop(f"{service}/{environment}", None)

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        key, now = f"{service}/{environment}", int(self._clock.now())
        first = now - 1 if cursor is None else int(cursor["second"])
        with self._lock:
            served = self._served.get(key)
            if served is None or key not in self.visited:
                return Samples((), {"second": now})
            found = [sample for second in range(first, now) if (sample := _sample(served, second)) is not None]
        return Samples(tuple(found), {"second": now})

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        pass


def _grown(served: _Served, now: float, visited: bool) -> dict[str, Counters]:
    counters = dict(served.counters)
    for fleet, weight in served.weights.items():
        met = int((now - served.since) * RATE * weight / FULL) if visited else 0
        counters[fleet] = Counters(counters.get(fleet, Counters()).requests + met)
    return counters


def _sample(served: _Served, second: int) -> Sample | None:
    """What finished within one second, if one setting of the weights dealt it all."""
    weights = served.weights if second >= served.since else None
    for since, until, former in served.past:
        if since <= second and second + 1 <= until:
            weights = former
    dealt = {fleet: weight for fleet, weight in (weights or {}).items() if weight}
    if not dealt:
        return None
    return Sample(second, dealt, {fleet: _arm(RATE * weight // FULL) for fleet, weight in dealt.items()})


@lru_cache(maxsize=256)
def _arm(requests: int) -> Arm:
    latency = [0] * LATENCY_BUCKETS
    for number in range(requests):
        latency[_BUCKETS[number * 7 % len(_BUCKETS)]] += 1
    half = requests // 2
    return Arm(requests, 0, {"GET /notes": (half, 0), "GET /notes/*": (requests - half, 0)}, tuple(latency))
