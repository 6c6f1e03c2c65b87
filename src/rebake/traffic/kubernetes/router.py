"""`KubernetesRouter`: the traffic port on a cluster, by a gateway's weights or a Service's selector.

What it decides: in which order objects are written, and when an effect comes too late. What it leaves to others: what
the objects say (`documents`), and what they show (`reading`).

The order of every change:
1. pods that left the wish are told not to serve, and those that came (again) to serve;
2. the Service of each fleet is there;
3. where pods share one Service's users: those that come in are told so;
4. the route, once each fleet that is to get its first users has somebody who would answer them;
5. where pods share one Service's users, or shared them: those that go out are told so;
6. Services of fleets that left, and had no weight, go.

The route's object keeps the wish and the token that came with it. It is changed only as it was read (by its version),
so that of two engines the one with the older token is refused, however late it comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rebake.core.clock import Clock, SystemClock
from rebake.errors import Permanent, Transient
from rebake.kubernetes import names
from rebake.kubernetes.clusters import ClusterLink, Clusters
from rebake.kubernetes.faults import Absent, Stale, Taken
from rebake.kubernetes.owners import Owner, Whose, nobody, other_owner, refuse_other
from rebake.kubernetes.resources import CONFIG_MAPS, ENDPOINT_SLICES, HTTP_ROUTES, PODS, SERVICES, Json, Kind
from rebake.kubernetes.settings import KubernetesSettings, settings_from
from rebake.ledger.fencing import Tokens, too_late
from rebake.ledger.ports import Fence
from rebake.platforms.wishes import Wishes
from rebake.traffic.kubernetes import documents, reading
from rebake.traffic.kubernetes.reading import Seen
from rebake.traffic.kubernetes.records import Records, Submit
from rebake.traffic.kubernetes.templates import Subject
from rebake.traffic.ports import EnvironmentRoute, RouteObservation, Samples

TRIES = 5
"""How often one call reads an object again that somebody else changed at the same moment."""
READERS = 4
"""Readings of records at a time."""
AWAITED_SECONDS = 10.0
"""How long a data plane may take to take a route up before that is told."""
CONTESTED = 5
CONTESTED_SECONDS = 60.0
"""So many changes by others within this time are put back at once; then only so often."""


_KINDS = (HTTP_ROUTES, SERVICES, ENDPOINT_SLICES)
Place = tuple[str, str]
"""Service and environment."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where one environment's route is."""

    service: str
    environment: str
    settings: KubernetesSettings
    link: ClusterLink
    namespace: str

    @property
    def kind(self) -> Kind:
        """Of the object that is the route."""
        return SERVICES if self.settings.gateway is None else HTTP_ROUTES

    @property
    def other_kind(self) -> Kind:
        return HTTP_ROUTES if self.settings.gateway is None else SERVICES

    @property
    def name(self) -> str:
        return names.environment_name(self.service, self.environment)

    @property
    def where(self) -> str:
        return f"{self.kind.resource} {self.namespace}/{self.name}"


class KubernetesRouter:
    """The routes of every environment on a cluster. Nothing is asked before the first call.

    Args:
        wishes: what each environment's file asks of its cluster.
        submit: has a reading of records made beside the looks; by default by threads of its own.
        whose: tells which installation this is; nothing of another one's environments is seen or touched.

    Attributes:
        on_change: told (service, environment) when something of its route changed; on a watch's thread.
    """

    def __init__(
        self,
        clusters: Clusters,
        wishes: Wishes,
        clock: Clock | None = None,
        submit: Submit | None = None,
        *,
        whose: Whose = nobody,
    ) -> None:
        self._whose = whose
        self._clusters, self._wishes, self._clock = clusters, wishes, clock or SystemClock()
        self._tokens = Tokens()
        self._locks: dict[Place, threading.Lock] = {}
        self._put_back: dict[Place, list[float]] = {}
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="rebake-records")
        self._submit: Submit = submit or self._pool.submit
        self._records: dict[Place, Records] = {}
        self._addresses: dict[Place, dict[str, tuple[str, str]]] = {}
        self._awaited: dict[Place, tuple[str, float]] = {}
        self.on_change: Callable[[str, str], None] | None = None
        clusters.listen(self._heard)

    # The port

    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        """Hand the whole route over; see the module for the order.

        Raises:
            LedgerConflict: `lease-lost`.
            Permanent: `environment-of-another-ledger`, `route-not-ours`, `route-kind-changed`, `gateway-needed`, and
                what the API server refuses.
            Transient: `fleet-not-reachable`, `route-contested`; the API server does not answer.
        """
        self._tokens.check(fence)
        ground = self._ground(route.service, route.environment)
        if ground is None:
            raise Transient("route-unknown", f"nobody knows the cluster of {route.service}/{route.environment}")
        if (other := self._other(ground)) is not None:
            raise refuse_other(route.service, route.environment, ground.namespace, other)
        _refuse_shares(ground, route)
        with self._locks.setdefault((route.service, route.environment), threading.Lock()):
            for _ in range(TRIES):
                try:
                    self._apply(ground, route, fence)
                except (Stale, Taken) as error:
                    stale = error
                    self._read_again(ground)
                    continue
                return
        raise Transient("route-contested", stale.problem, where=ground.where, retry_after_seconds=1.0)

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        """What the cluster shows. Raises: PlatformError when its API server has not answered for a while."""
        ground = self._ground(service, environment)
        if ground is None or self._other(ground) is not None:
            return None
        seen = self._seen(ground)
        found = self._late(ground, seen, reading.observation(seen))
        if ground.settings.traffic is not None and seen.route is not None:
            self._records_of(ground).see(found, reading.setting_of(seen))
        return found

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        """Take the route and the Services of its fleets away."""
        self._tokens.check(fence)
        ground = self._ground(service, environment)
        if ground is None or self._other(ground) is not None:
            return
        seen = self._seen(ground)
        if seen.route is not None and _is_ours(seen.route):
            _refuse_late(self._newest(seen.route), fence, ground.where)
            self._delete(ground, ground.kind, seen.route)
        for one in seen.services:
            if _role(one) == "fleet":
                self._delete(ground, SERVICES, one)

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        """What Prometheus says of users' requests since `cursor`; None where the file names no server.

        A first cursor begins now: which weights were in force before is not known. Raises: see `Records.read`.
        """
        ground = self._ground(service, environment)
        if ground is None or ground.settings.traffic is None:
            return None
        seen = self._seen(ground)
        subjects = [] if seen.route is None else self._subjects(ground, seen)
        return self._records_of(ground).read(ground.settings.traffic, subjects, cursor)

    def forget_samples(self, _service: str, _environment: str, _cursor: Mapping[str, Any], /) -> None:
        """Prometheus forgets by itself."""

    def close(self) -> None:
        """End what reads beside the looks."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _late(self, ground: Ground, seen: Seen, found: RouteObservation | None) -> RouteObservation | None:
        """What is seen; with a word of what it waits for where that lasts: a controller that is away says nothing."""
        place = ground.service, ground.environment
        if found is None or seen.route is None or not (said := reading.awaited(seen)):
            self._awaited.pop(place, None)
            return found
        setting, now = reading.setting_of(seen), self._clock.now()
        if self._awaited.get(place, ("", 0.0))[0] != setting:
            self._awaited[place] = setting, now
        late = now - self._awaited[place][1] >= AWAITED_SECONDS
        return replace(found, problem=said) if late else found

    # Applying

    def _apply(self, ground: Ground, route: EnvironmentRoute, fence: Fence | None) -> None:
        seen = self._seen(ground)
        if seen.route is not None:
            if not _is_ours(seen.route):
                raise _not_ours(ground)
            _refuse_late(self._newest(seen.route), fence, ground.where)
        else:
            self._refuse_outrun(ground, fence)
            self._refuse_other_kind(ground)
        before = {} if seen.route is None else reading.possible_weights(seen)
        wish = documents.wish_of(route, before)
        kept = documents.wish_in(seen.route)
        token = 0 if fence is None else fence.token
        same = kept is not None and documents.is_same(kept, wish)
        changed = same and not reading.is_written(seen, wish)
        if same and not changed and kept is not None:
            wish = kept  # what was before it is still what was before it
        self._label_pods(ground, seen, kept, wish)
        self._raise_services(ground, seen, wish)
        sharing = reading.missharing(seen, wish)
        if not same or changed or token > self._newest(seen.route):
            if changed:
                self._refuse_contested(ground)
            self._refuse_unreachable(ground, seen, wish, before)
            sharing = self._let_in(ground, seen, wish, sharing)
            self._write_route(ground, seen, wish, max(token, self._newest(seen.route)))
            if changed:
                self._put_back.setdefault((route.service, route.environment), []).append(self._clock.now())
            self._sweep(ground, seen, wish, before)
        self._share(ground, sharing)

    def _label_pods(self, ground: Ground, seen: Seen, kept: documents.Wish | None, wish: documents.Wish) -> None:
        """Serving or not, for pods that had a place in the route or have one. A pod that never had one serves as it was
        made, so that it does where no engine lives."""
        listed = {i for one in wish.fleets for i in one.instances}
        had = set() if kept is None else {i for one in kept.fleets for i in one.instances}
        for pod in seen.pods:
            instance = reading.instance_of(pod)
            serving = (pod["metadata"].get("labels") or {}).get(names.SERVING)
            wanted = "true" if instance in listed else "false" if instance in had else serving
            if wanted is not None and wanted != serving:
                self._label(ground, pod, names.SERVING, wanted)

    def _let_in(
        self, ground: Ground, seen: Seen, wish: documents.Wish, sharing: list[tuple[Json, str]]
    ) -> list[tuple[Json, str]]:
        """Label those that share before the selector goes by it: all, where it does not yet. Returns: the others."""
        if wish.host is None:
            return sharing
        host = names.label_value(wish.host)
        chosen = {} if seen.route is None else seen.route["spec"].get("selector") or {}
        first = [one for one in sharing if one[1] == host or chosen.get(names.USERS) != host]
        self._share(ground, first)
        return [one for one in sharing if one not in first]

    def _share(self, ground: Ground, sharing: list[tuple[Json, str]]) -> None:
        for pod, wanted in sharing:
            self._label(ground, pod, names.USERS, wanted)

    def _label(self, ground: Ground, pod: Json, name: str, value: str) -> None:
        body: Json = {"metadata": {"labels": {name: value}, "uid": pod["metadata"]["uid"]}}
        written = ground.link.client.patch(PODS, ground.namespace, pod["metadata"]["name"], body)
        if written is not None:
            self._informer(ground, PODS).wrote(written)

    def _raise_services(self, ground: Ground, seen: Seen, wish: documents.Wish) -> None:
        found = {one["metadata"]["name"]: one for one in seen.services}
        _, services = reading.wanted_objects(seen, wish, 0)
        for wanted in services:
            held = found.get(wanted["metadata"]["name"])
            if held is None:
                written = ground.link.client.create(SERVICES, ground.namespace, wanted)
            elif not reading.holds_spec(wanted, held):
                written = self._put(ground, SERVICES, wanted)
            else:
                continue
            self._informer(ground, SERVICES).wrote(written)

    def _write_route(self, ground: Ground, seen: Seen, wish: documents.Wish, token: int) -> None:
        wanted, _ = reading.wanted_objects(seen, wish, token)
        if (ours := self._whose()) is not None:
            wanted["metadata"]["annotations"][documents.OWNER] = ours.id
        if seen.route is None:
            written = ground.link.client.create(ground.kind, ground.namespace, wanted)
        else:
            wanted["metadata"]["resourceVersion"] = seen.route["metadata"]["resourceVersion"]
            written = self._put(ground, ground.kind, wanted)
        self._informer(ground, ground.kind).wrote(written)

    def _put(self, ground: Ground, kind: Kind, wanted: Json) -> Json:
        """Apply it. What others added to a selector is theirs to whom applies, and would stay: it is taken away."""
        written: Json = ground.link.client.apply(kind, ground.namespace, wanted)
        if added := reading.surplus(wanted, written):
            version = written["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version}, "spec": {"selector": dict.fromkeys(added)}}
            written = ground.link.client.patch(kind, ground.namespace, written["metadata"]["name"], body) or written
        return written

    def _sweep(self, ground: Ground, seen: Seen, wish: documents.Wish, before: Mapping[str, int]) -> None:
        """Services of fleets that nobody can be sent to any more, by the route of before or by this one."""
        kept = {*wish.weights, *(fleet for fleet, weight in before.items() if weight)}
        fleets = reading.services_of(seen)
        for one in seen.services:
            fleet = fleets.get(one["metadata"]["name"])
            if fleet is not None and fleet not in kept:
                self._delete(ground, SERVICES, one)

    def _delete(self, ground: Ground, kind: Kind, item: Json) -> None:
        """The very object that was seen; one that is gone already is gone."""
        metadata = item["metadata"]
        ground.link.client.delete(kind, ground.namespace, metadata["name"], uid=metadata["uid"])
        self._informer(ground, kind).removed(item)

    # Refusals

    def _other(self, ground: Ground) -> Owner | None:
        """The installation that has the environment, where it is not ours."""
        ours = self._whose()
        if ours is None:
            return None
        records = self._informer(ground, CONFIG_MAPS)
        records.fresh()
        return other_owner(records.get(names.lead_name(ground.service, ground.environment)), ours)

    def _newest(self, route: Json | None) -> int:
        """The newest token that came with an effect on the route; of another ledger's, whose this was, none counts."""
        ours, theirs = self._whose(), documents.owner_in(route)
        return 0 if ours is not None and theirs not in ("", ours.id) else documents.token_in(route)

    def _refuse_outrun(self, ground: Ground, fence: Fence | None) -> None:
        """Where there is no route that would hold a token, the environment's own record does: who was outrun must not
        bring back a route that its successor took away."""
        if fence is None:
            return
        name = names.lead_name(ground.service, ground.environment)
        held = ground.link.client.get(CONFIG_MAPS, ground.namespace, name) or {}
        text = str((held.get("data") or {}).get("token", ""))
        _refuse_late(int(text) if text.isdigit() else 0, fence, f"{CONFIG_MAPS.resource} {ground.namespace}/{name}")

    def _refuse_other_kind(self, ground: Ground) -> None:
        """Callers of a Service do not come by a gateway of themselves, nor the other way round."""
        try:
            other = ground.link.client.get(ground.other_kind, ground.namespace, ground.name)
        except Permanent:
            return  # who may not read such a kind has none of it
        if other is None or not _is_ours(other) or _role(other) != "users":
            return
        was, is_ = ("a gateway", "none") if ground.settings.gateway is None else ("no gateway", "one")
        raise Permanent(
            "route-kind-changed",
            f"{ground.service}/{ground.environment} is reached by {was}, and the file now names {is_}",
            where=ground.where,
            remedy=f"rebake down {ground.environment}, then deploy; or leave kubernetes: gateway as it was",
        )

    def _refuse_unreachable(self, ground: Ground, seen: Seen, wish: documents.Wish, before: Mapping[str, int]) -> None:
        """Users are sent to a fleet only once its Service has somebody who answers, while others do."""
        others = any(weight and reading.is_ready(seen, fleet) for fleet, weight in before.items())
        for one in wish.fleets:
            if one.weight and not before.get(one.fleet) and others and not reading.is_ready(seen, one.fleet):
                service = names.route_name(ground.service, ground.environment, one.fleet)
                raise Transient(
                    "fleet-not-reachable",
                    f"expected a ready endpoint of Service {service} before its first user, found none",
                    where=ground.where,
                    retry_after_seconds=0.2,
                )

    def _refuse_contested(self, ground: Ground) -> None:
        """Put a change of somebody else back, unless it comes again and again: then seldom, and said aloud."""
        key, now = (ground.service, ground.environment), self._clock.now()
        recent = [at for at in self._put_back.get(key, ()) if 0 <= now - at < CONTESTED_SECONDS]
        self._put_back[key] = recent
        if len(recent) < CONTESTED:
            return
        live = ground.link.client.get(ground.kind, ground.namespace, ground.name)
        owner = reading.foreign_owner(live) if live is not None else ""
        raise Transient(
            "route-contested",
            f"the route was put back {CONTESTED} times within {CONTESTED_SECONDS:g}s, and is changed again"
            + (f" by {owner}" if owner else ""),
            where=ground.where,
            remedy="let whoever writes these fields leave this object to rebake",
            retry_after_seconds=CONTESTED_SECONDS / 4,
        )

    # Records

    def _records_of(self, ground: Ground) -> Records:
        key = ground.service, ground.environment
        found = self._records.get(key)
        return found if found is not None else self._records.setdefault(key, Records(self._clock, self._submit))

    def _subjects(self, ground: Ground, seen: Seen) -> list[Subject]:
        """The fleets of the route. A pod that is gone is remembered while its fleet is there: what it answered is read
        after it has ended. An address has the fleet of its newest pod."""
        key = ground.service, ground.environment
        fleets = reading.services_of(seen)
        known = self._addresses.setdefault(key, {})
        for fleet, pod, address in reading.addresses(seen, fleets.values()):
            known[address] = fleet, pod
        for address in [one for one, (fleet, _) in known.items() if fleet not in fleets.values()]:
            del known[address]
        return [
            Subject(
                ground.service,
                ground.environment,
                ground.namespace,
                ground.name,
                fleet,
                backend,
                {pod: address for address, (owner, pod) in known.items() if owner == fleet},
            )
            for backend, fleet in sorted(fleets.items())
        ]

    # What is known

    def _heard(self, kind: Kind, item: Json) -> None:
        labels = item["metadata"].get("labels") or {}
        place = labels.get(names.SERVICE), labels.get(names.ENVIRONMENT)
        if kind in _KINDS and self.on_change is not None and None not in place:
            self.on_change(str(place[0]), str(place[1]))

    def _ground(self, service: str, environment: str) -> Ground | None:
        """None where no plan says in which cluster it is."""
        doc = self._wishes.settings(service, environment)
        if not doc:
            return None
        settings = settings_from(doc)
        link = self._clusters.link(settings)
        return Ground(service, environment, settings, link, link.namespace(settings))

    def _informer(self, ground: Ground, kind: Kind) -> Any:
        return ground.link.informer(kind, ground.namespace)

    def _of(self, ground: Ground, kind: Kind) -> list[Json]:
        informer = self._informer(ground, kind)
        informer.fresh()
        found: list[Json] = informer.of(ground.service, ground.environment)
        return found

    def _get(self, ground: Ground, kind: Kind) -> Json | None:
        """What our watch knows of the object of the environment's name; a stranger's is asked for."""
        return next((one for one in self._of(ground, kind) if one["metadata"]["name"] == ground.name), None)

    def _seen(self, ground: Ground) -> Seen:
        for kind in (ground.kind, SERVICES, ENDPOINT_SLICES, PODS):
            self._informer(ground, kind)  # all begin before one is waited for
        try:
            route = self._get(ground, ground.kind)
        except Absent as error:
            raise _no_gateway_api(ground) from error
        return Seen(
            ground.service,
            ground.environment,
            ground.namespace,
            ground.settings.gateway,
            route,
            self._of(ground, SERVICES),
            self._of(ground, ENDPOINT_SLICES),
            self._of(ground, PODS),
        )

    def _read_again(self, ground: Ground) -> None:
        """Somebody wrote first: what is there now is asked for, the watch may be late."""
        live = ground.link.client.get(ground.kind, ground.namespace, ground.name)
        if live is None:
            return
        if not _is_ours(live):
            raise _not_ours(ground)
        self._informer(ground, ground.kind).wrote(live)


def _role(item: Json) -> str:
    return str((item["metadata"].get("labels") or {}).get(documents.ROLE, ""))


def _is_ours(item: Json) -> bool:
    return bool((item["metadata"].get("labels") or {}).get(names.MANAGED) == names.MANAGER)


def _refuse_late(newest: int, fence: Fence | None, where: str) -> None:
    if fence is not None and fence.token < newest:
        raise too_late(fence, newest, where)


def _refuse_shares(ground: Ground, route: EnvironmentRoute) -> None:
    """A Service's selector gives all users to one fleet, unless shares are those of instances."""
    shares = [one for one in route.fleets if one.weight_basis_points]
    by_weight = len(shares) > 1 and any(one.called is None for one in shares)
    if ground.settings.gateway is None and (by_weight or route.mirror is not None):
        raise Permanent(
            "gateway-needed",
            "expected one fleet with all users, as a Service has no shares, found several",
            where=ground.where,
            remedy="write kubernetes: {gateway: {name: …}}, or {canary_by: instances}, or strategy: blue-green",
        )


def _not_ours(ground: Ground) -> Permanent:
    return Permanent(
        "route-not-ours",
        f"expected no {ground.kind.name} {ground.name}, or one that rebake made, found somebody else's",
        where=ground.where,
        remedy=f"kubectl delete {ground.kind.plural} {ground.name} -n {ground.namespace}, if nobody needs it",
    )


def _no_gateway_api(ground: Ground) -> Permanent:
    return Permanent(
        "gateway-api-missing",
        f"expected a cluster with {HTTP_ROUTES.resource} ({HTTP_ROUTES.version}), found none",
        where=ground.where,
        remedy="install the Gateway API and a controller for it, or leave kubernetes: gateway out",
    )
