"""What an engine sees in one look: instances, route, jobs, evidence, and what the ledger says of others.

What cannot be asked now is as it was last seen, and said to be so; nothing here changes anything. Part of the
shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rebake.core.codec import load
from rebake.errors import RebakeError
from rebake.judge.metric_readings import Reading
from rebake.platforms.model import Instance
from rebake.rollout.inspections import Inspections
from rebake.rollout.judging import JUDGED, Judging
from rebake.rollout.memory import Memory, Ports
from rebake.rollout.metering import Metering
from rebake.rollout.shares import has_route
from rebake.rollout.states import State
from rebake.rollout.world import Command, Environment, Freeze, Job, Mate, Rollout, World
from rebake.traffic.ports import RouteObservation

TAIL_LINES = 20
FREEZES_SECONDS = 1.0
"""People's freezes are read so often for looks at rollouts, once for all of them; before anything is done they are read
anew."""


class Observer:
    """Looks at one environment at a time.

    Args:
        next_look: when an environment in which nothing is under way is looked at again.
    """

    def __init__(self, ports: Ports, inspections: Inspections, next_look: Callable[[Memory, float], float]) -> None:
        self.ports = ports
        self._inspections = inspections
        self._next_look = next_look
        self._freezes: tuple[float, tuple[Freeze, ...]] | None = None

    def observe(self, memory: Memory, commands: tuple[Command, ...], now: float) -> World:
        environment = memory.environment
        instances, unseen = self.instances(memory)
        route, unheard = self.route(environment)
        router = self.ports.router_of(environment) if has_route(environment) else None
        samples = None if router is None else memory.recording.read(router, environment)
        self.judge_this_one(memory)
        if memory.judging is not None:
            readings, shown = self._readings(memory, instances), None if unseen else instances
            memory.judging.look(environment, None if unheard else route, now, samples, readings, instances=shown)
        rollout = environment.rollout
        asked = bool(commands) or (rollout is not None and rollout.state is State.WAITING) or bool(environment.queue)
        self._inspect(memory, now)
        jobs = self._job_results(rollout)
        world = World(
            instances=instances,
            route=route,
            unheard=unheard,
            unseen=unseen,
            jobs=jobs,
            blocked=dict(memory.blocked),
            quarantined=self._quarantined(environment) if asked else frozenset(),
            succeeded=self._succeeded(environment) if asked else frozenset(),
            verdict=memory.judging.verdict if memory.judging is not None else None,
            requests_per_second=memory.pace.look(route, now) or memory.recording.rate(now),
            unread=memory.recording.problem,
            commands=commands,
            log_tails=self._log_tails(memory, instances, jobs),
            mates=self._mates(rollout),
            freezes=self.freezes(environment, None if asked else now) if asked or rollout is not None else (),
            boot=self.ports.clock.boot(),
            looked_away=not 0 <= now - memory.looked_at <= self.ports.lease_seconds,
        )
        memory.looked_at = now
        memory.world = world
        return world

    def _readings(self, memory: Memory, instances: Sequence[Instance]) -> list[Reading]:
        """What the sources of the rollout's own metrics said since the last look; what is due is asked for."""
        rollout = memory.environment.rollout
        if rollout is None or not rollout.plan.judge.metrics or rollout.state not in JUDGED:
            return []
        if memory.metering is None or memory.metering.rollout != rollout.id:
            memory.metering = Metering(rollout.id, rollout.plan.judge.metrics)
        memory.metering.look(self.ports.sources, memory.environment, instances, self.ports.clock)
        return memory.metering.taken()

    def instances(self, memory: Memory) -> tuple[tuple[Instance, ...], str]:
        """What the platform shows; what it showed last, and why, where it does not answer."""
        environment = memory.environment
        platform = self.ports.platform_of(environment)
        if platform is None:
            return (), ""
        try:
            return tuple(platform.observe(environment.service, environment.environment)), ""
        except RebakeError as error:
            return memory.world.instances, error.told()

    def route(self, environment: Environment) -> tuple[RouteObservation | None, str]:
        """What the balancer shows; nothing, and why, where it does not answer."""
        router = self.ports.router_of(environment) if has_route(environment) else None
        if router is None:
            return None, ""  # there is none, and no edge need answer for workers to be kept
        try:
            return router.observe(environment.service, environment.environment), ""
        except RebakeError as error:
            return None, error.told()

    def _job_results(self, rollout: Rollout | None) -> dict[str, Job]:
        if rollout is None:
            return {}
        prepare = self.ports.jobs.results(f"prepare:{rollout.id}")
        return {**prepare, **self.ports.jobs.results(f"check:{rollout.id}:")}

    def _quarantined(self, environment: Environment) -> frozenset[str]:
        docs = self.ports.ledger.list("quarantine", f"{environment.key}/")
        return frozenset(str(doc["revision"]) for _, doc in docs)

    def freezes(self, environment: Environment, now: float | None = None) -> tuple[Freeze, ...]:
        """Those that concern an environment. `now`: what was read within the last second will do."""
        known = self._freezes
        if now is None or known is None or not 0 <= now - known[0] < FREEZES_SECONDS:
            read_at = self.ports.clock.now()  # before they are read: never taken for newer than they are
            found = tuple(load(Freeze, doc) for _, doc in self.ports.ledger.list("freeze"))
            known = self._freezes = (read_at, found)
        return tuple(freeze for freeze in known[1] if freeze.scope in ("*", environment.key))

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
        self, memory: Memory, instances: Sequence[Instance], jobs: Mapping[str, Job]
    ) -> dict[str, tuple[str, ...]]:
        """The last lines of instances that fail, or failed a check, taken before they are retired."""
        environment = memory.environment
        platform, candidate = self.ports.platform_of(environment), environment.candidate
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
        stable, platform = environment.stable, self.ports.platform_of(environment)
        if stable is None or platform is None or now < memory.inspect_at <= now + stable.plan.drift_interval_ms / 1000:
            return
        memory.inspect_at = self._next_look(memory, now)
        self._inspections.ask(environment, platform)

    def judge_this_one(self, memory: Memory) -> None:
        """Each rollout has a judge of its own, also when the look in which it began was cut short."""
        rollout = memory.environment.rollout
        if rollout is None:
            memory.judging = None
        elif memory.judging is None or memory.judging.rollout != rollout.id:
            stable, now = memory.environment.stable, self.ports.clock.now()
            history = None if stable is None else memory.recording.hour.of(stable.id, now)
            memory.judging = Judging(rollout, rate_hint=memory.pace.per_second, history=history)
            memory.blocked.clear()  # what was refused before it began is asked for anew
