"""From the objects of a cluster, as its API server shows them, to what the route does. Pure.

What is written is not what is done: a gateway takes a route up some time later, and says so in the route's status.
Until then nobody knows by which weights it deals, so the largest that each fleet may have is reported: a fleet counts
as idle once no user can reach it by any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rebake.kubernetes import names
from rebake.kubernetes.resources import Json
from rebake.kubernetes.settings import Gateway
from rebake.traffic.kubernetes import dealing, documents
from rebake.traffic.kubernetes.documents import ROLE, Wish
from rebake.traffic.ports import RouteObservation

SERVICE_OF_SLICE = "kubernetes.io/service-name"
"""On an EndpointSlice. Source: Kubernetes, "EndpointSlices", ownership."""
_CONDITIONS = ("Accepted", "ResolvedRefs")


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything of one environment's route. Objects are as the API server wrote them.

    Attributes:
        gateway: None where the users' Service is the route.
        route: the HTTPRoute or the users' Service; None where there is none.
    """

    service: str
    environment: str
    namespace: str
    gateway: Gateway | None
    route: Json | None
    services: Sequence[Json] = ()
    slices: Sequence[Json] = ()
    pods: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Programmed:
    """Whether the data plane has taken up what is written. `problem`: why it will not, in its controller's words."""

    done: bool
    problem: str = ""


def programmed(seen: Seen) -> Programmed:
    """What the status of the route says of the route as it is now."""
    assert seen.route is not None
    if seen.gateway is None:
        return Programmed(_follows_selector(seen))
    if not (seen.route.get("spec") or {}).get("parentRefs"):
        return Programmed(True)  # no gateway has it, and none is to
    wanted = documents.parent_reference(seen.gateway, seen.namespace)
    found = [
        one
        for one in (seen.route.get("status") or {}).get("parents") or ()
        if _same_parent(wanted, one.get("parentRef") or {}, seen.namespace)
    ]
    generation = seen.route["metadata"].get("generation", 0)
    if not found:
        return Programmed(False, f"no controller has taken it up for Gateway {wanted['namespace']}/{wanted['name']}")
    said = [_said(one, generation) for one in found]
    return next((one for one in said if one.done), said[0])


def awaited(seen: Seen) -> str:
    """What the data plane has not taken up, for people; empty where it has, or where its controller says why not."""
    assert seen.route is not None
    state = programmed(seen)
    if state.done or state.problem:
        return ""
    if seen.gateway is None:
        return f"the EndpointSlices of Service {seen.route['metadata']['name']} do not show the pods that it selects"
    wanted = documents.parent_reference(seen.gateway, seen.namespace)
    gateway = f"{wanted['namespace']}/{wanted['name']}"
    return f"the controller of Gateway {gateway} has not taken up what is written; it may be away"


def _said(parent: Json, generation: int) -> Programmed:
    conditions = {row.get("type"): row for row in parent.get("conditions") or ()}
    for kind in _CONDITIONS:
        row = conditions.get(kind)
        if row is None or row.get("observedGeneration") != generation:
            return Programmed(False)
        if row.get("status") != "True":
            return Programmed(False, f"{row.get('reason')}: {row.get('message')} ({kind} by {_controller(parent)})")
    return Programmed(True)


def _controller(parent: Json) -> str:
    return str(parent.get("controllerName", "a controller"))


def _same_parent(wanted: Json, found: Json, namespace: str) -> bool:
    place = found.get("namespace", namespace)
    same = (found.get("name"), place) == (wanted["name"], wanted["namespace"])
    return same and (found.get("sectionName") or "") == wanted.get("sectionName", "")


def _follows_selector(seen: Seen) -> bool:
    """Whether the pods behind the users' Service are those that its selector asks for."""
    assert seen.route is not None
    selector = _selector(seen.route)
    listed = dict(_endpoints(seen.slices, seen.route))
    chosen = {str(pod["metadata"]["name"]) for pod in dealing.selected(selector, seen.pods)}
    ready = {name for name, is_ready in listed.items() if is_ready}
    return listed.keys() <= chosen and dealing.expected(selector, seen.pods) <= ready


def _selector(service: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = service["spec"].get("selector") or {}
    return found


def _endpoints(slices: Iterable[Json], service: Json | None) -> list[tuple[str, bool]]:
    """Pods behind a Service, and whether each is ready; those that end are not behind it any more.

    The slices of a Service that was deleted bear its name until they are collected, also when there is a new Service of
    that name, to which they say nothing. Source: Kubernetes, `endpointslice/reconciler.go`, `ownedBy`.
    """
    found = []
    for one in slices:
        metadata = one["metadata"]
        if service is None or (metadata.get("labels") or {}).get(SERVICE_OF_SLICE) != service["metadata"]["name"]:
            continue
        if all(owner["uid"] != service["metadata"]["uid"] for owner in metadata.get("ownerReferences") or ()):
            continue
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            if not conditions.get("terminating"):
                found.append((str((endpoint.get("targetRef") or {}).get("name")), bool(conditions.get("ready", True))))
    return found


def services_of(seen: Seen) -> dict[str, str]:
    """Fleets by the name of their Service."""
    return {
        one["metadata"]["name"]: fleet
        for one in seen.services
        if (fleet := _fleet_of(seen, one)) is not None and (one["metadata"].get("labels") or {}).get(ROLE) == "fleet"
    }


def _fleet_of(seen: Seen, item: Json) -> str | None:
    """The fleet of an object by its label; by its whole name where the label had to be cut."""
    label = (item["metadata"].get("labels") or {}).get(names.FLEET)
    wish = documents.wish_in(seen.route)
    known = {} if wish is None else {names.label_value(one.fleet): one.fleet for one in wish.fleets}
    return None if label is None else known.get(label, label)


def _service_of(seen: Seen, fleet: str) -> Json | None:
    name = names.route_name(seen.service, seen.environment, fleet)
    return next((one for one in seen.services if one["metadata"]["name"] == name), None)


def endpoints(seen: Seen, fleet: str) -> tuple[frozenset[str], frozenset[str]]:
    """Instances of a fleet behind its Service: those that are ready, and those that are not."""
    instances = {pod["metadata"]["name"]: instance_of(pod) for pod in seen.pods}
    ready: set[str] = set()
    unready: set[str] = set()
    for pod, is_ready in _endpoints(seen.slices, _service_of(seen, fleet)):
        instance = instances.get(pod)
        if instance is not None:
            (ready if is_ready else unready).add(instance)
    return frozenset(ready), frozenset(unready - ready)


def is_ready(seen: Seen, fleet: str) -> bool:
    """Whether anybody would answer who is sent to this fleet: also a pod that is no instance, such as an
    autoscaler's."""
    return any(found for _, found in _endpoints(seen.slices, _service_of(seen, fleet)))


def setting_of(seen: Seen) -> str:
    """A name of the weights that are written, which comes again for no other writing."""
    assert seen.route is not None
    metadata = seen.route["metadata"]
    if seen.gateway is not None:
        return f"{metadata['uid']}/{metadata.get('generation', 0)}"
    # A Service has no generation: of its versions none comes again.
    shares = "".join(f"/{fleet}={share}" for fleet, share in sorted(written_weights(seen).items()) if share)
    return f"{metadata['uid']}/{metadata['resourceVersion']}{shares}"


def addresses(seen: Seen, fleets: Iterable[str]) -> list[tuple[str, str, str]]:
    """Fleet, pod and `IP:PORT` of every pod of these fleets that has an address, oldest first."""
    labels = {names.label_value(one): one for one in fleets}
    found = []
    for pod in sorted(seen.pods, key=lambda one: str(one["metadata"].get("creationTimestamp", ""))):
        fleet = labels.get((pod["metadata"].get("labels") or {}).get(names.FLEET, ""))
        ip, port = (pod.get("status") or {}).get("podIP"), _port(pod)
        if fleet is not None and ip and port:
            found.append((fleet, str(pod["metadata"]["name"]), f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"))
    return found


def _port(pod: Json) -> int | None:
    rows = [row for one in pod["spec"].get("containers") or () for row in one.get("ports") or ()]
    return next((int(row["containerPort"]) for row in rows if row.get("name") == names.PORT), None)


def instance_of(pod: Json) -> str | None:
    found = (pod["metadata"].get("labels") or {}).get(names.INSTANCE)
    return None if found is None else str(found)


def wanted_objects(seen: Seen, wish: Wish, token: int) -> tuple[Json, list[Json]]:
    """The route itself, and the Services of its fleets."""
    place = seen.service, seen.environment
    if seen.gateway is None:
        route = documents.users_service(*place, wish, token)
    else:
        route = documents.http_route(place, seen.gateway, seen.namespace, wish, token)
    return route, [documents.fleet_service(*place, one.fleet) for one in wish.fleets]


def is_written(seen: Seen, wish: Wish) -> bool:
    """Whether every object says what is wished."""
    route, services = wanted_objects(seen, wish, documents.token_in(seen.route))
    found = {one["metadata"]["name"]: one for one in seen.services}
    whole = holds_spec(route, seen.route)
    return whole and all(holds_spec(one, found.get(one["metadata"]["name"])) for one in services)


def holds_spec(wanted: Json, found: Json | None) -> bool:
    """Labels and spec; annotations are ours to read only."""
    if found is None:
        return False
    labels = documents.holds(wanted["metadata"]["labels"], found["metadata"].get("labels") or {})
    return labels and documents.holds(wanted["spec"], found.get("spec")) and not surplus(wanted, found)


def surplus(wanted: Json, found: Json) -> list[str]:
    """What somebody added to the selector of a Service: it takes pods away from it."""
    chosen = wanted["spec"].get("selector")
    return [] if chosen is None else sorted((found["spec"].get("selector") or {}).keys() - chosen.keys())


def mislabelled(seen: Seen, wish: Wish) -> list[tuple[Json, str]]:
    """Pods that have a place in the route and do not say so, each with what it should say."""
    listed = {instance for one in wish.fleets for instance in one.instances}
    return [
        (pod, "true")
        for pod in seen.pods
        if instance_of(pod) in listed and (pod["metadata"].get("labels") or {}).get(names.SERVING) != "true"
    ]


def missharing(seen: Seen, wish: Wish) -> list[tuple[Json, str]]:
    """Pods that do not say whose users they share, each with what it should say; see `dealing`."""
    return [] if seen.gateway is not None else dealing.wanted_users(wish, seen.pods)


def written_weights(seen: Seen) -> dict[str, int]:
    """What the object says, whoever wrote it and whether or not it is programmed."""
    assert seen.route is not None
    wish = documents.wish_in(seen.route)
    fleets = services_of(seen)
    fleets |= {} if wish is None else {names.route_name(*_place(seen), one.fleet): one.fleet for one in wish.fleets}
    if seen.gateway is None:
        return _selected(seen, wish, {names.label_value(f): f for f in fleets.values()})
    return documents.weights_in(seen.route, fleets)


def _selected(seen: Seen, wish: Wish | None, fleets: Mapping[str, str]) -> dict[str, int]:
    """What the selector of the users' Service comes to. Args: fleets: by the value of their label."""
    assert seen.route is not None
    selector = _selector(seen.route)
    if names.USERS not in selector:
        return documents.selected_in(seen.route, fleets)
    if wish is not None and wish.host is not None and is_written(seen, wish) and not missharing(seen, wish):
        return {**dict.fromkeys(fleets.values(), 0), **wish.weights}
    return dealing.shares_in(selector, seen.pods, fleets)


def _place(seen: Seen) -> tuple[str, str]:
    return seen.service, seen.environment


def possible_weights(seen: Seen) -> dict[str, int]:
    """By fleet, the largest weight that the data plane may go by now."""
    written = written_weights(seen)
    wish = documents.wish_in(seen.route)
    if wish is None or programmed(seen).done:
        return written
    return {f: max(written.get(f, 0), wish.before.get(f, 0)) for f in (written | dict(wish.before))}


def observation(seen: Seen) -> RouteObservation | None:
    """The route as the cluster reports it; None where there is none."""
    if seen.route is None:
        return None
    wish, state = documents.wish_in(seen.route), programmed(seen)
    whole = wish is not None and state.done and is_written(seen, wish)
    whole = whole and wish is not None and not mislabelled(seen, wish) and not missharing(seen, wish)
    weights = possible_weights(seen)
    healthy, unhealthy = {}, {}
    for fleet in services_of(seen).values():
        healthy[fleet], unhealthy[fleet] = endpoints(seen, fleet)
    serves = any(weights.values())
    return RouteObservation(
        version=wish.version if whole and wish is not None else None,
        weights=weights,
        healthy=healthy,
        unhealthy=unhealthy,
        epoch=str(seen.route["metadata"]["uid"]),
        listening=serves and state.done,
        counts=False,
        problem=state.problem,
    )


def foreign_owner(item: Json) -> str:
    """Who else wrote into the spec of an object, for people; empty where nobody did.

    Source: Kubernetes, "Server-Side Apply", field management.
    """
    found = []
    for row in item["metadata"].get("managedFields") or ():
        fields: Mapping[str, Json] = (row.get("fieldsV1") or {}).get("f:spec") or {}
        if row.get("manager") != names.MANAGER and fields and not row.get("subresource"):
            found.append(f"{row.get('manager')} ({', '.join(sorted('spec.' + name[2:] for name in fields))})")
    return ", ".join(found)
