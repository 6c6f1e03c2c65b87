"""What the engine works with, and what it holds of one environment between looks. The ledger is the truth: whatever is
held here may be lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rebake.core.clock import Clock
from rebake.ledger.ports import Fence, Ledger
from rebake.platforms.ports import Platform
from rebake.release.manifest import Release
from rebake.rollout.documents import Documents
from rebake.rollout.jobs import Jobs
from rebake.rollout.judging import Judging
from rebake.rollout.metering import Metering, Sources
from rebake.rollout.places import platform_of
from rebake.rollout.recording import Recording
from rebake.rollout.world import Environment, Place, World
from rebake.traffic.ports import RouteObservation, TrafficRouter

LEASE_SECONDS = 15.0
PACE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ports:
    """What the engine works with. Real adapters in the agent, simulated ones in the tests.

    Attributes:
        owner: who holds the leases: engines that may live at the same time have different names.
        lease_seconds: how long an engine may stand still before another one may lead; the same for all of a ledger.
        sources: of the service's own metrics.
        platforms, routers: by the platform's name; environments of one platform share a route's adapter too.
        places: by the platform's name, the home that it acts in; a platform that is the same from everywhere has none.
    """

    ledger: Ledger
    platforms: Mapping[str, Platform]
    routers: Mapping[str, TrafficRouter]
    jobs: Jobs
    clock: Clock
    release: Callable[[str], Release]
    owner: str
    places: Mapping[str, Place] = field(default_factory=dict)
    lease_seconds: float = LEASE_SECONDS
    sources: Sources = Sources()

    @property
    def renew_seconds(self) -> float:
        """How long a lease is taken for granted before it is renewed."""
        return self.lease_seconds / 3

    def platform_of(self, environment: Environment) -> Platform | None:
        """Where an environment's instances are, as far as is remembered."""
        name = platform_of(environment)
        return self.platforms.get(name) if name is not None else None

    def router_of(self, environment: Environment) -> TrafficRouter | None:
        """Who moves an environment's users: the route of its platform. None when it never had a platform."""
        name = platform_of(environment)
        return self.routers.get(name) if name is not None else None


@dataclass(slots=True)
class Attempt:
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
    """What the engine holds of one environment between ticks. The document in the ledger is the truth.

    Attributes:
        stale: the ledger may know more than this, or less: it is read again before it is used.
        quiet_since: of the look that found nothing to do; None when there is something to do, or to wait for.
    """

    environment: Environment
    world: World = field(default_factory=World)
    judging: Judging | None = None
    judging_saved_at: float = 0.0
    attempts: dict[str, Attempt] = field(default_factory=dict)
    blocked: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    stale: bool = False
    quiet_since: float | None = None
    fence: Fence | None = None
    fence_until: float = 0.0
    inspect_at: float = 0.0
    looked_at: float = 0.0
    pace: Pace = field(default_factory=Pace)
    recording: Recording = field(default_factory=Recording)
    metering: Metering | None = None
    documents: Documents = field(default_factory=Documents)
    lock: threading.RLock = field(default_factory=threading.RLock)
