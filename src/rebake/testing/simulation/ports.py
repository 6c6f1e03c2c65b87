"""The engine's ports over the simulated world, one set for each engine. Every call meets its fault here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from rebake.errors import Permanent, RebakeError, Transient
from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.ports import Question
from rebake.ledger.ports import Draft, Entry, Fence, Put
from rebake.platforms.model import Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.release.manifest import Release
from rebake.rollout.jobs import Work, guarded
from rebake.rollout.world import Job
from rebake.testing.simulation.scenario import KEY, SILENT
from rebake.testing.simulation.watch import Watch
from rebake.testing.simulation.world import Killed, Reality
from rebake.traffic.ports import EnvironmentRoute, RouteObservation, Samples

CHECK_SECONDS = 0.4


def _away(call: str) -> Transient:
    return Transient(f"{call}-failed", f"{call} did not answer", retry_after_seconds=0.5)


def _refused(call: str) -> Permanent:
    return Permanent(f"{call}-refused", f"{call} is not allowed", remedy="allow it")


def _full() -> Permanent:
    return Permanent("disk-full", "no space left for the ledger", remedy="free some space")


class _Port:
    def __init__(self, reality: Reality, watch: Watch, owner: str) -> None:
        self.reality = reality
        self.watch = watch
        self.owner = owner

    def effect(self, call: str, what: str, do: Callable[[], None], action: str = "") -> None:
        """Do an effect, or what its fault makes of it; the watch is told what the engine was told of it."""
        done = self.watch.keeping.of(self.owner).done
        try:
            self._meet(call, what, do)
        except RebakeError:
            done[action] = False
            raise
        done[action] = True

    def _meet(self, call: str, what: str, do: Callable[[], None]) -> None:
        reality = self.reality
        mode, value = reality.faults.take(call)
        if mode == "kill-before":
            raise Killed(call)
        if mode == "kill-during":
            if value % 2:
                reality.delay(value / 10, what, do)
            raise Killed(call)
        if mode == "failed":
            raise _away(call)
        if mode == "refused":
            raise _refused(call)
        if mode == "lost":
            return
        if mode in ("delayed", "failed-late"):
            reality.delay(value, what, do)
            if mode == "failed-late":
                raise _away(call)
            return
        if mode == "pause-before":
            reality.pause(self.owner)
        do()
        self._afterwards(call, mode, do)

    def _afterwards(self, call: str, mode: str, do: Callable[[], None]) -> None:
        if mode == "twice":
            do()
        elif mode == "kill-after":
            raise Killed(call)
        elif mode == "failed-done":
            raise _away(call)
        elif mode == "refused-done":
            raise _refused(call)
        elif mode == "pause-after":
            self.reality.pause(self.owner)

    def store(self, call: str) -> None:
        """A call of the store meets its fault: it fails, or lets time pass."""
        mode, value = self.reality.faults.take(call)
        if mode == "failed":
            raise _away(call)
        if mode == "full":
            raise _full()
        if mode == "slow":
            self.reality.stall(value)


class FaultyPlatform(_Port):
    name = "simulated"

    def prepare(self, release: Release, progress: Progress) -> None:
        self.watch.effect(self.owner, "prepare", release.digest)
        self._meet("prepare", "prepare", lambda: self.reality.platform.prepare(release, progress))

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        self.watch.carries(fence)
        self.watch.launch(self.owner, spec)
        self.effect("launch", "launch", lambda: self._launch(spec, fence), f"launch:{spec.id}")

    def _launch(self, spec: InstanceSpec, fence: Fence | None) -> None:
        if self.reality.clock.at < self.reality.quota_until:
            raise Permanent("quota", "the platform is out of quota", where=spec.id, remedy="ask for more")
        self.reality.launch(spec, fence)

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        self.watch.carries(fence)
        self.watch.retire(self.owner, instance, grace_ms)
        platform = self.reality.platform
        self.effect("retire", "retire", lambda: platform.retire(instance, grace_ms, fence=fence), f"retire:{instance}")

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        reality = self.reality
        mode, value = reality.faults.take("observe")
        if mode == "failed":
            raise _away("observe")
        found = [self._said(i) for i in reality.platform._look(service, environment)]
        reality.looks.append(found)
        if mode == "stale":
            found = reality.looks[max(0, len(reality.looks) - 1 - value)]
        elif mode == "partial" and found:
            del (found := list(found))[value % len(found)]
        self.watch.shown(self.owner, found, honest=not mode)
        return found

    def _said(self, instance: Instance) -> Instance:
        """An instance that lies says that it is healthy."""
        if instance.id not in self.reality.lying or instance.state in ("exited", "stopping"):
            return instance
        return replace(instance, state="running", healthy=True, was_healthy=True)

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(addresses)

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        return self.reality.platform._look(service, environment)

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        return [f"log of {instance}"][:lines]


class FaultyRouter(_Port):
    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        self.watch.carries(fence)
        self.watch.apply(self.owner, route)
        self.effect("apply", "route", lambda: self.reality.apply(route, fence), f"route:{route.version}")

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        self.watch.carries(fence)
        self.watch.effect(self.owner, "remove-route", KEY)
        self.effect("remove", "route", lambda: self.reality.remove(fence), f"remove-route:{KEY}")

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        reality = self.reality
        mode, value = reality.faults.take("read")
        if mode == "failed" or reality.clock.at < reality.edge_at:
            raise _away("read")
        route = reality.route
        fleets = [] if route is None else [f.fleet for f in route.fleets]
        reality.router.active = {fleet: 1 for fleet in fleets if reality.in_flight(fleet)}
        seen = reality.router.observe(service, environment)
        reality.reads.append(seen)
        if mode == "partial" and seen is not None:
            seen = replace(seen, healthy={}, counters={})
        elif mode == "stale":
            seen = reality.reads[max(0, len(reality.reads) - 1 - value)]
            if seen is not None:  # what is in flight a balancer counts itself, or it says that it does not count
                seen = replace(seen, active=dict(reality.router.active))
        self.watch.read(self.owner, seen)
        return seen

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        if self.reality.faults.take("samples")[0] == "failed":
            raise _away("samples")
        return self.reality.router.samples(service, environment, cursor)

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        self.reality.router.forget_samples(service, environment, cursor)


class FaultySource(_Port):
    """A metric of the service's own that says what was done badly, of all: answers to users, or a worker's work."""

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        mode, value = self.reality.faults.take("metric")
        if mode == "failed" or question.rule.name == SILENT:
            raise _away("metric")
        found: dict[CohortName, Side] = {}
        for name, cohort in question.cohorts.items():
            counted = self.reality.done(cohort.fleet, cohort.release)
            if counted is not None and not (mode == "partial" and value % 2):
                found[name] = Side(counters={cohort.fleet: counted})
        return found


class FaultyJobs(_Port):
    """Jobs of one engine; they die with it. A check takes a while and ends as the release deserves."""

    def __init__(self, reality: Reality, watch: Watch, owner: str) -> None:
        super().__init__(reality, watch, owner)
        self.jobs: dict[str, tuple[float, Job]] = {}

    def start(self, job: str, work: Work, on_end: Callable[[], None]) -> None:
        if job in self.jobs:
            return
        if job.startswith("check:"):
            rollout, _, name = job.removeprefix("check:").partition(":")
            self.watch.effect(self.owner, "check", f"{rollout}:{name}")
            passes = self.watch.kind_of_rollout(rollout) != "unchecked"
            result = Job("done") if passes else Job("failed", "expected status 200, found 500")
            self.effect("check", "check", lambda: self._check(job, result), job)
        else:
            self.jobs[job] = (self.reality.clock.at, guarded(work, _never()))
        on_end()

    def _check(self, job: str, result: Job) -> None:
        self.jobs.setdefault(job, (self.reality.clock.at + CHECK_SECONDS, result))

    def results(self, prefix: str) -> dict[str, Job]:
        now = self.reality.clock.at
        found = {}
        for name, (at, job) in self.jobs.items():
            if not name.startswith(prefix):
                continue
            found[name] = job if now >= at else Job("running")
            if now >= at and job.state == "done" and name.startswith("check:"):
                self.reality.checked.add(name)
        return found

    def forget(self, prefix: str) -> None:
        for name in [n for n in self.jobs if n.startswith(prefix)]:
            del self.jobs[name]


def _never() -> Any:
    import threading

    return threading.Event()


class FaultyLedger(_Port):
    """The one ledger, as one engine reaches it."""

    def commit(
        self,
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        *,
        at: float,
        fence: Fence | None = None,
        durable: bool = True,
    ) -> Sequence[Entry]:
        reality = self.reality
        mode, value = reality.faults.take("commit")
        if mode == "kill-before":
            raise Killed("commit")
        if mode == "failed":
            raise _away("commit")
        if mode == "full":
            raise _full()
        if mode == "slow":
            reality.stall(value)
        if mode == "pause-before":
            reality.pause(self.owner)
        added = reality.ledger.commit(entries, puts, at=at, fence=fence, durable=durable)
        self.watch.committed(self.owner, entries, puts)
        if mode == "kill-after":
            raise Killed("commit")
        if mode == "failed-done":
            raise _away("commit")
        if mode == "pause-after":
            reality.pause(self.owner)
        return added

    def get(self, kind: str, key: str) -> Mapping[str, Any] | None:
        return self.reality.ledger.get(kind, key)

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        self.store("list")
        return self.reality.ledger.list(kind, prefix)

    def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
        self.store("lease")
        return self.reality.ledger.lease(key, owner, at=at, ttl_seconds=ttl_seconds, reason=reason)

    def release_lease(self, fence: Fence) -> None:
        self.reality.ledger.release_lease(fence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reality.ledger, name)
