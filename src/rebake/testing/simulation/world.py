"""The simulated world under the engines: the truth of platform, balancer, users and ledger, and faults in it.

The engines never see this room itself, only the ports in `ports.py`, through which every call passes a fault first.
"""

from __future__ import annotations

import json
import marshal
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

from rebake.core.clock import Boot
from rebake.core.units import FULL
from rebake.errors import RebakeError
from rebake.judge.samples import Arm, Pairs
from rebake.ledger.ports import Fence
from rebake.platforms.model import Drift, Instance, InstanceSpec
from rebake.testing.simulated import Behaviour, ManualClock, MemoryLedger, SimulatedPlatform, SimulatedRouter
from rebake.testing.simulation.scenario import (
    ENVIRONMENT,
    FAILING_JOBS,
    KEY,
    RELEASES,
    SERVICE,
    Scenario,
    digest,
    kind_of,
    of_jobs,
    of_workers,
)
from rebake.traffic.ports import Counters, EnvironmentRoute, FleetRoute, Sample

FRAIL_SECONDS = 4.0
REMEMBERED_LOOKS = 8
PIECES = 10.0
"""What one worker does in a second."""


class Killed(BaseException):
    """The engine's process ended here, as by SIGKILL: no handler of the engine may see it."""


class FastLedger(MemoryLedger):
    """The ledger in memory, its documents frozen by marshal instead of JSON: as strict, in a tenth of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: Sequence[FastLedger] = ()

    def encode(self, doc: Mapping[str, Any]) -> Any:
        try:
            return marshal.dumps(dict(doc))
        except ValueError:  # an enum's value inside: JSON knows what to do with it
            return json.dumps(doc)

    def decode(self, kept: Any) -> Any:
        return json.loads(kept) if isinstance(kept, str) else marshal.loads(kept)

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        """What members of a group wrote is read by all of them, each with a ledger of its own here."""
        if kind != "reached" or not self.peers:
            return super().list(kind, prefix)
        return sorted(found for peer in self.peers for found in MemoryLedger.list(peer, kind, prefix))

    def freeze(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body


class Faults:
    """Faults that wait for their call: the next call of that name meets the first of them."""

    def __init__(self) -> None:
        self.armed: dict[str, deque[tuple[str, int]]] = {}
        self.met = 0

    def arm(self, call: str, mode: str, value: int) -> None:
        self.armed.setdefault(call, deque()).append((mode, value))

    def take(self, call: str) -> tuple[str, int]:
        waiting = self.armed.get(call)
        if not waiting:
            return "", 0
        self.met += 1
        return waiting.popleft()


class WallClock:
    """What the engines take for the time: the true one, and how far somebody set it forward or back."""

    def __init__(self, true: ManualClock) -> None:
        self.true = true
        self.skew = 0.0

    def now(self) -> float:
        return round(self.true.at + self.skew, 6)  # finer than a microsecond no clock on a wall is read

    def boot(self) -> Boot:
        return Boot(self.true.boot().id, self.true.booted_at + self.skew)


class Reality:
    """What is true, whatever anybody believes.

    Attributes:
        touched: fleets that a fault or their own nature made unfit: requests lost on them are not the switch's fault.
        pause: what happens while an engine stands still; set by the run.
        unrouted: nobody calls what is deployed: workers or, if `jobs`, a scheduled job.
        ran: runs of a job that ended by themselves, by fleet.
        worked: instance-seconds by fleet, of instances that ran and were not told to finish.
        stall: what happens while the store lets everybody wait; set by the run.
        fallen: fleets that a reboot ended, until one of their instances answers again: requests that they had are lost.
        edge_at: when the balancer answers again after a reboot; `forgotten`: it lost its route, and has none yet.
        late_seconds: how much longer instances may need to start since a reboot, each fleet in its own way.
    """

    def __init__(self, scenario: Scenario) -> None:
        chance = random.Random(f"{scenario.seed}/world")
        self.seed = scenario.seed
        self.jobs = of_jobs(scenario.seed)
        self.unrouted = self.jobs or of_workers(scenario.seed)
        self.ran: dict[str, int] = {}
        self.worked: dict[str, float] = {}
        self.clock = ManualClock()
        self.wall = WallClock(self.clock)
        self.platform = SimulatedPlatform(self.clock)
        self.router = SimulatedRouter(self.platform)
        self.ledger = FastLedger()
        self.faults = Faults()
        self._decoded: tuple[Any, Mapping[str, Any]] = (None, {})
        self.rate = chance.choice((0, 20, 200, 200, 200))
        self.request_seconds = chance.choice((0.1, 0.5, 1.0))
        self.touched: set[str] = set()
        self.fallen: set[str] = set()
        self.edge_at = 0.0
        self.forgotten = False
        self.late_seconds = 0.0
        self.lying: set[str] = set()
        self.born: set[str] = set()
        self.quota_until = 0.0
        self.checked: set[str] = set()
        self.kinds: dict[str, str] = {}
        self.later: list[tuple[float, str, Callable[[], None]]] = []
        self.looks: deque[list[Instance]] = deque(maxlen=REMEMBERED_LOOKS)
        self.reads: deque[Any] = deque(maxlen=REMEMBERED_LOOKS)
        self.weighted_at: dict[str, tuple[float, float]] = {}
        self.pause: Callable[[str], None] = lambda _owner: None
        self.stall: Callable[[float], None] = lambda _seconds: None
        for release in RELEASES:
            self._behave(release)

    def _behave(self, release: str) -> None:
        kind = kind_of(self.seed, release)
        self.kinds[digest(release)] = kind
        self.platform.behaviours[digest(release)] = Behaviour(
            start_seconds=5.0 if kind == "slow" else 0.5,
            healthy=kind != "sickly",
            exits="exit 1" if kind == "exits" else None,
            error_rate=0.5 if kind == "harmful" else 0.0,
        )
        if self.jobs:
            self.platform.behaviours[digest(release)] = _as_a_job(kind)

    # What is true

    @property
    def environment(self) -> Mapping[str, Any]:
        """What is remembered, to be read only: decoded once for each time it was written."""
        kept = self.ledger.documents.get(("environment", KEY))
        if kept is not self._decoded[0]:
            self._decoded = kept, {} if kept is None else self.ledger.decode(kept)
        return self._decoded[1]

    @property
    def led(self) -> int:
        """How often the environment's lease has passed on from one engine to another."""
        return self.ledger.leases.get(KEY, ("", 0, 0.0))[1]

    @property
    def route(self) -> EnvironmentRoute | None:
        return self.router.routes.get((SERVICE, ENVIRONMENT))

    def accepts(self, instance: str) -> bool:
        """Whether this instance would answer a new request now."""
        process = self.platform.processes.get(instance)
        if process is None or process.exit is not None or process.sick is not None or process.stop_at is not None:
            return False
        behaviour, age = self.platform.behaviours[process.spec.release], self.clock.at - process.started_at
        return behaviour.healthy and age >= behaviour.start_seconds + process.late_seconds

    def live(self, fleet: str) -> int:
        """Processes of a fleet that run and were not told to finish."""
        members = (p for p in self.platform.processes.values() if p.spec.fleet == fleet)
        return sum(1 for p in members if p.exit is None and p.stop_at is None)

    def in_flight(self, name: str) -> bool:
        """Whether requests that were sent to a fleet or an instance before may still be running."""
        return self.unused(name)[0] < self.request_seconds

    def unused(self, name: str) -> tuple[float, float]:
        """Seconds since a fleet or an instance last had users: in truth, and by the clock on the wall."""
        true, wall = self.weighted_at.get(name, (-1e9, -1e9))
        return self.clock.at - true, self.wall.now() - wall

    def done(self, fleet: str, release: str) -> tuple[float, float] | None:
        """What a fleet did badly, and all it did: answers to users, or a worker's work. None before it did anything."""
        if self.unrouted:
            count = self.worked.get(fleet)
            spoilt = self.platform.behaviours[release].error_rate
            return None if count is None else (count * PIECES * spoilt, count * PIECES)
        counted = self.router.counters.get(fleet)
        return None if counted is None else (float(counted.errors), float(counted.requests))

    # Effects, done for good

    def launch(self, spec: InstanceSpec, fence: Fence | None) -> None:
        self.platform.tokens.check(fence)
        if spec.id in self.born:
            return  # an id names one instance for ever
        self.born.add(spec.id)
        self.platform.launch(spec)
        self.platform.processes[spec.id].late_seconds = self.late_seconds * (crc32(spec.fleet.encode()) % 3) / 2
        kind = self.kinds.get(spec.release, "good")
        if kind in ("exits", "sickly", "frail"):
            self.touched.add(spec.fleet)

    def apply(self, route: EnvironmentRoute, fence: Fence | None) -> None:
        self.platform.tokens.check(fence)
        self._weigh()
        self.later = [entry for entry in self.later if entry[1] != "route"]
        self.forgotten = False
        self.router.apply(route)
        self._weigh()

    def remove(self, fence: Fence | None) -> None:
        self.platform.tokens.check(fence)
        self._weigh()
        self.later = [entry for entry in self.later if entry[1] != "route"]
        self.router.remove(SERVICE, ENVIRONMENT)

    def delay(self, seconds: float, what: str, do: Callable[[], None]) -> None:
        """Let an effect happen later. A later write of the route supersedes one that is still under way."""
        if what == "route":
            self.later = [entry for entry in self.later if entry[1] != "route"]
        self.later.append((self.clock.at + seconds, what, do))

    def _weigh(self) -> None:
        route = self.route
        for fleet in route.fleets if route is not None else ():
            if fleet.weight_basis_points:
                met = (fleet.fleet, *(e.instance for e in fleet.endpoints))
                self.weighted_at.update(dict.fromkeys(met, (self.clock.at, self.wall.now())))

    # Time and users

    def advance(self, seconds: float) -> int:
        """Let time and users go on. Returns: requests lost that no fault explains."""
        self.clock.advance(seconds)
        for process in self.platform.processes.values():
            if process.exit is None and process.stop_at is None:
                self.worked[process.spec.fleet] = self.worked.get(process.spec.fleet, 0.0) + seconds
        for entry in [e for e in self.later if e[0] <= self.clock.at]:
            if entry in self.later:
                self.later.remove(entry)
                with suppress(RebakeError):  # refused, as from an engine that leads no more: nobody is there to be told
                    entry[2]()
        for name, process in list(self.platform.processes.items()):
            limit = self.platform.behaviours[process.spec.release].runs_seconds
            if process.stop_at is not None and self.clock.at >= process.stop_at:
                del self.platform.processes[name]
            elif limit is not None and process.exit is None and self.clock.at - process.started_at >= limit:
                process.exit = self.platform.behaviours[process.spec.release].ends
                self.ran[process.spec.fleet] = self.ran.get(process.spec.fleet, 0) + 1
            elif self._is_frail(process) and self.clock.at - process.started_at > FRAIL_SECONDS:
                process.exit = "exit 3"
        return self._serve(round(self.rate * min(seconds, 2.0)))

    def _is_frail(self, process: Any) -> bool:
        return not self.jobs and self.kinds.get(process.spec.release) == "frail" and process.exit is None

    def _serve(self, requests: int) -> int:
        if self.clock.at < self.edge_at:
            return 0  # nobody is there to be called, or to count
        route, lost = self.route, 0
        met: dict[str, Arm] = {}
        pairs: dict[str, Pairs] = {}
        self._weigh()
        for fleet in route.fleets if route is not None else ():
            if not fleet.weight_basis_points:
                if route is not None and route.mirror is not None and route.mirror.fleet == fleet.fleet:
                    pairs[fleet.fleet] = self._copied(fleet, requests * route.mirror.share_basis_points // FULL)
                continue
            share = self.router._even("share", fleet.fleet, requests * fleet.weight_basis_points / FULL)
            accepting = [e.instance for e in fleet.endpoints if self.accepts(e.instance)]
            if accepting:
                self.fallen.discard(fleet.fleet)
                met[fleet.fleet] = self._count(self.router.counters, fleet.fleet, share, accepting)
                continue
            met[fleet.fleet] = Arm(share, share)  # the balancer itself answers: the fleet has nobody
            if fleet.fleet not in self.touched | self.fallen:
                lost += max(share, 1)
        if route is not None and (met or pairs):
            weights = {f.fleet: f.weight_basis_points for f in route.fleets if f.weight_basis_points}
            self.router.records.append(Sample(int(self.wall.now()), weights, met, pairs))
        return lost

    def _copied(self, fleet: FleetRoute, copies: int) -> Pairs:
        """What becomes of copies: the release's own failures, each beside a good answer of stable."""
        instances = [e.instance for e in fleet.endpoints]
        counted = self._count({}, f"copies of {fleet.fleet}", copies, instances)
        return Pairs(counted.n, failed=(0, counted.errors, 0), instances=tuple(instances))

    def _count(self, counters: dict[str, Counters], fleet: str, share: int, instances: list[str]) -> Arm:
        process = self.platform.processes.get(instances[0]) if instances else None
        if process is None:
            return Arm(0, 0)
        errors = self.router._even("errors", fleet, share * self.platform.behaviours[process.spec.release].error_rate)
        before = counters.get(fleet, Counters())
        counters[fleet] = Counters(before.requests + share, before.errors + errors)
        return Arm(share, errors)

    # What goes wrong by itself

    def members(self, cohort: str) -> list[str]:
        fleet = self.environment.get(cohort)
        if fleet is None:
            return []
        return [n for n, p in self.platform.processes.items() if p.spec.fleet == fleet["id"] and p.exit is None]

    def harm(self, what: str, cohort: str, value: int) -> None:
        """Break instances of a cohort: `die`, `die-all`, `hang`, `lie`, `drift`."""
        members = self.members(cohort)
        if not members:
            return
        for name in members if what == "die-all" else [members[value % len(members)]]:
            process = self.platform.processes[name]
            if what != "drift":
                self.touched.add(process.spec.fleet)
            if what in ("die", "die-all"):
                process.exit = "killed by SIGKILL"
            elif what in ("hang", "lie"):
                process.sick = "GET /healthz: timed out"
                if what == "lie":
                    self.lying.add(name)
                self.later.append((self.clock.at + value, "recover", lambda p=process: setattr(p, "sick", None)))  # type: ignore[misc]
            else:
                process.drift = (Drift("file-changed", "app/main.py"),)

    def rot(self, cohort: str) -> None:
        """The release of a cohort never works again: a full disk, a lost database. Its fix is another release; `a`
        works for ever."""
        fleet = self.environment.get(cohort)
        release = fleet and fleet["revision"]["release"]
        if release is None or release == digest("a"):
            return
        self.kinds[release] = "sickly"
        self.platform.behaviours[release].healthy = False
        self.platform.behaviours[release].ends = "exit 1"
        self.touched |= {p.spec.fleet for p in self.platform.processes.values() if p.spec.release == release}

    def sour(self, cohort: str) -> None:
        """The release of a cohort begins to fail half of its requests, as when a certificate ends."""
        fleet = self.environment.get(cohort)
        release = fleet and fleet["revision"]["release"]
        if release is not None and release != digest("a") and self.kinds[release] == "good" and not self.unrouted:
            self.kinds[release] = "sour"
            self.platform.behaviours[release].error_rate = 0.5

    def stranger(self, value: int) -> None:
        """Somebody starts an instance with our mark."""
        spec = next((p.spec for p in self.platform.processes.values()), None)
        if spec is not None:
            name = f"stranger-{value}"
            copy = InstanceSpec(
                name, SERVICE, ENVIRONMENT, f"r-stranger-{value}", spec.revision, spec.release, spec.run
            )
            self.platform.launch(copy)

    def reroute(self) -> None:
        """Somebody changes the route by hand."""
        route = self.route
        if route is not None:
            from dataclasses import replace

            self.router.routes[SERVICE, ENVIRONMENT] = replace(route, listen="127.0.0.1:9")

    def restart_edge(self) -> None:
        """The balancer starts again: same route, counters from zero."""
        self.router.epoch = str(int(self.router.epoch) + 1)
        self.router.counters.clear()

    def reboot(self, seconds: int, *, forgetful: bool) -> None:
        """The machine starts again: all that ran on it is gone at once, and comes up slowly.

        Args:
            seconds: until the balancer answers, and how much longer instances may need to start.
            forgetful: the balancer lost its route, too.
        """
        self.clock.reboot()
        for name, process in list(self.platform.processes.items()):
            if process.stop_at is not None:
                del self.platform.processes[name]
            else:
                process.exit = process.exit or "exit unknown"
        route = self.route
        self.fallen = {f.fleet for f in route.fleets} if route is not None else set()
        self.edge_at, self.late_seconds = self.clock.at + seconds, float(seconds)
        self.later.clear()
        self.looks.clear()
        self.reads.clear()
        self.lying.clear()
        self.weighted_at.clear()
        self.restart_edge()
        self.forgotten = forgetful and bool(self.router.routes)
        if forgetful:
            self.router.routes.clear()

    def heal(self) -> None:
        """Nothing goes wrong any more; what is broken by its own nature stays so."""
        self.faults.armed.clear()
        self.quota_until = self.late_seconds = 0.0
        self.lying.clear()
        for process in self.platform.processes.values():
            process.sick = None
        self.later = [entry for entry in self.later if entry[1] != "recover"]


def _as_a_job(kind: str) -> Behaviour:
    """How the runs of such a release go; some never end."""
    seconds = {"slow": 4.0, "sickly": 1e9, "frail": 1e9, "exits": 0.1}.get(kind, 1.0)
    return Behaviour(start_seconds=0.2, runs_seconds=seconds, ends="exit 3" if kind in FAILING_JOBS else "exit 0")
