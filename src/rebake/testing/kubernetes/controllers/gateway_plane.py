"""The emulated cluster's data plane: it answers nobody, and tells what share of the requests each pod would take.

A route's wish is done `lag_seconds` after it came. `rebake.testing.gateway` has the same controller with a real Envoy.

Source: Gateway API v1, "HTTPRoute" (weights: 0 sends nothing, all 0 answer 500).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.gateway import Wanted, by_precedence, problem_of
from rebake.testing.kubernetes.controllers.targets import Targets
from rebake.testing.kubernetes.controllers.world import World
from rebake.testing.kubernetes.status import Json

NOBODY = ""
"""In shares: requests that no pod takes."""


@dataclass(slots=True)
class _Held:
    """Attributes: seen: the generation last seen, and since when. done: what is done, and where."""

    seen: int = 0
    since: float = 0.0
    done: Wanted | None = None


class EmulatedPlane:
    """Attributes: lag_seconds: from a route's change to its effect."""

    def __init__(self, world: World, targets: Targets) -> None:
        self._world, self._targets = world, targets
        self.lag_seconds = 0.0
        self._routes: dict[str, _Held] = {}

    def refuses(self, _route: Json) -> str:
        return ""

    def program(self, wanted: Sequence[Wanted]) -> Mapping[str, Json]:
        alive = {one.route["metadata"]["uid"]: one for one in wanted}
        self._routes = {uid: self._routes.get(uid, _Held()) for uid in alive}
        for uid, one in alive.items():
            held, generation = self._routes[uid], one.route["metadata"]["generation"]
            if held.seen != generation:
                held.seen, held.since = generation, self._world.now()
            if self._world.now() < held.since + self.lag_seconds:
                self._world.wake(held.since + self.lag_seconds)
            else:
                held.done = Wanted(copy.deepcopy(one.route), one.places)
        return {uid: held.done.route for uid, held in self._routes.items() if held.done is not None}

    def shares(self, namespace: str, name: str, rule: int = 0) -> dict[str, float]:
        """Which part of the requests each Service's pods take, by a route's rule, as it is programmed.

        Returns: shares by Service, which sum to 1; `NOBODY`'s are answered 500, 503 or 404 by the gateway.
        """
        route = self._world.get(kinds.HTTP_ROUTES, namespace, name)
        held = self._routes.get(route["metadata"]["uid"]) if route is not None else None
        if held is None or held.done is None or self._is_outrun(held.done):
            return {NOBODY: 1.0}
        backends = held.done.route["spec"]["rules"][rule].get("backendRefs", [])
        whole = sum(one["weight"] for one in backends)
        found: dict[str, float] = {}
        for one in backends:
            share = one["weight"] / whole if whole else 0.0
            reached = share * self._reached(one.get("namespace", namespace), one)
            for who, part in ((one["name"], reached), (NOBODY, share - reached)):
                if part:
                    found[who] = found.get(who, 0.0) + part
        return found or {NOBODY: 1.0}

    def _is_outrun(self, one: Wanted) -> bool:
        """Whether an older route has its names at its listeners: then all requests are that one's."""
        done = [held.done for held in self._routes.values() if held.done is not None]
        for other in by_precedence(done):
            if other is one:
                return False
            names = [set(each.route["spec"].get("hostnames") or ["*"]) for each in (one, other)]
            if set(one.places) & set(other.places) and names[0] <= names[1]:
                return True
        return False

    def _reached(self, namespace: str, backend: Json) -> float:
        service = self._world.get(kinds.SERVICES, namespace, backend["name"])
        return 0.0 if service is None or problem_of(backend, service) else self._targets.reached(service)
