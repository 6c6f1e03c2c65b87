"""The objects that are a cluster's route, and what is written down on them. Pure.

- Each fleet has a Service of its own, over its pods that serve (`names.SERVING`).
- With a gateway an HTTPRoute deals requests among these Services by weight; one with no weight at all is attached to
  no gateway, so that nobody is answered before the first promotion.
- Without a gateway the users' Service selects the pods of one fleet; where shares are those of instances, the pods that
  share one fleet's users (`dealing`).

Lists are written out whole, with what defaults would fill in: a field manager holds a list as one, and a default that
is filled in later would look like somebody's change (`docs/kubernetes-emulator.md`).

Source: Gateway API v1, "HTTPRoute"; Kubernetes, "Service".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rebake.core.units import FULL
from rebake.kubernetes import names
from rebake.kubernetes.resources import GATEWAYS, HTTP_ROUTES, SERVICES, Json
from rebake.kubernetes.settings import Gateway
from rebake.traffic.ports import EnvironmentRoute

WISH, TOKEN = f"{names.MARK}/wish", f"{names.MARK}/token"
"""Annotations of the object that is the route: what was applied last, and with which token."""
OWNER = f"{names.MARK}/owner"
"""Another: whose token that is."""
ROLE = f"{names.MARK}/role"
"""A label: `fleet`, one fleet's Service; `users`, what users call."""
PORT = 80
"""The port at which Services are called."""
PREVIEW_HEADER, PREVIEW_VALUE = "x-rebake-preview", "candidate"
NOBODY = "nobody"
"""In a selector: no fleet's label."""


@dataclass(frozen=True, slots=True)
class FleetWish:
    """Attributes:
    instances: ids that may receive requests.
    called: how many of them, the first ones, do, where shares are those of instances.
    """

    fleet: str
    weight: int
    instances: tuple[str, ...] = ()
    called: int | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What was applied, as it is kept on the object.

    Attributes:
        version: of the whole `EnvironmentRoute`.
        before: by fleet, the largest weight that the data plane may have had when this was applied: until this one is
            programmed, nobody knows which of them it goes by.
    """

    version: str
    fleets: tuple[FleetWish, ...] = ()
    preview: str | None = None
    before: Mapping[str, int] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, int]:
        return {one.fleet: one.weight for one in self.fleets}

    @property
    def serves(self) -> bool:
        """Whether anybody is to be answered."""
        return any(one.weight for one in self.fleets)

    @property
    def host(self) -> str | None:
        """The fleet whose users others share, as one Service is called for them all; None where nobody shares."""
        sharing = [one.fleet for one in self.fleets if one.weight]
        return sharing[0] if len(sharing) > 1 else None


def wish_of(route: EnvironmentRoute, before: Mapping[str, int]) -> Wish:
    fleets = tuple(
        FleetWish(one.fleet, one.weight_basis_points, tuple(e.instance for e in one.endpoints), one.called)
        for one in route.fleets
    )
    return Wish(route.version, fleets, route.preview, dict(before))


def is_same(one: Wish, other: Wish) -> bool:
    """Whether they wish for the same, whatever was before."""
    return replace(one, before={}) == replace(other, before={})


def kept_as(wish: Wish, token: int) -> dict[str, str]:
    return {WISH: json.dumps(asdict(wish), separators=(",", ":"), sort_keys=True), TOKEN: str(token)}


def owner_in(item: Json | None) -> str:
    """The ledger whose token is on the object; empty where nobody said."""
    return _annotation(item, OWNER)


def wish_in(item: Json | None) -> Wish | None:
    """What is kept on an object; None where nothing is, or nothing that can be read: then it is applied anew."""
    text = _annotation(item, WISH)
    try:
        doc = json.loads(text)
        fleets = tuple(
            FleetWish(one["fleet"], int(one["weight"]), tuple(one["instances"]), one.get("called"))
            for one in doc["fleets"]
        )
        return Wish(str(doc["version"]), fleets, doc["preview"], {f: int(w) for f, w in doc["before"].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def token_in(item: Json | None) -> int:
    """The newest token that came with an effect on the object; 0 where none did."""
    text = _annotation(item, TOKEN)
    return int(text) if text.isdigit() else 0


def _annotation(item: Json | None, name: str) -> str:
    return str(((item or {}).get("metadata", {}).get("annotations") or {}).get(name, ""))


# --- objects


def fleet_service(service: str, environment: str, fleet: str) -> Json:
    """The Service of one fleet: its pods, but for those that were taken out."""
    labels = names.fleet_labels(service, environment, fleet)
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": {"name": names.route_name(service, environment, fleet), "labels": {**labels, ROLE: "fleet"}},
        "spec": {"selector": {**labels, names.SERVING: "true"}, "ports": _ports()},
    }


def users_service(service: str, environment: str, wish: Wish, token: int) -> Json:
    """What users call where there is no gateway: the pods of the fleet that has them all, or those that share."""
    labels = names.environment_labels(service, environment)
    chosen = next((names.label_value(one.fleet) for one in wish.fleets if one.weight), NOBODY)
    by = names.FLEET if wish.host is None else names.USERS
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.name,
        "metadata": {
            "name": names.environment_name(service, environment),
            "labels": {**labels, ROLE: "users"},
            "annotations": kept_as(wish, token),
        },
        "spec": {"selector": {**labels, by: chosen, names.SERVING: "true"}, "ports": _ports()},
    }


def _ports() -> list[Json]:
    return [{"name": names.PORT, "port": PORT, "protocol": "TCP", "targetPort": names.PORT}]


def http_route(place: tuple[str, str], gateway: Gateway, namespace: str, wish: Wish, token: int) -> Json:
    """The route by weights. Its first rule is the users', its second the testers'.

    Args:
        place: service and environment. namespace: the environment's own.
    """
    service, environment = place
    rules = [_rule(service, environment, {one.fleet: one.weight for one in wish.fleets})]  # one at least, also of none
    if wish.preview is not None and wish.serves:
        rules.append(_rule(service, environment, {wish.preview: 1}, header=True))
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.name,
        "metadata": {
            "name": names.environment_name(service, environment),
            "labels": {**names.environment_labels(service, environment), ROLE: "users"},
            "annotations": kept_as(wish, token),
        },
        "spec": {
            "parentRefs": [parent_reference(gateway, namespace)] if wish.serves else [],
            "hostnames": list(gateway.hostnames),
            "rules": rules,
        },
    }


def parent_reference(gateway: Gateway, namespace: str) -> Json:
    """The Gateway, and its listener where one is named."""
    place = {"group": GATEWAYS.group, "kind": GATEWAYS.name, "namespace": gateway.namespace or namespace}
    section = {"sectionName": gateway.section} if gateway.section else {}
    return {**place, "name": gateway.name, **section}


def _rule(service: str, environment: str, weights: Mapping[str, int], *, header: bool = False) -> Json:
    match: Json = {"path": {"type": "PathPrefix", "value": "/"}}
    if header:
        match["headers"] = [{"type": "Exact", "name": PREVIEW_HEADER, "value": PREVIEW_VALUE}]
    backends = [
        {
            **{"group": "", "kind": SERVICES.name, "port": PORT, "weight": weight},
            "name": names.route_name(service, environment, fleet),
        }
        for fleet, weight in weights.items()
    ]
    return {"matches": [match], "backendRefs": backends}


# --- what is found


def holds(wanted: Any, found: Any) -> bool:
    """Whether what is found says all that is wanted; what others add beside it (defaults, addresses) is theirs.

    >>> holds({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3}), holds({"a": [1]}, {"a": [1, 2]})
    (True, False)
    """
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return False
        return all(holds(value, found.get(name, [] if value == [] else None)) for name, value in wanted.items())
    if isinstance(wanted, list):
        same_length = isinstance(found, list) and len(wanted) == len(found)
        return same_length and all(holds(one, other) for one, other in zip(wanted, found, strict=True))
    return bool(wanted == found)


def weights_in(route: Json, fleets: Mapping[str, str]) -> dict[str, int]:
    """By fleet, basis points that the users' rule of an HTTPRoute says, whoever wrote it.

    Args:
        fleets: by the name of its Service; a Service that is none of ours goes by its own name.
    """
    spec = route.get("spec") or {}
    if not spec.get("parentRefs"):
        return dict.fromkeys(fleets.values(), 0)
    rules = [one for one in spec.get("rules") or () if not _has_header(one)]
    backends = rules[0].get("backendRefs") or () if rules else ()
    found = dict.fromkeys(fleets.values(), 0)
    whole = sum(_weight(one) for one in backends)
    for one in backends:
        name = str(one.get("name", ""))
        fleet = fleets.get(name, name)
        found[fleet] = found.get(fleet, 0) + (round(FULL * _weight(one) / whole) if whole else 0)
    return found


def _has_header(rule: Json) -> bool:
    return any(match.get("headers") for match in rule.get("matches") or ())


def _weight(backend: Json) -> int:
    return int(backend.get("weight", 1))


def selected_in(item: Json, fleets: Mapping[str, str]) -> dict[str, int]:
    """By fleet, the share that the users' Service gives it: all or nothing.

    Args:
        fleets: by the value of its label.
    """
    chosen = str((item["spec"].get("selector") or {}).get(names.FLEET, ""))
    found = dict.fromkeys(fleets.values(), 0)
    if chosen != NOBODY:
        found[fleets.get(chosen, chosen)] = FULL
    return found
