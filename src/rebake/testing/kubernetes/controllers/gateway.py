"""A gateway's controller: what is said of GatewayClasses, Gateways and HTTPRoutes, and which route a data plane gets.

The same controller serves the emulated cluster, with a data plane that only reckons (`gateway_plane`), and any API
server as its client, with a real Envoy (`rebake.testing.gateway`). What is written is not at once what is done: a
status tells what the data plane does, never what it was asked for.

Source: Gateway API v1, "GatewayClass", "Gateway" and "HTTPRoute" (attachment, status `parents`, conditions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rebake.testing.kubernetes import resources as kinds
from rebake.testing.kubernetes.controllers.world import with_condition
from rebake.testing.kubernetes.resources import GATEWAY_GROUP, Resource
from rebake.testing.kubernetes.status import Json

CONTROLLER = "rebake.testing/gateway-controller"
"""Of the emulated cluster. Who writes what a status says under this name alone answers for it."""
CLASS = "emulated"
Said = tuple[str, str, str]
"""Of a condition: status, reason, message."""
Place = tuple[str, str, str]
"""A listener: its Gateway's namespace and name, and its own name."""


class GatewayWorld(Protocol):
    """What the controller reads and writes."""

    def all(self, resource: Resource, /) -> Sequence[Json]: ...

    def get(self, resource: Resource, namespace: str, name: str, /) -> Json | None: ...

    def time(self) -> str:
        """Now, as objects write it."""
        ...

    def put_status(self, resource: Resource, item: Json, status: Json, manager: str, /) -> object:
        """Write a status, if it is another one."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A route as it is written, and the listeners that accept it."""

    route: Json
    places: tuple[Place, ...]


class DataPlane(Protocol):
    """Who answers the requests."""

    def refuses(self, route: Json, /) -> str:
        """What a route asks for that it cannot do; empty where it can do all."""
        ...

    def program(self, wanted: Sequence[Wanted], /) -> Mapping[str, Json]:
        """Take these routes up, and no others.

        Returns: by uid, routes as they are done by now: of an older generation, where the newest is not done yet.
        """
        ...


class GatewayController:
    """Serves the Gateways of one class.

    Args:
        class_name: of its GatewayClass, which names the controller.
        controller: under which name it speaks; each of a cluster has one of its own.
    """

    def __init__(
        self, world: GatewayWorld, plane: DataPlane, class_name: str = CLASS, controller: str = CONTROLLER
    ) -> None:
        self._world, self._plane, self._class, self._controller = world, plane, class_name, controller

    def step(self) -> None:
        served = self._world.get(kinds.GATEWAY_CLASSES, "", self._class)
        if served is not None and served["spec"]["controllerName"] == self._controller:
            self._say_class(served)
        else:
            served = None
        routes = self._world.all(kinds.HTTP_ROUTES)
        gateways = [] if served is None else self._gateways()
        wanted = [Wanted(one, tuple(self._places(one))) for one in routes]
        done = self._plane.program([one for one in wanted if one.places])
        for route in routes:
            self._say_route(route, done.get(route["metadata"]["uid"]))
        for gateway in gateways:
            self._say_gateway(gateway, wanted)

    # Who is attached where

    def _gateways(self) -> list[Json]:
        return [one for one in self._world.all(kinds.GATEWAYS) if one["spec"]["gatewayClassName"] == self._class]

    def _gateway_of(self, route: Json, reference: Json) -> Json | None:
        """The Gateway that is meant, where it is one of ours."""
        if (reference["group"], reference["kind"]) != (GATEWAY_GROUP, "Gateway"):
            return None
        place = reference.get("namespace", route["metadata"]["namespace"])
        found = self._world.get(kinds.GATEWAYS, place, reference["name"])
        return found if found is not None and found["spec"]["gatewayClassName"] == self._class else None

    def _places(self, route: Json) -> Iterator[Place]:
        for reference in route["spec"].get("parentRefs", ()):
            gateway = self._gateway_of(route, reference)
            if gateway is not None:
                metadata = gateway["metadata"]
                listeners, _ = self._accepted(route, reference, gateway)
                yield from ((metadata["namespace"], metadata["name"], one["name"]) for one in listeners)

    def _accepted(self, route: Json, reference: Json, gateway: Json) -> tuple[list[Json], Said]:
        if why := self._plane.refuses(route):
            return [], ("False", "UnsupportedValue", f"Not supported: {why}")
        return accepted(route, reference, gateway)

    # What is said

    def _say_class(self, served: Json) -> None:
        said = ("True", "Accepted", "GatewayClass is accepted")
        rows = _conditions(served.get("status", {}), {"Accepted": said}, self._world.time(), _generation(served))
        status = {**served.get("status", {}), "conditions": rows}
        self._world.put_status(kinds.GATEWAY_CLASSES, served, status, self._controller)

    def _say_route(self, route: Json, done: Json | None) -> None:
        """Args: done: the route as the data plane does it. A generation that is not done is not spoken of, unless
        no listener takes it."""
        status = route.get("status", {})
        known = {_reference(one["parentRef"]): one for one in status.get("parents", ())}
        others = [one for one in status.get("parents", ()) if one["controllerName"] != self._controller]
        spoken = done if done is not None and self._places_of(route) else route
        parents = []
        for reference in spoken["spec"].get("parentRefs", ()):
            gateway = self._gateway_of(route, reference)
            if gateway is None:
                continue
            before = known.get(_reference(reference))
            listeners, said = self._accepted(spoken, reference, gateway)
            if listeners and done is None:
                parents += [before] if before is not None else []
                continue
            conditions = {"Accepted": said, "ResolvedRefs": self._resolves(spoken)}
            rows = _conditions(before or {}, conditions, self._world.time(), _generation(spoken))
            parents.append({"parentRef": reference, "controllerName": self._controller, "conditions": rows})
        if parents or others or "status" in route:
            self._world.put_status(kinds.HTTP_ROUTES, route, {"parents": [*others, *parents]}, self._controller)

    def _places_of(self, route: Json) -> bool:
        return next(self._places(route), None) is not None

    def _resolves(self, route: Json) -> Said:
        namespace = route["metadata"]["namespace"]
        for backend in (one for rule in route["spec"]["rules"] for one in rule.get("backendRefs", ())):
            place = backend.get("namespace", namespace)
            if place != namespace:
                text = f"Backend {place}/{backend['name']} is in another namespace, which no ReferenceGrant allows"
                return "False", "RefNotPermitted", text
            found = problem_of(backend, self._world.get(kinds.SERVICES, place, backend["name"]))
            if found is not None:
                return "False", found[0], found[1]
        return "True", "ResolvedRefs", "All references are resolved"

    def _say_gateway(self, gateway: Json, wanted: Sequence[Wanted]) -> None:
        metadata, before = gateway["metadata"], gateway.get("status", {})
        now, generation = self._world.time(), _generation(gateway)

        def good(held: Json, *types: str) -> list[Json]:
            return _conditions(held, {one: ("True", one, f"{one} is true") for one in types}, now, generation)

        held = {one["name"]: one for one in before.get("listeners", ())}
        listeners = []
        for one in gateway["spec"]["listeners"]:
            place = metadata["namespace"], metadata["name"], one["name"]
            listeners.append(
                {
                    "name": one["name"],
                    "supportedKinds": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}],
                    "attachedRoutes": sum(place in route.places for route in wanted),
                    "conditions": good(held.get(one["name"], {}), "Accepted", "Programmed", "ResolvedRefs"),
                }
            )
        status: Json = {"conditions": good(before, "Accepted", "Programmed")}
        status |= {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}], "listeners": listeners}
        self._world.put_status(kinds.GATEWAYS, gateway, status, self._controller)


def accepted(route: Json, reference: Json, gateway: Json) -> tuple[list[Json], Said]:
    """The listeners of a Gateway that take a route; and what is said of it."""
    section = reference.get("sectionName")
    here = [one for one in gateway["spec"]["listeners"] if section in {None, one["name"]}]
    if not here:
        return [], ("False", "NoMatchingParent", f"No listener named {section}")
    same = gateway["metadata"]["namespace"] == route["metadata"]["namespace"]
    open_ = [one for one in here if same or one.get("allowedRoutes", {}).get("namespaces", {}).get("from") == "All"]
    if not open_:
        return [], ("False", "NotAllowedByListeners", "No listener allows routes of this namespace")
    fitting = [one for one in open_ if hosts_of(route, one)]
    if not fitting:
        return [], ("False", "NoMatchingListenerHostname", "No listener has one of the route's hostnames")
    return fitting, ("True", "Accepted", "Route is accepted")


def hosts_of(route: Json, listener: Json) -> list[str]:
    """For which names a listener lets a route answer; `*` is any."""
    own, names = listener.get("hostname") or "*", route["spec"].get("hostnames") or []
    if not names:
        return [own]
    found = [name for name in names if own in ("*", name) or (own.startswith("*.") and name.endswith(own[1:]))]
    return found + [own for name in names if name.startswith("*.") and own.endswith(name[1:]) and own not in found]


def by_precedence(routes: Sequence[Wanted]) -> list[Wanted]:
    """Who answers first where two match the same: the oldest, then by name.

    Source: Gateway API, `HTTPRouteRule.matches`.
    """

    def key(one: Wanted) -> tuple[str, str, str]:
        metadata = one.route["metadata"]
        return metadata["creationTimestamp"], metadata["namespace"], metadata["name"]

    return sorted(routes, key=key)


def problem_of(backend: Json, service: Json | None) -> tuple[str, str] | None:
    """Why a backend cannot be used: reason and message."""
    if (backend["group"], backend["kind"]) != ("", "Service"):
        return "InvalidKind", f"Backends of kind {backend['kind']} are not known"
    if service is None:
        return "BackendNotFound", f"Service {backend['name']} is not there"
    if backend.get("port") not in [one["port"] for one in service["spec"].get("ports", ())]:
        return "BackendNotFound", f"Service {backend['name']} has no port {backend.get('port')}"
    return None


def _conditions(held: Json, said: Mapping[str, Said], now: str, generation: int) -> list[Json]:
    rows: list[Json] = list(held.get("conditions", []))
    for kind, one in said.items():
        rows = with_condition(rows, kind, one, now, observedGeneration=generation)
    return [{"message": "", **one} for one in rows]


def _generation(item: Json) -> int:
    return int(item["metadata"]["generation"])


def _reference(parent: Json) -> tuple[str, ...]:
    return tuple(str(parent.get(one, "")) for one in ("group", "kind", "namespace", "name", "sectionName", "port"))
