"""Where a data plane sends requests: the endpoints that were ready a while ago.

Proxies learn of endpoints later than the API server. A pod that stops taking requests before all have learned of it
loses some; a preStop pause is there to prevent that, and `reached` tells whether it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.world import World
from rebake.testing.kubernetes.status import Json

Pods = tuple[str, ...]
"""By uid."""


@dataclass(slots=True)
class _Known:
    """Attributes: now: what is known. coming: what will be, each with its time; oldest first."""

    now: Pods = ()
    coming: list[tuple[float, Pods]] = field(default_factory=list)

    @property
    def newest(self) -> Pods:
        return self.coming[-1][1] if self.coming else self.now


class Targets:
    """Attributes: lag_seconds: from a change of endpoints to its being known.

    Args:
        accepts: whether the pod of a uid takes requests now.
    """

    def __init__(self, world: World, accepts: Callable[[str], bool]) -> None:
        self._world = world
        self._accepts = accepts
        self.lag_seconds = 0.0
        self._known: dict[str, _Known] = {}

    def step(self) -> None:
        services = self._world.store.all(kinds.SERVICES)
        for service in services:
            self._learn(service)
        alive = {one["metadata"]["uid"] for one in services}
        self._known = {uid: one for uid, one in self._known.items() if uid in alive}

    def _learn(self, service: Json) -> None:
        known = self._known.setdefault(service["metadata"]["uid"], _Known())
        ready = tuple(
            endpoint["targetRef"]["uid"]
            for one in self._world.owned(kinds.ENDPOINT_SLICES, service)
            for endpoint in one["endpoints"]
            if endpoint["conditions"]["ready"]
        )
        if ready != known.newest:
            known.coming.append((self._world.now() + self.lag_seconds, ready))
        while known.coming and known.coming[0][0] <= self._world.now():
            known.now = known.coming.pop(0)[1]
        if known.coming:
            self._world.wake(known.coming[0][0])

    def reached(self, service: Json) -> float:
        """The part of a Service's requests that a pod takes, 0 to 1."""
        known = self._known.get(service["metadata"]["uid"], _Known()).now
        return sum(self._accepts(one) for one in known) / len(known) if known else 0.0
