"""The thin shell around `decide`: observe, decide, record the intent, act, record the outcome.

A tick is safe at any time, so a crash is only a late tick. Everything remembered is in the ledger before anything is
done with it; what is only in memory here (pacing, caches, running jobs) can be lost without harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from zlib import crc32

from rebake.core.clock import Clock
from rebake.core.codec import dump, load
from rebake.core.units import format_share
from rebake.errors import LedgerConflict, Permanent, RebakeError, Transient
from rebake.judge.metric_readings import Reading
from rebake.ledger.ports import Draft, EntryKind, Fence, Ledger, Put
from rebake.platforms.model import Drift
from rebake.platforms.ports import Platform
from rebake.release.manifest import Release
from rebake.rollout.actions import Action, ApplyRoute, Decision, Launch, Prepare, RemoveRoute, Retire, RunCheck
from rebake.rollout.checks import run_check
from rebake.rollout.decide import decide
from rebake.rollout.documents import Documents
from rebake.rollout.groups import going_back
from rebake.rollout.homes import Homes
from rebake.rollout.inspections import Inspections
from rebake.rollout.jobs import Jobs, Work
from rebake.rollout.judging import JUDGED, Judging
from rebake.rollout.metering import Metering, Sources
from rebake.rollout.places import is_vacant
from rebake.rollout.recording import Recording
from rebake.rollout.route import desired_route, weights
from rebake.rollout.shares import has_route
from rebake.rollout.states import State
from rebake.rollout.view import Doc, environment_view, rollout_view
from rebake.rollout.world import Command, Environment, Freeze, Job, Mate, Place, Rollout, World
from rebake.traffic.ports import RouteObservation, TrafficRouter

LEASE_SECONDS = 15.0
SAVE_JUDGE_SECONDS = 2.0
TAIL_LINES = 20
PACE_SECONDS = 3.0
STALE_SECONDS = 2.0
"""A look that is older than this is not believed when an instance is to be ended."""
IDLE_SECONDS = 60.0
"""An environment that serves nothing is looked at this often."""
LOOKS_TOGETHER = 25
"""Idle environments that are looked at in one waking, about."""
ELSEWHERE_SECONDS = 3600.0
"""How often a home looks whether an environment of another one has become its own; a deploy here looks at once."""

_AGAIN_SECONDS: Mapping[type, float] = {ApplyRoute: 1.0, RemoveRoute: 1.0, Retire: 0.5, Launch: 5.0}
"""A repeated action is sent again no sooner than this: the world needs a moment to show it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What the engine works with. Real adapters in the agent, simulated ones in the tests.

    Attributes:
        owner: who holds the leases: engines that may live at the same time have different names.
        lease_seconds: how long an engine may stand still before another one may lead; the same for all of a ledger.
        sources: of the service's own metrics.
        place: the home that platforms and router act in; None where they are the same from everywhere.
    """

    ledger: Ledger
    platforms: Mapping[str, Platform]
    router: TrafficRouter
    jobs: Jobs
    clock: Clock
    release: Callable[[str], Release]
    owner: str
    place: Place | None = None
    lease_seconds: float = LEASE_SECONDS
    sources: Sources = Sources()

    @property
    def renew_seconds(self) -> float:
        """How long a lease is taken for granted before it is renewed."""
        return self.lease_seconds / 3


@dataclass(slots=True)
class _Attempt:
    """Pacing of one action, tried last `at`."""

    at: float
    next_at: float
    error: str | None = None


@dataclass(slots=True)
class Pace:
    """How many requests a second the environment gets, from its own counters: a hint for the ramp, never evidence."""

    at: float = 0.0
    total: int = 0
    per_second: float = 0.0

    def look(self, route: RouteObservation | None, now: float) -> float:
        total = sum(c.requests for c in route.counters.values()) if route is not None else 0
        if total < self.total or not self.at or now < self.at:
            self.at, self.total = now, total
        elif now - self.at >= PACE_SECONDS:
            self.per_second = (total - self.total) / (now - self.at)
            self.at, self.total = now, total
        return self.per_second


@dataclass(slots=True)
class Memory:
    """What the engine holds of one environment between ticks. The document in the ledger is the truth."""

    environment: Environment
    world: World = field(default_factory=World)
    judging: Judging | None = None
    judging_saved_at: float = 0.0
    attempts: dict[str, _Attempt] = field(default_factory=dict)
    blocked: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    fence: Fence | None = None
    fence_until: float = 0.0
    inspect_at: float = 0.0
    looked_at: float = 0.0
    pace: Pace = field(default_factory=Pace)
    recording: Recording = field(default_factory=Recording)
    metering: Metering | None = None
    documents: Documents = field(default_factory=Documents)
    lock: threading.RLock = field(default_factory=threading.RLock)


class _LedAnew(Exception):
    """The lease was taken anew: another engine may have led since what is remembered here was read."""


class Engine:
    """Drives every environment of one ledger.

    Args:
        on_change: called after every tick that changed what a view shows.
    """

    def __init__(self, ports: Ports, on_change: Callable[[str], None] = lambda _key: None) -> None:
        self.ports = ports
        self.on_change = on_change
        self.wake: Callable[[str], None] = lambda _key: None
        self._memories: dict[str, Memory] = {}
        self._unread: set[str] = set()
        self._inspections = Inspections(ports.jobs, self._drifted)
        self._lock = threading.Lock()
        self._homes = Homes(ports.ledger, ports.clock, ports.owner, ports.place, ports.lease_seconds)

    # What is remembered

    def known(self) -> Sequence[str]:
        """Every environment that the ledger knows."""
        return self.ports.ledger.keys("environment")

    def urgent_first(self) -> list[str]:
        """The same; first those in which a rollout is under way or waits."""
        docs = self.ports.ledger.list("environment")
        return [key for key, doc in sorted(docs, key=lambda found: not (found[1]["rollout"] or found[1]["queue"]))]

    def memory(self, key: str) -> Memory:
        with self._lock:
            known = self._memories.get(key)
            if known is None or self._may_be_others(known):  # of those only the ledger knows
                known = self._memories[key] = self._recall(key)
            return known

    def elsewhere(self, environment: Environment) -> Place | None:
        """The home that has an environment, when it is not this one."""
        return self._homes.elsewhere(environment)

    def _may_be_others(self, memory: Memory) -> bool:
        """Whether another home has this environment, or may have taken it since this one gave it away."""
        given_away = self.ports.place is not None and memory.fence is None and is_vacant(memory.environment)
        return given_away or self.elsewhere(memory.environment) is not None

    def settle(self, key: str) -> Environment | None:
        """See `Homes.settle`."""
        return self._homes.settle(key)

    def _recall(self, key: str) -> Memory:
        service, _, name = key.partition("/")
        environment = self._homes.recall(key) or Environment(service, name, place=self.ports.place)
        memory = Memory(environment)
        rollout = environment.rollout
        if rollout is not None:
            memory.judging = Judging(rollout, self.ports.ledger.get("judging", rollout.id))
            memory.recording.cursor = memory.recording.kept = memory.judging.cursor
        return memory

    def _led(self, key: str, now: float) -> Memory:
        """What is remembered, read again where another engine may have led since: who follows takes over the truth.

        What this home has is never led from elsewhere, so a look at it need not read anything.
        """
        memory = self.memory(key)
        if self.ports.place is not None and not is_vacant(memory.environment):
            return memory
        granted = memory.fence_until - self.ports.renew_seconds
        if memory.fence is not None and 0 <= now - granted < self.ports.lease_seconds:
            return memory  # a clock that was set back since tells nothing of how long that is ago
        fresh = self._recall(key)
        if fresh.environment == memory.environment:
            return memory
        fresh.fence, fresh.fence_until, fresh.world = memory.fence, memory.fence_until, memory.world
        with self._lock:
            self._memories[key] = fresh
        return fresh

    # One tick

    def tick(self, key: str, asked: bool = True) -> float:
        """Look at one environment once.

        Args:
            asked: requests may be waiting in the ledger. False where only the time has come: whoever writes one down
                wakes the environment, and the look that takes it up is repeated until it is written down.
        Returns: when to look again, seconds since the epoch.
        Raises: RebakeError when the ledger cannot be read or written; nothing was done then.
        """
        now = self.ports.clock.now()
        memory = self._led(key, now)
        if self.elsewhere(memory.environment) is not None:
            return now + ELSEWHERE_SECONDS
        with memory.lock:
            if asked:
                self._unread.add(key)
            commands = self._commands(key) if key in self._unread else ()
            world = self._observe(memory, commands, now)
            decision = decide(memory.environment, world, now)
            try:
                changed = self._record(key, memory, world, decision, now)
                acted = self._act(memory, decision.actions)
            except _LedAnew:
                return now
            except RebakeError:
                self._forget(key)  # the ledger may know more than is remembered here, or less
                raise
            self._unread.discard(key)
            self._tidy(memory, decision)
            judged = memory.judging is not None and memory.judging.begun
            memory.recording.forget(self.ports.router, memory.environment, now, judged=judged)
            if not (changed or acted or commands):
                self._give_away(memory)
        if changed or acted:
            self.on_change(key)
        if acted or memory.recording.behind:
            return now
        return max(now, min(decision.wake_at, self._next_look(memory, now)))

    def _next_look(self, memory: Memory, now: float) -> float:
        """When to look again at an environment in which nothing is under way: within its drift interval."""
        stable = memory.environment.stable
        interval = IDLE_SECONDS if stable is None else stable.plan.drift_interval_ms / 1000
        return next_look(memory.environment.key, interval, now, among=len(self._memories))

    def _commands(self, key: str) -> tuple[Command, ...]:
        return tuple(load(Command, doc) for _, doc in self.ports.ledger.list("command", f"{key}/"))

    # Observe

    def _observe(self, memory: Memory, commands: tuple[Command, ...], now: float) -> World:
        environment = memory.environment
        instances, instances_known = self._instances(memory)
        route, route_known = self._route(environment)
        samples = memory.recording.read(self.ports.router, environment) if has_route(environment) else None
        self._judge_this_one(memory)
        if memory.judging is not None:
            readings, shown = self._readings(memory, instances), instances if instances_known else None
            memory.judging.look(environment, route if route_known else None, now, samples, readings, instances=shown)
        rollout = environment.rollout
        asked = bool(commands) or (rollout is not None and rollout.state is State.WAITING) or bool(environment.queue)
        self._inspect(memory, now)
        jobs = self._job_results(rollout)
        world = World(
            instances=instances,
            route=route,
            route_known=route_known,
            instances_known=instances_known,
            jobs=jobs,
            blocked=dict(memory.blocked),
            quarantined=self._quarantined(environment) if asked else frozenset(),
            succeeded=self._succeeded(environment) if asked else frozenset(),
            verdict=memory.judging.verdict if memory.judging is not None else None,
            requests_per_second=memory.pace.look(route, now),
            commands=commands,
            log_tails=self._log_tails(memory, instances, jobs),
            mates=self._mates(rollout),
            freezes=self._freezes(environment) if asked or rollout is not None else (),
            looked_away=not 0 <= now - memory.looked_at <= self.ports.lease_seconds,
        )
        memory.looked_at = now
        memory.world = world
        return world

    def _readings(self, memory: Memory, instances: Sequence[Any]) -> list[Reading]:
        """What the sources of the rollout's own metrics said since the last look; what is due is asked for."""
        rollout = memory.environment.rollout
        if rollout is None or not rollout.plan.judge.metrics or rollout.state not in JUDGED:
            return []
        if memory.metering is None or memory.metering.rollout != rollout.id:
            memory.metering = Metering(rollout.id, rollout.plan.judge.metrics)
        memory.metering.look(self.ports.sources, memory.environment, instances, self.ports.clock)
        return memory.metering.taken()

    def platform_of(self, environment: Environment) -> Platform | None:
        fleets = [environment.stable, environment.candidate, *(gone.fleet for gone in environment.leaving)]
        plans = [f.plan for f in fleets if f is not None]
        plans += [r.plan for r in (environment.rollout, *environment.queue) if r is not None]
        name = plans[0].platform if plans else environment.platform
        return self.ports.platforms.get(name) if name is not None else None

    def _instances(self, memory: Memory) -> tuple[tuple[Any, ...], bool]:
        environment = memory.environment
        platform = self.platform_of(environment)
        if platform is None:
            return (), True
        try:
            return tuple(platform.observe(environment.service, environment.environment)), True
        except RebakeError:
            return memory.world.instances, False

    def _route(self, environment: Environment) -> tuple[RouteObservation | None, bool]:
        if not has_route(environment):
            return None, True  # there is none, and no edge need answer for workers to be kept
        try:
            return self.ports.router.observe(environment.service, environment.environment), True
        except RebakeError:
            return None, False

    def _job_results(self, rollout: Rollout | None) -> dict[str, Job]:
        if rollout is None:
            return {}
        prepare = self.ports.jobs.results(f"prepare:{rollout.id}")
        return {**prepare, **self.ports.jobs.results(f"check:{rollout.id}:")}

    def _quarantined(self, environment: Environment) -> frozenset[str]:
        docs = self.ports.ledger.list("quarantine", f"{environment.key}/")
        return frozenset(str(doc["revision"]) for _, doc in docs)

    def _freezes(self, environment: Environment) -> tuple[Freeze, ...]:
        found = (load(Freeze, doc) for _, doc in self.ports.ledger.list("freeze"))
        return tuple(freeze for freeze in found if freeze.scope in ("*", environment.key))

    def _mates(self, rollout: Rollout | None) -> tuple[Mate, ...]:
        """What the other members of its group wrote down, whichever engine leads them."""
        if rollout is None or rollout.group is None:
            return ()
        found = (load(Mate, doc) for _, doc in self.ports.ledger.list("reached", f"{rollout.group.id}/"))
        return tuple(mate for mate in found if mate.member != rollout.group.me)

    def _succeeded(self, environment: Environment) -> frozenset[str]:
        prefix = f"{environment.service}/"
        return frozenset(key.removeprefix(prefix) for key, _ in self.ports.ledger.list("success", prefix))

    def _log_tails(
        self, memory: Memory, instances: Sequence[Any], jobs: Mapping[str, Job]
    ) -> dict[str, tuple[str, ...]]:
        """The last lines of instances that fail, or failed a check, taken before they are retired."""
        environment = memory.environment
        platform, candidate = self.platform_of(environment), environment.candidate
        if platform is None or candidate is None:
            return {}
        tails = {f.instance: memory.world.log_tails.get(f.instance, ()) for f in candidate.streak}
        unfit = any(job.state == "failed" for job in jobs.values())
        for instance in instances:
            failing = (
                unfit or instance.state == "exited" or (instance.state == "starting" and instance.healthy is False)
            )
            if instance.fleet == candidate.id and failing:
                try:
                    tails[instance.id] = tuple(platform.logs(instance.id, TAIL_LINES))
                except RebakeError:
                    tails[instance.id] = ()
        return tails

    def _inspect(self, memory: Memory, now: float) -> None:
        """Look for drift beside the ticks; what it finds shows in the next observation."""
        environment = memory.environment
        stable, platform = environment.stable, self.platform_of(environment)
        if stable is None or platform is None or now < memory.inspect_at <= now + stable.plan.drift_interval_ms / 1000:
            return
        memory.inspect_at = self._next_look(memory, now)
        self._inspections.ask(environment, platform)

    # Record

    def _fence(self, memory: Memory, now: float) -> Fence:
        """The lease of this environment, renewed before it runs out.

        Raises: LedgerConflict while another engine holds it; _LedAnew when it was taken anew, after reading again what
            is remembered.
        """
        if memory.fence is not None and 0 <= memory.fence_until - now <= self.ports.renew_seconds:
            return memory.fence
        key = memory.environment.key
        seconds, reason = self.ports.lease_seconds, _led_for(memory.environment)
        fence = self.ports.ledger.lease(key, self.ports.owner, at=now, ttl_seconds=seconds, reason=reason)
        if fence is None:
            raise LedgerConflict(
                "lease-held",
                f"another engine leads {key}",
                where=key,
                remedy="wait: its lease ends by itself within seconds after it stops",
            )
        if fence != memory.fence:
            fresh = self._recall(key)
            fresh.fence, fresh.fence_until, fresh.world = fence, now + self.ports.renew_seconds, memory.world
            with self._lock:
                self._memories[key] = fresh
            raise _LedAnew
        memory.fence_until = now + self.ports.renew_seconds
        return fence

    def _record(self, key: str, memory: Memory, world: World, decision: Decision, now: float) -> bool:
        """Write the decision and its intents down, in one transaction, before anything is done."""
        before, after = memory.environment, decision.environment
        entries = [self._draft(after, n.kind, n.rollout, n.body) for n in decision.notes]
        entries += [
            self._draft(after, "intent", _rollout_of(after), _intent(a))
            for a in decision.actions
            if a.id not in memory.attempts
        ]
        puts = self._puts(key, memory, world, decision, now)
        if after is not before:
            puts.append(Put("environment", key, memory.documents.of(after)))
        if not entries and not puts:
            return False
        # Evidence that a power cut takes back was never there: the judge goes on from what it kept before.
        durable = bool(entries) or any(put.kind != "judging" for put in puts)
        self.ports.ledger.commit(entries, puts, at=now, fence=self._fence(memory, now), durable=durable)
        memory.environment = after
        for mate in {name for put in puts if put.kind == "reached" for name in _mates_of(decision, put.key)} - {key}:
            self.wake(mate)
        return bool(entries) or after is not before

    def _drifted(self, key: str) -> None:
        self.wake(key)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._memories.pop(key, None)

    def _draft(self, environment: Environment, kind: str, rollout: str | None, body: Mapping[str, Any]) -> Draft:
        return Draft(cast(EntryKind, kind), environment.service, environment.environment, rollout, dict(body))

    def _puts(self, key: str, memory: Memory, world: World, decision: Decision, now: float) -> list[Put]:
        environment = decision.environment
        puts = [Put("command", f"{key}/{c.id}", None) for c in world.commands]
        puts += [Put("refusal", f"{key}/{command}", {"reason": reason}) for command, reason in decision.refused.items()]
        for revision, reason in decision.quarantine.items():
            release = self._release_of(memory, environment, revision)
            doc = {"service": environment.service, "environment": environment.environment, "revision": revision}
            puts.append(
                Put("quarantine", f"{key}/{revision}", {**doc, "release": release, "reason": reason, "at": now})
            )
        name = f"{environment.service}/{environment.environment}"
        puts += [Put("success", f"{name}/{release}", {"at": now}) for release in decision.succeeded]
        puts += [Put("success", f"{name}/{release}", None) for release in decision.withdrawn]
        puts += self._rollout_puts(memory, world, decision, now)
        return puts + _group_puts(memory.environment, decision)

    def _release_of(self, memory: Memory, environment: Environment, revision: str) -> str | None:
        fleets = (environment.stable, environment.candidate, memory.environment.candidate, memory.environment.stable)
        known = [f.revision for f in fleets if f is not None]
        known += [r.revision for r in (environment.rollout, memory.environment.rollout) if r is not None]
        return next((r.release for r in known if r.digest == revision), None)

    def _rollout_puts(self, memory: Memory, world: World, decision: Decision, now: float) -> list[Put]:
        """Keep the views of rollouts that end or changed state, and the judge's memory."""
        environment, judging = decision.environment, memory.judging
        puts = []
        for ended in decision.ended:
            view = rollout_view(memory.environment, world, ended, judging, now)
            puts.append(Put("rollout", f"{environment.key}/{ended.id}", view))
            puts.append(Put("last", environment.key, view))
            puts.append(Put("judging", ended.id, None))
            if judging is not None and judging.rollout == ended.id:
                puts += [*judging.tape(ended.state), *judging.end_tape(self.ports.ledger)]
        rollout = environment.rollout
        if rollout is None:
            return puts
        moved = rollout.state is not (memory.environment.rollout.state if memory.environment.rollout else None)
        if moved:
            view = rollout_view(environment, world, rollout, judging, now)
            puts.append(Put("rollout", f"{environment.key}/{rollout.id}", view))
        mine = judging is not None and judging.rollout == rollout.id  # never the evidence against the one before it
        if judging is not None and mine and (moved or not 0 <= now - memory.judging_saved_at < SAVE_JUDGE_SECONDS):
            memory.judging_saved_at = now
            puts += judging.tape(rollout.state if moved else None)
            state = judging.state()
            puts += [Put("judging", rollout.id, state)] if state is not None else []
            memory.recording.kept = judging.cursor
        return puts

    # Act

    def _act(self, memory: Memory, actions: Sequence[Action]) -> bool:
        """Do what was recorded; then record how it went."""
        outcomes: list[Draft] = []
        for action in actions:
            attempt = memory.attempts.get(action.id)
            now = self.ports.clock.now()
            if attempt is not None and attempt.at <= now < attempt.next_at:
                continue
            if isinstance(action, Retire) and self._recovered(memory, action.instance, now):
                continue
            self._fence(memory, now)  # between two actions this process may have stood still for longer than its lease
            if isinstance(action, ApplyRoute):
                _forget_other_routes(memory, action.id)
            error = self._try(memory, action)
            again = _AGAIN_SECONDS.get(type(action), 5.0)
            if isinstance(error, Transient):
                again = error.retry_after_seconds
            said = None if error is None else error.problem
            if attempt is None or attempt.error != said:
                outcomes.append(self._outcome(memory, action, error))
            memory.attempts[action.id] = _Attempt(now, now + again, said)
        if outcomes:
            self.ports.ledger.commit(outcomes, at=self.ports.clock.now(), fence=memory.fence)
        return bool(outcomes)

    def _recovered(self, memory: Memory, instance: str, now: float) -> bool:
        """Whether an instance is well again that was unwell when this look began, long ago (the store was slow): to end
        it is decided anew, on what is so now."""
        if now - memory.looked_at < STALE_SECONDS:
            return False
        unwell = {i.id for i in memory.world.instances if not i.healthy}
        seen, _ = self._instances(memory)
        return instance in unwell and any(i.id == instance and i.healthy for i in seen)

    def _outcome(self, memory: Memory, action: Action, error: RebakeError | None) -> Draft:
        body: dict[str, Any] = {"action": action.id, "ok": error is None}
        if error is not None:
            body |= {"error": error.code, "problem": error.problem, "where": error.where}
        return self._draft(memory.environment, "outcome", _rollout_of(memory.environment), body)

    def _try(self, memory: Memory, action: Action) -> RebakeError | None:
        try:
            self._do(memory, action)
        except LedgerConflict:
            raise  # this engine leads no more: what it decided is void
        except RebakeError as error:
            if isinstance(error, Permanent):
                problem = f"{error.problem} ({error.where})" if error.where else error.problem
                memory.blocked[action.id] = (problem, error.remedy)
            return error
        memory.blocked.pop(action.id, None)
        return None

    @staticmethod
    def _token(memory: Memory) -> Fence | None:
        """What every effect carries: whoever is asked for it late, after a successor acted, refuses."""
        return memory.fence

    def _do(self, memory: Memory, action: Action) -> None:
        environment = memory.environment
        key, platform, fence = environment.key, self.platform_of(environment), self._token(memory)
        if isinstance(action, ApplyRoute):
            self.ports.router.apply(action.route, fence=fence)
        elif isinstance(action, RemoveRoute):
            self.ports.router.remove(environment.service, environment.environment, fence=fence)
        elif isinstance(action, RunCheck):
            check, urls = action.check, action.urls
            self._start(key, action.id, lambda cancelled: run_check(check, urls, cancelled))
        elif platform is None:
            return
        elif isinstance(action, Launch):
            platform.launch(action.spec, fence=fence)
        elif isinstance(action, Retire):
            platform.retire(action.instance, action.grace_ms, fence=fence)
        elif isinstance(action, Prepare):
            digest = action.release

            def prepare(_cancelled: threading.Event) -> Job:
                platform.prepare(self.ports.release(digest), lambda _line: None)
                return Job("done")

            self._start(key, action.id, prepare)

    def _start(self, key: str, job: str, work: Work) -> None:
        self.ports.jobs.start(job, work, lambda: self.wake(key))

    # Tidy

    def _give_away(self, memory: Memory) -> None:
        """When nothing of an environment is left here, another home may have it at once."""
        nothing = is_vacant(memory.environment) and not memory.world.instances and memory.world.route is None
        if memory.fence is None or self.ports.place is None or not nothing:
            return
        self.ports.ledger.release_lease(memory.fence)
        memory.fence = None

    def _tidy(self, memory: Memory, decision: Decision) -> None:
        """Forget the pacing and the jobs of what is over, so that memory does not grow."""
        for ended in decision.ended:
            self.ports.jobs.forget(f"prepare:{ended.id}")
            self.ports.jobs.forget(f"check:{ended.id}:")
            if memory.metering is not None and memory.metering.rollout == ended.id:
                memory.metering.forget(self.ports.sources)
                memory.metering = None
        self._judge_this_one(memory)
        wanted = {a.id for a in decision.actions}
        now = self.ports.clock.now()
        for name in [n for n in memory.attempts if n not in wanted]:
            if name not in memory.blocked or now > memory.attempts[name].next_at + 5.0:
                del memory.attempts[name]
                memory.blocked.pop(name, None)

    def _judge_this_one(self, memory: Memory) -> None:
        """Each rollout has a judge of its own, also when the look in which it began was cut short."""
        rollout = memory.environment.rollout
        if rollout is None:
            memory.judging = None
        elif memory.judging is None or memory.judging.rollout != rollout.id:
            stable, now = memory.environment.stable, self.ports.clock.now()
            history = None if stable is None else memory.recording.hour.of(stable.id, now)
            memory.judging = Judging(rollout, rate_hint=memory.pace.per_second, history=history)
            memory.blocked.clear()  # what was refused before it began is asked for anew

    def route_drift(self, key: str) -> Drift | None:
        """How the route that is served differs from the one the ledger knows as served; None when it does not."""
        memory = self.memory(key)
        with memory.lock:
            now, environment = self.ports.clock.now(), memory.environment
            instances, known = self._instances(memory)
            route, answered = self._route(environment)
            wanted = desired_route(environment, World(instances=instances, route=route), now)
            if not known or not answered or wanted is None or environment.served != wanted.version:
                return None
            if route is not None and route.version == wanted.version:
                return None
            found = {} if route is None else route.weights
            return Drift("route", wanted.listen, _said(weights(environment)), _said(found))

    # Views

    def view(self, key: str) -> Doc:
        """The environment view, from the latest observation."""
        memory = self.memory(key)
        kept = self.ports.ledger.get("last", key)
        last = None if kept is None else dict(kept)
        environment, now = memory.environment, self.ports.clock.now()
        away = self.elsewhere(environment)
        freezes = self._freezes(environment)
        return environment_view(environment, memory.world, memory.judging, last, now, elsewhere=away, freezes=freezes)

    def rollout_view(self, key: str, rollout: str) -> Doc | None:
        """One rollout: live while it is under way, else as it was kept."""
        memory = self.memory(key)
        environment = memory.environment
        waiting = [r for r in (environment.rollout, *environment.queue) if r is not None and r.id == rollout]
        if waiting:
            return rollout_view(environment, memory.world, waiting[0], memory.judging, self.ports.clock.now())
        doc = self.ports.ledger.get("rollout", f"{key}/{rollout}")
        return None if doc is None else dict(doc)


def _group_puts(before: Environment, decision: Decision) -> list[Put]:
    """What members of groups reached in this look, for the engines of the others."""
    known = {r.id: r for r in (before.rollout, *before.queue) if r is not None}
    puts = []
    for rollout in (*decision.ended, decision.environment.rollout):
        if rollout is None or rollout.group is None:
            continue
        mate, was = _mate(rollout), known.get(rollout.id)
        if was is None or rollout.over or _mate(was) != mate:
            puts.append(Put("reached", f"{rollout.group.id}/{rollout.group.me:03}", dump(mate)))
    return puts


def _mate(rollout: Rollout) -> Mate:
    assert rollout.group is not None
    return Mate(rollout.group.me, rollout.mark, going_back(rollout))


def _mates_of(decision: Decision, key: str) -> Sequence[str]:
    """The environments of the group that a written mark belongs to."""
    rollouts = (*decision.ended, decision.environment.rollout)
    found = (r.group for r in rollouts if r is not None and r.group is not None)
    return next((group.members for group in found if key.startswith(f"{group.id}/")), ())


def next_look(key: str, interval: float, now: float, among: int) -> float:
    """An environment's own moment in the coming interval, seconds.

    Few environments are looked at together, in one waking of an idle agent. Many are spread over the interval, so that
    none of them ever waits for a crowd, a rollout least of all.
    """
    groups = 1 + among // LOOKS_TOGETHER
    mine = interval * (crc32(key.encode()) % groups) / groups
    return now + interval - (now + interval - mine) % interval


def _forget_other_routes(memory: Memory, action: str) -> None:
    """Going back to a route that was applied a moment ago is a new action, not a repeated one."""
    for name in [n for n in memory.attempts if n.startswith("route:") and n != action]:
        del memory.attempts[name]
    for name in [n for n in memory.blocked if n.startswith("route:") and n != action]:
        del memory.blocked[name]


def _said(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{fleet} {format_share(points)}" for fleet, points in shares.items() if points)


def _led_for(environment: Environment) -> str:
    """What an engine leads an environment for, in a few words."""
    rollout = environment.rollout
    return "keeps what serves" if rollout is None else f"{rollout.kind} {rollout.id}, {rollout.state}"


def _rollout_of(environment: Environment) -> str | None:
    return environment.rollout.id if environment.rollout is not None else None


def _intent(action: Action) -> dict[str, Any]:
    """What the ledger says of an intended action: whole enough to be understood without the code."""
    body: dict[str, Any] = {"action": action.id, "do": type(action).__name__}
    if isinstance(action, Launch):
        body |= {"instance": action.spec.id, "revision": action.spec.revision, "release": action.spec.release}
    elif isinstance(action, Retire):
        body |= {"instance": action.instance, "why": action.why, "grace_ms": action.grace_ms}
    elif isinstance(action, ApplyRoute):
        body |= {
            "listen": action.route.listen,
            "weights": {f.fleet: f.weight_basis_points for f in action.route.fleets},
            "endpoints": {f.fleet: [e.instance for e in f.endpoints] for f in action.route.fleets},
        }
    elif isinstance(action, Prepare):
        body |= {"release": action.release}
    elif isinstance(action, RunCheck):
        body |= {"check": action.check.name, "urls": list(action.urls)}
    return body
