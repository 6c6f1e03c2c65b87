"""A simulated world behind the engine's ports: platform, route, jobs, ledger and clock, in memory, driven by hand.

Everything is a pure function of the calls made and the clock's hand: no thread, no sleep, no chance of its own.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from rebake.core.canonical import canonical
from rebake.core.clock import Boot, Clock
from rebake.core.units import FULL
from rebake.errors import LedgerConflict
from rebake.judge.samples import Arm, Pairs
from rebake.ledger.fencing import Tokens
from rebake.ledger.ports import Draft, Entry, EntryKind, Fence, Lease, Put, Verification, unheard
from rebake.platforms.model import Drift, Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.release.manifest import Release, RunContract
from rebake.rollout.jobs import Work, guarded
from rebake.rollout.world import Job
from rebake.traffic.ports import Counters, EnvironmentRoute, RouteObservation, Sample, Samples


class ManualClock:
    """A clock that moves when it is told to, of a machine that was booted when it began."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = self.booted_at = at
        self.boots = 1

    def now(self) -> float:
        return self.at

    def boot(self) -> Boot:
        return Boot(f"boot-{self.boots}", self.booted_at)

    def advance(self, seconds: float) -> None:
        self.at += seconds

    def set(self, by: float) -> None:
        """Somebody sets it: no time passes."""
        self.at += by
        self.booted_at += by

    def reboot(self) -> None:
        """The machine is started again, at once."""
        self.boots += 1
        self.booted_at = self.at


@dataclass(slots=True)
class Behaviour:
    """How instances of one release behave.

    Attributes:
        start_seconds: from launch to the first healthy answer.
        healthy: whether it ever passes its health check.
        exits: how it ends at once, instead of starting.
        error_rate: share of users' requests it fails.
        runs_seconds: after this long it ends by itself, as a run of a job does; None: it never does.
        ends: how it ends then.
    """

    start_seconds: float = 1.0
    healthy: bool = True
    exits: str | None = None
    error_rate: float = 0.0
    runs_seconds: float | None = None
    ends: str = "exit 0"


@dataclass(slots=True)
class _Process:
    spec: InstanceSpec
    started_at: float
    stop_at: float | None = None
    exit: str | None = None
    sick: str | None = None
    was_healthy: bool = False
    drift: tuple[Drift, ...] = ()
    late_seconds: float = 0.0


class SimulatedPlatform:
    """Instances that exist only as values."""

    name = "simulated"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.behaviours: dict[str, Behaviour] = {}
        self.processes: dict[str, _Process] = {}
        self.prepared: set[str] = set()
        self.launches: list[str] = []
        self.tokens = Tokens()
        self.fail: Callable[[str, str], None] = lambda _call, _subject: None

    def behaviour(self, release: str) -> Behaviour:
        return self.behaviours.setdefault(release, Behaviour())

    def prepare(self, release: Release, progress: Progress) -> None:
        self.fail("prepare", release.digest)
        progress(f"prepared {release.digest}")
        self.prepared.add(release.digest)

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        self.tokens.check(fence)
        self.fail("launch", spec.id)
        if spec.id in self.processes:
            return
        self.launches.append(spec.id)
        process = self.processes[spec.id] = _Process(spec, self.clock.now())
        process.exit = self.behaviour(spec.release).exits

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        self.fail("observe", f"{service}/{environment}")
        return self._look(service, environment)

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Instances are on this machine. See `Platform.reach`."""
        return nullcontext(addresses)

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        return self._look(service, environment)

    def _look(self, service: str, environment: str) -> Sequence[Instance]:
        now = self.clock.now()
        for name in [n for n, p in self.processes.items() if p.stop_at is not None and now >= p.stop_at]:
            del self.processes[name]
        return [
            self._instance(process, number, now)
            for number, process in enumerate(self.processes.values())
            if process.spec.service == service and process.spec.environment == environment
        ]

    def _instance(self, process: _Process, number: int, now: float) -> Instance:
        behaviour = self.behaviour(process.spec.release)
        age = now - process.started_at
        if behaviour.runs_seconds is not None and age >= behaviour.runs_seconds:
            process.exit = process.exit or behaviour.ends
        awake = age >= behaviour.start_seconds + process.late_seconds
        up = behaviour.healthy and process.sick is None and process.exit is None and awake
        process.was_healthy = process.was_healthy or up
        state = "running" if process.was_healthy else "starting"
        if process.stop_at is not None:
            state = "stopping"
        if process.exit is not None:
            state = "exited"
        return Instance(
            id=process.spec.id,
            fleet=process.spec.fleet,
            revision=process.spec.revision,
            state=state,  # type: ignore[arg-type]
            address=f"127.0.0.1:{20_000 + number}",
            healthy=up,
            was_healthy=process.was_healthy,
            started_at=process.started_at,
            exit=process.exit,
            detail=process.sick or (None if up else "GET /healthz: connection refused"),
            drift=process.drift,
        )

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        self.tokens.check(fence)
        self.fail("retire", instance)
        process = self.processes.get(instance)
        if process is None:
            return
        if process.exit is not None:
            del self.processes[instance]
        elif process.stop_at is None:
            process.stop_at = self.clock.now() + min(0.2, grace_ms / 1000)

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        return [f"log of {instance}"][:lines]

    # What a test does to it

    def kill(self, instance: str, how: str = "killed by SIGKILL") -> None:
        self.processes[instance].exit = how

    def make_sick(self, instance: str, detail: str = "GET /healthz answered 500") -> None:
        self.processes[instance].sick = detail

    def tamper(self, instance: str, drift: Drift) -> None:
        self.processes[instance].drift = (drift,)


class SimulatedRouter:
    """A balancer that takes a route over at once, sees what the platform shows, and counts the requests it is given."""

    def __init__(self, platform: SimulatedPlatform) -> None:
        self.platform = platform
        self.routes: dict[tuple[str, str], EnvironmentRoute] = {}
        self.history: list[EnvironmentRoute] = []
        self.counters: dict[str, Counters] = {}
        self.copied: dict[str, int] = {}
        self.active: dict[str, int] = {}
        self.epoch = "1"
        self.records: list[Sample] = []
        self._forgotten = 0
        self._owed: dict[tuple[str, str], float] = {}
        self.lost = 0
        self.fail: Callable[[str, str], None] = lambda _call, _subject: None

    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        self.platform.tokens.check(fence)
        self.fail("apply", route.version)
        self.routes[route.service, route.environment] = route
        self.history.append(route)

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        self.platform.tokens.check(fence)
        self.routes.pop((service, environment), None)

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        self.fail("read", f"{service}/{environment}")
        route = self.routes.get((service, environment))
        if route is None:
            return None
        up = {i.id for i in self.platform._look(service, environment) if i.healthy}
        weights = {f.fleet: f.weight_basis_points for f in route.fleets}
        return RouteObservation(
            version=route.version,
            weights=weights,
            healthy={f.fleet: frozenset(e.instance for e in f.endpoints if e.instance in up) for f in route.fleets},
            unhealthy={
                f.fleet: frozenset(e.instance for e in f.endpoints if e.instance not in up) for f in route.fleets
            },
            active=dict(self.active),
            counters=dict(self.counters),
            epoch=self.epoch,
            listening=sum(weights.values()) == FULL,
        )

    def serve(self, service: str, environment: str, requests: int) -> None:
        """Send users' requests: shared by weight, failed by each release's error rate, both as evenly as can be."""
        route = self.routes.get((service, environment))
        up = {i.id: i for i in self.platform._look(service, environment)}
        if route is None or not any(f.weight_basis_points for f in route.fleets):
            self.lost += requests
            return
        met: dict[str, Arm] = {}
        for fleet in route.fleets:
            share = self._even("share", fleet.fleet, requests * fleet.weight_basis_points / FULL)
            serving = [e.instance for e in fleet.endpoints if e.instance in up and up[e.instance].healthy]
            if not serving:
                self.lost += share
                continue
            release = self.platform.processes[serving[0]].spec.release
            errors = self._even("errors", fleet.fleet, share * self.platform.behaviour(release).error_rate)
            before = self.counters.get(fleet.fleet, Counters())
            self.counters[fleet.fleet] = Counters(before.requests + share, before.errors + errors)
            met[fleet.fleet] = Arm(share, errors)
        weights = {f.fleet: f.weight_basis_points for f in route.fleets if f.weight_basis_points}
        pairs = self._copied(route, requests, up)
        self.records.append(Sample(int(self.platform.clock.now()), weights, met, pairs))

    def _copied(self, route: EnvironmentRoute, requests: int, up: Mapping[str, Instance]) -> dict[str, Pairs]:
        """Copies of some of the requests, failed by the release of whom they are given to; never on the originals."""
        if route.mirror is None:
            return {}
        name = route.mirror.fleet
        copies = self._even("copies", name, requests * route.mirror.share_basis_points / FULL)
        instances = [e.instance for f in route.fleets if f.fleet == name for e in f.endpoints if e.instance in up]
        rate = 1.0
        if instances:
            rate = self.platform.behaviour(self.platform.processes[instances[0]].spec.release).error_rate
        failed = self._even("failed copies", name, copies * rate)
        self.copied[name] = self.copied.get(name, 0) + copies
        return {name: Pairs(copies, failed=(0, failed, 0), instances=tuple(instances))}

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        self.fail("samples", f"{service}/{environment}")
        place = max(0, (cursor or {}).get("place", 0) - self._forgotten)
        return Samples(tuple(self.records[place:]), {"place": self._forgotten + len(self.records)})

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        gone = max(0, cursor["place"] - self._forgotten)
        del self.records[:gone]
        self._forgotten += gone

    def _even(self, what: str, fleet: str, amount: float) -> int:
        """Whole requests now, the rest with the next ones."""
        owed = self._owed.get((what, fleet), 0.0) + amount
        self._owed[what, fleet] = owed - int(owed)
        return int(owed)


class InlineJobs:
    """Jobs that run when they are started."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.scripted: dict[str, Job] = {}

    def start(self, job: str, work: Work, on_end: Callable[[], None]) -> None:
        if job in self.jobs:
            return
        name = job.rpartition(":")[2]
        self.jobs[job] = self.scripted.get(name) or guarded(work, threading.Event())
        on_end()

    def results(self, prefix: str) -> dict[str, Job]:
        return {name: job for name, job in self.jobs.items() if name.startswith(prefix)}

    def forget(self, prefix: str) -> None:
        for name in [n for n in self.jobs if n.startswith(prefix)]:
            del self.jobs[name]


@dataclass(slots=True)
class MemoryLedger:
    """A ledger in memory, as strict as the real one about fences and JSON; its chain is not hashed."""

    rows: list[Entry] = field(default_factory=list)
    documents: dict[tuple[str, str], Any] = field(default_factory=dict)
    leases: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    fail: Callable[[str], None] = lambda _call: None

    def commit(
        self,
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        *,
        at: float,
        fence: Fence | None = None,
        durable: bool = True,
    ) -> Sequence[Entry]:
        self.fail("commit")
        if fence is not None and self.leases.get(fence.key, ("", 0, 0.0))[1] != fence.token:
            raise LedgerConflict("lease-lost", "the lease was taken over", where=fence.key)
        added = [self._entry(len(self.rows) + n, draft, at) for n, draft in enumerate(entries, 1)]
        for put in puts:
            if put.doc is None:
                self.documents.pop((put.kind, put.key), None)
            else:
                self.documents[put.kind, put.key] = self.encode(put.doc)
        self.rows += added
        return added

    def encode(self, doc: Mapping[str, Any]) -> Any:
        """A document as it is kept: frozen, so that nobody changes it through a reference."""
        return json.dumps(doc)

    def decode(self, kept: Any) -> Any:
        return json.loads(kept)

    def freeze(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """An entry's body as a reader gets it back."""
        frozen: Mapping[str, Any] = json.loads(canonical(body))  # the chain hashes no float
        return frozen

    def _entry(self, seq: int, draft: Draft, at: float) -> Entry:
        body = self.freeze(draft.body)
        kind: EntryKind = draft.kind
        return Entry(seq, int(at * 1000), kind, draft.service, draft.environment, draft.rollout, body, "", str(seq))

    def get(self, kind: str, key: str) -> Mapping[str, Any] | None:
        kept = self.documents.get((kind, key))
        return None if kept is None else self.decode(kept)

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        found = sorted((k, kept) for (kd, k), kept in self.documents.items() if kd == kind and k.startswith(prefix))
        return [(key, self.decode(kept)) for key, kept in found]

    def keys(self, kind: str, prefix: str = "") -> Sequence[str]:
        return [key for key, _ in self.list(kind, prefix)]

    def newest(self, kind: str, prefix: str, limit: int) -> Sequence[tuple[str, Mapping[str, Any]]]:
        return self.list(kind, prefix)[::-1][:limit]

    def entries(
        self,
        *,
        service: str | None = None,
        environment: str | None = None,
        rollout: str | None = None,
        kinds: Sequence[EntryKind] = (),
        after: int = 0,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> Sequence[Entry]:
        rows = [
            e
            for e in self.rows
            if e.seq > after
            and service in (None, e.service)
            and environment in (None, e.environment)
            and rollout in (None, e.rollout)
            and (not kinds or e.kind in kinds)
        ]
        return (rows[::-1] if newest_first else rows)[:limit]

    def head(self) -> tuple[int, str]:
        return (self.rows[-1].seq, self.rows[-1].hash) if self.rows else (0, "")

    def verify(self, *, expect_head: str | None = None, progress: Callable[[int], None] = unheard) -> Verification:
        progress(len(self.rows))
        return Verification(len(self.rows), self.head()[1])

    def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
        holder, token, until = self.leases.get(key, ("", 0, 0.0))
        if holder not in ("", owner) and at < until:
            return None
        if holder != owner:
            token, self.since[key] = token + 1, at
        self.leases[key], self.reasons[key] = (owner, token, at + ttl_seconds), reason
        return Fence(key, token)

    def release_lease(self, fence: Fence) -> None:
        holder, token, _ = self.leases.get(fence.key, ("", 0, 0.0))
        if token == fence.token and holder:
            self.leases[fence.key] = ("", token, 0.0)  # the token goes on counting: an old fence stays stale

    def held(self, *, at: float) -> Sequence[Lease]:
        held = sorted((key, *lease) for key, lease in self.leases.items() if lease[0] and at < lease[2])
        return [Lease(k, owner, token, self.reasons[k], self.since[k], until) for k, owner, token, until in held]

    def copy(self) -> MemoryLedger:
        """What a crash leaves behind."""
        return replace(self, rows=list(self.rows), documents=dict(self.documents), leases=copy.deepcopy(self.leases))


def simulated_release(digest: str, service: str = "shop", run: RunContract | None = None) -> Release:
    """A release that exists only by name."""
    contract = run or RunContract(("serve",), port=8080)
    return Release(digest=digest, service=service, builder="files", run=contract, layers=())


__all__ = [
    "Behaviour",
    "InlineJobs",
    "ManualClock",
    "MemoryLedger",
    "SimulatedPlatform",
    "SimulatedRouter",
    "simulated_release",
]
