"""One engine in a process of its own, for `test_two_engines`.

`python -m tests.conformance.engine_process URL SOCKET OWNER LEASE_SECONDS [STAND_STILL]`

Platform, route and users are in the test's process, so that every engine acts on the same ones. With STAND_STILL (the
name of an effect) the process stops itself once, after it recorded that effect and before it asks for it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.managers import BaseManager
from typing import Any

from rebake.app.patrol import Patrol
from rebake.core.clock import SystemClock
from rebake.errors import LedgerConflict
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Fence
from rebake.platforms.model import Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.release.manifest import Release
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.loop import Loop
from rebake.testing.simulated import simulated_release
from rebake.testing.simulation.scenario import KEY
from rebake.traffic.ports import EnvironmentRoute, RouteObservation

SECRET = b"of this test alone"


class Exchange(BaseManager):
    """Carries calls to the test's process."""


Exchange.register("world")


class Remote:
    """The platform and the router, both in the test's process."""

    name = "simulated"

    def __init__(self, world: Any, owner: str, stand_still: str) -> None:
        self._world, self._owner, self._stand_still = world, owner, stand_still

    def _effect(self, call: str, *args: Any, fence: Fence | None) -> None:
        if call == self._stand_still:
            self._stand_still = ""
            # To this very thread: sent to the process, another one may take it while this one goes on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        refused = self._world.effect(self._owner, call, args, fence)
        if refused is not None:
            raise LedgerConflict(*refused)

    def prepare(self, release: Release, progress: Progress) -> None:
        del release, progress

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        self._effect("launch", spec, fence=fence)

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        self._effect("retire", instance, grace_ms, fence=fence)

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        return [f"log of {instance}"][:lines]

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        return nullcontext(addresses)

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        found: Sequence[Instance] = self._world.instances(service, environment)
        return found


class RemotePlatform(Remote):
    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        return self.inspect(service, environment)


class RemoteRouter(Remote):
    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        self._effect("apply", route, fence=fence)

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        self._effect("remove", service, environment, fence=fence)

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        found: RouteObservation | None = self._world.route(service, environment)
        return found

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> None:
        """This route keeps no records."""

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        """There are none."""


def main(url: str, socket: str, owner: str, lease_seconds: str, stand_still: str = "") -> None:
    exchange = Exchange(socket, SECRET)
    exchange.connect()
    world: Any = exchange.world()  # type: ignore[attr-defined]
    clock, ledger = SystemClock(), open_ledger(url)
    platform, router = RemotePlatform(world, owner, stand_still), RemoteRouter(world, owner, stand_still)
    jobs = ThreadJobs()
    ports = Ports(
        ledger,
        {"simulated": platform},
        {"simulated": router},
        jobs,
        clock,
        simulated_release,
        owner,
        lease_seconds=float(lease_seconds),
    )
    engine = Engine(ports)
    loop = Loop(engine.tick, clock)
    engine.wake = loop.wake
    loop.start([KEY])
    Patrol(ledger, lambda _: True, engine.leads, loop.wake).start()
    print("ready", flush=True)
    sys.stdin.read()  # until the test lets go of the other end, however it ends


if __name__ == "__main__":
    main(*sys.argv[1:])
