"""The thin shell around `decide`: observe, decide, record the intent, act, record the outcome.

A tick is safe at any time, so a crash is only a late tick. Everything remembered is in the ledger before anything is
done with it; what is only in memory here (pacing, caches, running jobs) can be lost without harm.

What is seen, written and done is in rooms of its own: `observing`, `writing`, `acting`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from zlib import crc32

from rebake.core.codec import load
from rebake.core.units import format_share
from rebake.errors import LedgerConflict, RebakeError
from rebake.ledger.ports import Fence, Put
from rebake.platforms.model import Drift
from rebake.rollout.acting import Actor
from rebake.rollout.actions import Decision
from rebake.rollout.decide import decide
from rebake.rollout.homes import Homes
from rebake.rollout.inspections import Inspections
from rebake.rollout.judging import Judging
from rebake.rollout.looks import CALM_SECONDS, Looks
from rebake.rollout.memory import LEASE_SECONDS, Memory, Ports
from rebake.rollout.observing import Observer
from rebake.rollout.places import is_vacant, platform_of
from rebake.rollout.quiet import alike, is_quiet
from rebake.rollout.route import desired_route, weights
from rebake.rollout.sharing import frugal
from rebake.rollout.view import Doc, environment_view, hindrances, rollout_view
from rebake.rollout.world import Command, Environment, Place, World
from rebake.rollout.writing import entries_of, mates_of, puts_of

__all__ = ["LEASE_SECONDS", "Engine", "Memory", "Ports", "next_look"]

IDLE_SECONDS = 60.0
"""An environment that serves nothing is looked at this often."""
LOOKS_TOGETHER = 25
"""Idle environments that are looked at in one waking, about."""
ELSEWHERE_SECONDS = 3600.0
"""How often a home looks whether an environment of another one has become its own; a deploy here looks at once."""


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
        self._looks = Looks()
        self._observer = Observer(ports, Inspections(ports.jobs, self._wake), self._next_look)
        self._actor = Actor(ports, self._observer, self._fence, self._wake)
        self._lock = threading.Lock()
        self._homes = Homes(ports.ledger, ports.clock, ports.owner, ports.places, ports.lease_seconds)

    def _wake(self, key: str) -> None:
        """Whoever drives this engine says how, once it does."""
        self.wake(key)

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
            if known is not None and known.stale:
                fresh = self._recall(key)
                fresh.world = known.world  # what was seen was seen, whatever could not be written down
                known = self._memories[key] = fresh
            elif known is None or self._may_be_others(known):  # of those only the ledger knows
                known = self._memories[key] = self._recall(key)
            return known

    def environment(self, key: str) -> Environment:
        """What is remembered of an environment, as the ledger knows it where another engine may lead it now."""
        memory = self.memory(key)
        if self._is_led_here(memory, self.ports.clock.now()):
            return memory.environment
        return self._homes.recall(key) or memory.environment

    def leads(self, key: str) -> bool:
        """Whether nobody else can have led this environment since it was read here."""
        with self._lock:
            known = self._memories.get(key)
        return known is not None and self._is_led_here(known, self.ports.clock.now())

    def elsewhere(self, environment: Environment) -> Place | None:
        """The home that has an environment, when it is not this one."""
        return self._homes.elsewhere(environment)

    def _may_be_others(self, memory: Memory) -> bool:
        """Whether another home has this environment, or may have taken it since this one gave it away."""
        given_away = bool(self.ports.places) and memory.fence is None and is_vacant(memory.environment)
        return given_away or self.elsewhere(memory.environment) is not None

    def settle(self, key: str, platform: str) -> Environment | None:
        """See `Homes.settle`."""
        return self._homes.settle(key, platform)

    def _recall(self, key: str) -> Memory:
        service, _, name = key.partition("/")
        environment = self._homes.recall(key) or Environment(service, name)
        memory = Memory(environment)
        rollout = environment.rollout
        if rollout is not None:
            memory.judging = Judging(rollout, self.ports.ledger.get("judging", rollout.id))
            memory.recording.cursor = memory.recording.kept = memory.judging.cursor
        return memory

    def _led(self, key: str, now: float) -> Memory:
        """What is remembered, read again where another engine may have led since: who follows takes over the truth."""
        memory = self.memory(key)
        if self._is_led_here(memory, now):
            return memory
        fresh = self._recall(key)
        if fresh.environment == memory.environment:
            return memory
        fresh.fence, fresh.fence_until, fresh.world = memory.fence, memory.fence_until, memory.world
        with self._lock:
            self._memories[key] = fresh
        return fresh

    def _is_led_here(self, memory: Memory, now: float) -> bool:
        """Whether no other engine can have led an environment since it was read. What a home has is never led from
        elsewhere, so a look at it there need not read anything."""
        if platform_of(memory.environment) in self.ports.places and not is_vacant(memory.environment):
            return True
        granted = memory.fence_until - self.ports.renew_seconds
        # a clock that was set back since tells nothing of how long that is ago
        return memory.fence is not None and 0 <= now - granted < self.ports.lease_seconds

    # One tick

    def tick(self, key: str, asked: bool = True) -> float:
        """Look at one environment once.

        Args:
            asked: requests may be waiting in the ledger. False where only the time has come: whoever writes one down
                wakes the environment, and the look that takes it up is repeated until it is written down.
        Returns: when to look again, seconds since the epoch.
        Raises: RebakeError when the ledger cannot be read or written; nothing was done then, and views say so until a
            look succeeds.
        """
        try:
            again = self._look(key, asked)
        except Exception as error:
            if self._looks.failed(key, error, self.ports.clock.now()):
                self.on_change(key)
            raise
        now = self.ports.clock.now()
        if self._looks.finished(key, now):
            self.on_change(key)
        return again if self._looks.stuck(key) is None else min(again, now + CALM_SECONDS)

    def seen(self, key: str) -> bool:
        """Whether this engine looked at the environment: before that its views only tell what is remembered."""
        return self._looks.seen(key)

    def _look(self, key: str, asked: bool) -> float:
        now = self.ports.clock.now()
        memory = self._led(key, now)
        if self.elsewhere(memory.environment) is not None:
            return now + ELSEWHERE_SECONDS
        with memory.lock:
            if asked:
                self._unread.add(key)
            commands = self._commands(key) if key in self._unread else ()
            before = memory.world
            world = self._observer.observe(memory, commands, now)
            if memory.quiet_since is not None and now >= memory.quiet_since and alike(before, world):
                decision = Decision(memory.environment, wake_at=inf)
            else:
                decision = self._decide(memory, world, now)
                memory.quiet_since = now if is_quiet(memory.environment, world, decision) else None
            try:
                changed = self._record(key, memory, world, decision, now)
                acted = self._actor.act(memory, decision.actions)
            except _LedAnew:
                return now
            except RebakeError:
                self._forget(key)  # the ledger may know more than is remembered here, or less
                raise
            self._unread.discard(key)
            self._tidy(memory, decision)
            judged = memory.judging is not None and memory.judging.begun
            router = self.ports.router_of(memory.environment)
            if router is not None:
                memory.recording.forget(router, memory.environment, now, judged=judged)
            if not (changed or acted or commands):
                self._give_away(memory)
        if changed or acted or hindrances(before, None) != hindrances(world, None):
            self.on_change(key)
        if acted or memory.recording.behind:
            return now
        return max(now, min(decision.wake_at, self._next_look(memory, now)))

    def _decide(self, memory: Memory, world: World, now: float) -> Decision:
        """What to do. Before anything is done, people's freezes are read anew: one that was just asked for holds it."""
        decision = decide(memory.environment, world, now)
        idle = decision.environment is memory.environment and not decision.actions
        if idle or memory.environment.rollout is None:
            return decision
        freezes = self._observer.freezes(memory.environment)
        if freezes == world.freezes:
            return decision
        memory.world = replace(world, freezes=freezes)
        return decide(memory.environment, memory.world, now)

    def _next_look(self, memory: Memory, now: float) -> float:
        """When to look again at an environment in which nothing is under way: within its drift interval."""
        stable = memory.environment.stable
        interval = IDLE_SECONDS if stable is None else stable.plan.drift_interval_ms / 1000
        return next_look(memory.environment.key, interval, now, among=len(self._memories))

    def _commands(self, key: str) -> tuple[Command, ...]:
        return tuple(load(Command, doc) for _, doc in self.ports.ledger.list("command", f"{key}/"))

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
        entries = entries_of(memory, decision)
        puts = puts_of(self.ports.ledger, memory, world, decision, now)
        if after is not before:
            puts.append(Put("environment", key, memory.documents.of(after)))
        if not entries and not puts:
            return False
        # Evidence that a power cut takes back was never there: the judge goes on from what it kept before.
        durable = bool(entries) or any(put.kind != "judging" for put in puts)
        self.ports.ledger.commit(entries, puts, at=now, fence=self._fence(memory, now), durable=durable)
        self._looks.wrote(key)
        memory.environment = frugal(after) if decision.ended else after
        for mate in {name for put in puts if put.kind == "reached" for name in mates_of(decision, put.key)} - {key}:
            self.wake(mate)
        return bool(entries) or after is not before

    def _forget(self, key: str) -> None:
        with self._lock:
            known = self._memories.get(key)
            if known is not None:
                known.stale = True

    # Tidy

    def _give_away(self, memory: Memory) -> None:
        """When nothing of an environment is left here, another home may have it at once."""
        nothing = is_vacant(memory.environment) and not memory.world.instances and memory.world.route is None
        if memory.fence is None or not self.ports.places or not nothing:
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
        self._observer.judge_this_one(memory)
        wanted = {a.id for a in decision.actions}
        now = self.ports.clock.now()
        for name in [n for n in memory.attempts if n not in wanted]:
            if name not in memory.blocked or now > memory.attempts[name].next_at + 5.0:
                del memory.attempts[name]
                memory.blocked.pop(name, None)

    def route_drift(self, key: str) -> Drift | None:
        """How the route that is served differs from the one the ledger knows as served; None when it does not."""
        memory = self.memory(key)
        with memory.lock:
            now, environment = self.ports.clock.now(), memory.environment
            instances, unseen = self._observer.instances(memory)
            route, unheard = self._observer.route(environment)
            wanted = desired_route(environment, World(instances=instances, route=route), now)
            if unseen or unheard or wanted is None or environment.served != wanted.version:
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
        environment, now = self.environment(key), self.ports.clock.now()
        away = self.elsewhere(environment)
        freezes, stuck = self._observer.freezes(environment), self._looks.stuck(key)
        return environment_view(
            environment, memory.world, memory.judging, last, now, elsewhere=away, freezes=freezes, stuck=stuck
        )

    def rollout_view(self, key: str, rollout: str) -> Doc | None:
        """One rollout: live while it is under way, else as it was kept."""
        memory, environment = self.memory(key), self.environment(key)
        waiting = [r for r in (environment.rollout, *environment.queue) if r is not None and r.id == rollout]
        if waiting:
            now, stuck = self.ports.clock.now(), self._looks.stuck(key)
            return rollout_view(environment, memory.world, waiting[0], memory.judging, now, stuck=stuck)
        doc = self.ports.ledger.get("rollout", f"{key}/{rollout}")
        return None if doc is None else dict(doc)


def next_look(key: str, interval: float, now: float, among: int) -> float:
    """An environment's own moment in the coming interval, seconds.

    Few environments are looked at together, in one waking of an idle agent. Many are spread over the interval, so that
    none of them ever waits for a crowd, a rollout least of all.
    """
    groups = 1 + among // LOOKS_TOGETHER
    mine = interval * (crc32(key.encode()) % groups) / groups
    return now + interval - (now + interval - mine) % interval


def _said(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{fleet} {format_share(points)}" for fleet, points in shares.items() if points)


def _led_for(environment: Environment) -> str:
    """What an engine leads an environment for, in a few words."""
    rollout = environment.rollout
    return "keeps what serves" if rollout is None else f"{rollout.kind} {rollout.id}, {rollout.state}"
