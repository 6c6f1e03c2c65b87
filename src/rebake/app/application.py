"""Everything together: what the agent serves."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rebake.app import store
from rebake.app.answers import Changes
from rebake.app.group_desk import GroupDesk
from rebake.app.installation import Installation
from rebake.app.keeper import kept_things
from rebake.app.ledger_place import keep_ledger_place, take_ledger_place
from rebake.app.patrol import Patrol
from rebake.app.place import place_of
from rebake.app.platforms import Platforms
from rebake.app.releases import Releases
from rebake.core.clock import Clock, SystemClock
from rebake.core.codec import load
from rebake.core.home import Home
from rebake.core.secrets import SecretVault
from rebake.judge.sources.command import CommandSource
from rebake.judge.sources.endpoint import EndpointSource
from rebake.judge.sources.prometheus import PrometheusSource
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Ledger
from rebake.ledger.vault import VARIABLE as KEY_VARIABLE
from rebake.ledger.vault import LedgerVault, key_from
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.loop import Loop
from rebake.rollout.metering import Sources
from rebake.rollout.places import plans_of
from rebake.rollout.view import Doc
from rebake.rollout.world import Environment
from rebake.traffic.envoy.router import EnvoyRouter

_LOG = logging.getLogger("rebake.app")


def _vault(home: Home, ledger: Ledger, clock: Clock, environ: Mapping[str, str]) -> SecretVault | LedgerVault:
    """Secrets in the home; or, for servers that share a database, in that, under a key of theirs."""
    key = environ.get(KEY_VARIABLE)
    if not key:
        return SecretVault(home)
    vault = LedgerVault(ledger, key_from(Path(key)), clock)
    found = (load(Environment, doc) for _, doc in ledger.list("environment"))
    vault.keep(set(kept_things(list(found))["secrets"]))
    return vault


class App(GroupDesk):
    """The desk with real adapters behind it. `start` opens the state and begins to work; `close` ends without touching
    what serves."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._closers: list[Callable[[], None]] = []
        self._edge = EnvoyRouter(home)

    def start(self) -> None:
        """Raises: RebakeError when the state cannot be opened; nothing is left running then."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        home, clock = self.home, SystemClock()
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        where = take_ledger_place(home, os.environ)
        ledger = open_ledger(where)
        self._closers.append(ledger.close)
        keep_ledger_place(home, where)
        vault, on_disk = _vault(home, ledger, clock, os.environ), store(home)
        releases = Releases(home, on_disk, ledger)
        platforms = Platforms(home, on_disk, vault, self, clock, whose=Installation(home, ledger).owner)
        self._closers.append(platforms.close)
        edge = self._edge
        self._closers.append(edge.close)
        jobs = ThreadJobs()
        self._closers.append(jobs.close)
        metric_jobs = ThreadJobs()
        self._closers.append(metric_jobs.close)
        prometheus, endpoint, command = PrometheusSource(clock), EndpointSource(), CommandSource()
        sources = Sources({"prometheus": prometheus, "endpoint": endpoint, "command": command}, metric_jobs)
        changes = Changes()
        place = place_of(home)
        owner = f"home:{place.id}"  # the home's lock lets one agent live: its successor takes its leases over at once
        routers, places = platforms.routers(edge), platforms.places(place)
        ports = Ports(ledger, platforms.by_name, routers, jobs, clock, releases.release, owner, places, sources=sources)
        engine = Engine(ports, changes.add)
        loop = self._loop = Loop(engine.tick, clock)
        self._closers.append(loop.close)
        engine.wake = loop.wake
        platforms.tell(lambda service, environment: loop.wake(f"{service}/{environment}"))
        super().__init__(engine, changes, releases, vault, loop.wake)
        edge.resume()
        known = engine.urgent_first()
        loop.start(known)
        patrol = Patrol(ledger, self._ours, engine.leads, loop.wake, alone=where == home.database)
        self._closers.append(patrol.close)
        patrol.start()
        _LOG.info("%d environments", len(known))

    def figures(self) -> Doc:
        """See `rebake.server.ports.Application`."""
        pulse, memories = self._loop.pulse(), [self._engine.memory(key) for key in self._engine.known()]
        under_way = [m.environment.rollout for m in memories if m.environment.rollout is not None]
        now = self._clock.now()
        return {
            "environments": Counter(m.environment.platform or "none" for m in memories),
            "led": sum(1 for m in memories if m.fence is not None and m.fence_until > now),
            "rollouts": Counter(str(rollout.state) for rollout in under_way),
            "looks": pulse.looks,
            "failed_looks": pulse.failed,
            "hanging": pulse.oldest[1] if pulse.oldest is not None else 0.0,
            "entries": self._ledger.head()[0],
        }

    def ails(self) -> str | None:
        """See `rebake.server.ports.Application`."""
        return self._loop.pulse().problem

    def settings(self, platform: str, service: str, environment: str) -> Mapping[str, Any]:
        """See `app.platforms.Plans`."""
        remembered = self._engine.memory(f"{service}/{environment}").environment
        under_way = [] if remembered.rollout is None else [remembered.rollout.plan]
        plans = [plan for plan in (*under_way, *plans_of(remembered)) if plan.platform == platform]
        return plans[0].platform_settings if plans else {}

    def environments(self, platform: str, service: str) -> Sequence[str]:
        """See `app.platforms.Plans`."""
        keys = [key for key in self._engine.known() if key.startswith(f"{service}/")]
        plans = [plan for key in keys if (plan := self.plan_of(key)) is not None]
        return [plan.environment for plan in plans if plan.platform == platform]

    def _ours(self, key: str) -> bool:
        return self._engine.elsewhere(self._engine.environment(key)) is None

    def down(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        """As the desk does; the edge ends with the last environment behind it, so that nothing is left running."""
        view = super().down(service, environment, doc)
        if not self.serves(self._edge):
            self._edge.stop()
        return view

    def close(self) -> None:
        for closer in reversed(self._closers):
            try:
                closer()
            except Exception:
                _LOG.exception("closing")
        self._closers.clear()
