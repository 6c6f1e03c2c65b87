"""A gateway's controller and its data plane: statuses of Gateways and HTTPRoutes, and who really gets which requests.

What is written is not at once what is done: a route's wish is programmed after `lag_seconds`, and only then its status
says so and its shares are others. `shares` tells what the data plane does, which is what an adapter has to verify.

Source: Gateway API v1, "HTTPRoute" (weights: 0 sends nothing, all 0 answer 500; status `parents`), "Gateway" (status).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.targets import Targets
from rebake.testing.kubernetes.controllers.world import World, with_condition
from rebake.testing.kubernetes.resources import GATEWAY_GROUP
from rebake.testing.kubernetes.status import Json

CONTROLLER = "rebake.testing/gateway-controller"
CLASS = "emulated"
NOBODY = ""
"""In shares: requests that no pod takes."""


@dataclass(slots=True)
class _Programmed:
    """Attributes: seen: the generation last seen, and since when. spec: what the data plane does."""

    seen: int = 0
    since: float = 0.0
    spec: Json | None = None
    generation: int = 0


class GatewayController:
    """Attributes: lag_seconds: from a route's change to its effect."""

    def __init__(self, world: World, targets: Targets) -> None:
        self._world = world
        self._targets = targets
        self.lag_seconds = 0.0
        self._routes: dict[str, _Programmed] = {}

    def step(self) -> None:
        routes = self._world.store.all(kinds.HTTP_ROUTES)
        for route in routes:
            self._route(route)
        for gateway in self._world.store.all(kinds.GATEWAYS):
            if gateway["spec"]["gatewayClassName"] == CLASS:
                self._gateway(gateway, routes)
        alive = {one["metadata"]["uid"] for one in routes}
        self._routes = {uid: one for uid, one in self._routes.items() if uid in alive}

    def shares(self, namespace: str, name: str, rule: int = 0) -> dict[str, float]:
        """Which part of the requests each Service's pods take, by a route's rule, as it is programmed.

        Returns: shares by Service, which sum to 1; `NOBODY`'s are answered 500, 503 or 404 by the gateway.
        """
        route = self._world.store.get(kinds.HTTP_ROUTES, namespace, name)
        held = self._routes.get(route["metadata"]["uid"]) if route is not None else None
        backends = held.spec["rules"][rule].get("backendRefs", []) if held is not None and held.spec else []
        whole = sum(one["weight"] for one in backends)
        found: dict[str, float] = {}
        for one in backends:
            share = one["weight"] / whole if whole else 0.0
            reached = share * self._reached(one.get("namespace", namespace), one)
            for who, part in ((one["name"], reached), (NOBODY, share - reached)):
                if part:
                    found[who] = found.get(who, 0.0) + part
        return found or {NOBODY: 1.0}

    def _reached(self, namespace: str, backend: Json) -> float:
        service = self._world.store.get(kinds.SERVICES, namespace, backend["name"])
        return 0.0 if service is None or _problem(backend, service) else self._targets.reached(service)

    def _route(self, route: Json) -> None:
        held = self._routes.setdefault(route["metadata"]["uid"], _Programmed())
        generation = route["metadata"]["generation"]
        if held.seen != generation:
            held.seen, held.since = generation, self._world.now()
        if self._world.now() < held.since + self.lag_seconds:
            self._world.wake(held.since + self.lag_seconds)
            if not held.generation:
                return
        else:
            held.spec, held.generation = copy.deepcopy(route["spec"]), generation
        known = {_reference(one["parentRef"]): one for one in route.get("status", {}).get("parents", ())}
        assert held.spec is not None
        parents = [
            self._parent(route, held, reference, known.get(_reference(reference)))
            for reference in held.spec.get("parentRefs", ())
            if self._ours(route, reference)
        ]
        others = [one for one in route.get("status", {}).get("parents", ()) if one["controllerName"] != CONTROLLER]
        if parents or others or "status" in route:
            self._world.put_status(kinds.HTTP_ROUTES, route, {"parents": [*others, *parents]}, CONTROLLER)

    def _ours(self, route: Json, reference: Json) -> bool:
        gateway = self._gateway_of(route, reference)
        return gateway is not None and gateway["spec"]["gatewayClassName"] == CLASS

    def _gateway_of(self, route: Json, reference: Json) -> Json | None:
        if (reference["group"], reference["kind"]) != (GATEWAY_GROUP, "Gateway"):
            return None
        place = reference.get("namespace", route["metadata"]["namespace"])
        return self._world.store.get(kinds.GATEWAYS, place, reference["name"])

    def _parent(self, route: Json, held: _Programmed, reference: Json, before: Json | None) -> Json:
        conditions: list[Json] = list((before or {}).get("conditions", []))
        now, seen = self._world.writer.time(), held.generation
        for kind, said in (
            ("Accepted", self._accepts(route, reference)),
            ("ResolvedRefs", self._resolves(route, held)),
        ):
            conditions = with_condition(conditions, kind, said, now, observedGeneration=seen)
        conditions = [{"message": "", **one} for one in conditions]
        return {"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}

    def _accepts(self, route: Json, reference: Json) -> tuple[str, str, str]:
        gateway = self._gateway_of(route, reference)
        assert gateway is not None
        listeners = gateway["spec"]["listeners"]
        section = reference.get("sectionName")
        here = [one for one in listeners if section in {None, one["name"]}]
        if not here:
            return "False", "NoMatchingParent", f"No listener named {section}"
        same = gateway["metadata"]["namespace"] == route["metadata"]["namespace"]
        open_ = [one for one in here if same or one.get("allowedRoutes", {}).get("namespaces", {}).get("from") == "All"]
        if not open_:
            return "False", "NotAllowedByListeners", "No listener allows routes of this namespace"
        hostnames = route["spec"].get("hostnames", [])
        if hostnames and not any(_host_fits(one.get("hostname"), name) for one in open_ for name in hostnames):
            return "False", "NoMatchingListenerHostname", "No listener has one of the route's hostnames"
        return "True", "Accepted", "Route is accepted"

    def _resolves(self, route: Json, held: _Programmed) -> tuple[str, str, str]:
        assert held.spec is not None
        for rule in held.spec["rules"]:
            for backend in rule.get("backendRefs", ()):
                place = backend.get("namespace", route["metadata"]["namespace"])
                if place != route["metadata"]["namespace"]:
                    text = f"Backend {place}/{backend['name']} is in another namespace, which no ReferenceGrant allows"
                    return "False", "RefNotPermitted", text
                found = _problem(backend, self._world.store.get(kinds.SERVICES, place, backend["name"]))
                if found is not None:
                    return "False", found[0], found[1]
        return "True", "ResolvedRefs", "All references are resolved"

    def _gateway(self, gateway: Json, routes: list[Json]) -> None:
        generation, now = gateway["metadata"]["generation"], self._world.writer.time()
        before = gateway.get("status", {})

        def good(conditions: list[Json], *types: str) -> list[Json]:
            for one in types:
                said = ("True", one, f"{one} is true")
                conditions = with_condition(conditions, one, said, now, observedGeneration=generation)
            return conditions

        held = {one["name"]: one for one in before.get("listeners", ())}
        listeners = [
            {
                "name": one["name"],
                "supportedKinds": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}],
                "attachedRoutes": sum(self._attached(route, gateway, one["name"]) for route in routes),
                "conditions": good(
                    held.get(one["name"], {}).get("conditions", []), "Accepted", "Programmed", "ResolvedRefs"
                ),
            }
            for one in gateway["spec"]["listeners"]
        ]
        status: Json = {"conditions": good(before.get("conditions", []), "Accepted", "Programmed")}
        status |= {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}], "listeners": listeners}
        self._world.put_status(kinds.GATEWAYS, gateway, status, CONTROLLER)

    def _attached(self, route: Json, gateway: Json, listener: str) -> bool:
        return any(
            self._gateway_of(route, one) == gateway
            and one.get("sectionName") in {None, listener}
            and self._accepts(route, one)[0] == "True"
            for one in route["spec"].get("parentRefs", ())
        )


def _reference(parent: Json) -> tuple[str, ...]:
    return tuple(str(parent.get(one, "")) for one in ("group", "kind", "namespace", "name", "sectionName", "port"))


def _problem(backend: Json, service: Json | None) -> tuple[str, str] | None:
    """Why a backend cannot be used."""
    if (backend["group"], backend["kind"]) != ("", "Service"):
        return "InvalidKind", f"Backends of kind {backend['kind']} are not known"
    if service is None:
        return "BackendNotFound", f"Service {backend['name']} is not there"
    if backend.get("port") not in [one["port"] for one in service["spec"].get("ports", ())]:
        return "BackendNotFound", f"Service {backend['name']} has no port {backend.get('port')}"
    return None


def _host_fits(listener: str | None, hostname: str) -> bool:
    if not listener or listener == hostname:
        return True
    return listener.startswith("*.") and hostname.endswith(listener[1:])
