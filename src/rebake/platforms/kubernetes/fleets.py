"""The effects on one cluster: fleets made, changed and removed, each by what was read just before.

Every write carries the version of the object that it was decided on. Who comes second reads again and decides anew; who
was killed in between left a state that `converge` goes on from.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rebake.core.clock import Clock
from rebake.errors import Transient
from rebake.kubernetes.clusters import ClusterLink
from rebake.kubernetes.faults import Stale, Taken
from rebake.kubernetes.names import FLEET, label_value
from rebake.kubernetes.owners import Whose, nobody
from rebake.kubernetes.resources import AUTOSCALERS, CONFIG_MAPS, DEPLOYMENTS, PODS, STATEFUL_SETS, Json, Kind
from rebake.ledger.fencing import too_late
from rebake.ledger.ports import Fence
from rebake.platforms.kubernetes import requests
from rebake.platforms.kubernetes.reasons import Refusal
from rebake.platforms.kubernetes.records import LEAST, REQUEST, FleetRecord, FleetState, Place, read_fleet
from rebake.platforms.kubernetes.steps import Deletion, Step, least_of, step, wants_to_know

_TRIES = 12
_PAUSE_SECONDS = 0.02
_DEEPEST = 20
"""More steps than one fleet ever needs to come to rest."""
Secrets = Callable[[FleetRecord], Mapping[str, str]]
"""The values of a fleet's secrets, by name."""


@dataclass(frozen=True, slots=True)
class Where:
    """A namespace of a cluster, and which kinds of fleets are looked for in it."""

    link: ClusterLink
    namespace: str
    kinds: frozenset[Kind] = frozenset({DEPLOYMENTS})

    def fresh(self) -> None:
        """Return once what is there is known. Raises: PlatformError."""
        kinds = (*sorted(self.kinds, key=lambda one: one.plural), PODS, CONFIG_MAPS)
        for one in [self.link.informer(kind, self.namespace) for kind in kinds]:  # all begin before one is waited for
            one.fresh()

    def fleets(self, service: str, environment: str) -> list[FleetState]:
        found = []
        for kind in sorted(self.kinds, key=lambda one: one.plural):
            for item in self.link.informer(kind, self.namespace).of(service, environment):
                if (fleet := read_fleet(kind, item)) is not None:
                    found.append(fleet)
        return found

    def pods(self, service: str, environment: str) -> list[Json]:
        return self.link.informer(PODS, self.namespace).of(service, environment)

    def given(self, service: str, environment: str) -> Iterator[tuple[FleetState, Json]]:
        """Every pod that an instance was given, with its fleet."""
        pods = {str(pod["metadata"]["uid"]): pod for pod in self.pods(service, environment)}
        for fleet in self.fleets(service, environment):
            yield from ((fleet, pods[place.uid]) for place in fleet.places if place.uid in pods)

    def pods_of(self, fleet: FleetState) -> list[Json]:
        """The pods that its controller made for it."""
        label = label_value(fleet.record.spec.fleet)
        return [
            pod
            for pod in self.pods(*fleet.key)
            if (pod["metadata"].get("labels") or {}).get(FLEET) == label and made_by(pod, fleet)
        ]


def made_by(pod: Json, fleet: FleetState) -> bool:
    """Whether a fleet's controller made this pod: a StatefulSet itself, a Deployment by one of its ReplicaSets."""
    owner = next((one for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")), None)
    if owner is None:
        return False
    if fleet.kind == STATEFUL_SETS:
        return bool(owner["uid"] == fleet.uid)
    return bool(owner["kind"] == "ReplicaSet" and owner["name"].rpartition("-")[0] == fleet.name)


class Fleets:
    """All fleets of one namespace, as one engine changes them. Safe from several threads.

    Args:
        patient: tells for which pods (uids) an autoscaler brings a node.
        well: tells which instances were seen healthy.
        told: tells what events say of pods that could not be made for a fleet.
        whose: tells who we are.
    """

    def __init__(
        self,
        clock: Clock,
        secrets: Secrets,
        patient: Callable[[], set[str]],
        well: Callable[[], set[str]],
        told: Callable[[Json], Refusal | None],
        *,
        whose: Whose = nobody,
    ) -> None:
        self._whose = whose
        self._clock, self._secrets, self._patient, self._well, self._told = clock, secrets, patient, well, told
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    # What the engine asks for.

    def add(self, where: Where, record: FleetRecord, instance: str, fence: Fence | None) -> None:
        """Make sure that an instance has a place; the first of a fleet makes the fleet. Raises: PlatformError."""
        kind, name = requests.kind_of(record.settings), requests.name_of(record)
        for attempt in range(_TRIES):
            fleet = self._known(where, kind, name) if attempt == 0 else self._read(where, kind, name)
            try:
                if fleet is None:
                    fleet = self._create(where, record, instance, fence)
                else:
                    fleet = self._place(where, fleet, instance, fence)
                if not fleet.complete:
                    self._complete(where, fleet)
            except (Stale, Taken):
                self._pause(attempt)
                continue
            return
        raise _contended(kind, where, name)

    def stop(self, where: Where, fleet: FleetState, instance: str, grace_ms: int, fence: Fence | None) -> None:
        """Note that an instance is to finish, and until when. Raises: PlatformError."""
        found: FleetState | None = fleet
        for attempt in range(_TRIES):
            if found is None or (place := found.place(instance)) is None:
                return
            self._check(found, fence)
            now = self._clock.now()
            deadline = now + grace_ms / 1000
            if place.stopping and (deadline >= place.deadline or found.leaving):
                return
            after = found.with_place(_stopped(place, now, deadline))
            try:
                self._patch(where, found, requests.change(found, after, token=_token(fence), replicas=None))
            except Stale:
                self._pause(attempt)
                found = self._read(where, fleet.kind, fleet.name)
                continue
            return
        raise _contended(fleet.kind, where, fleet.name)

    def converge(self, where: Where, fleet: FleetState) -> float:
        """Do what `steps` says until nothing is left to do. Returns: when to look again. Raises: PlatformError."""
        with self._lock_of(fleet.uid):
            found: FleetState | None = fleet
            gone: set[str] = set()
            for attempt in range(_DEEPEST):
                found = self._known(where, fleet.kind, fleet.name) if attempt == 0 else found
                if found is None or found.leaving or found.uid != fleet.uid:
                    return float("inf")
                try:
                    if not found.complete:
                        found = self._complete(where, found)
                    now, patient, well = self._clock.now(), self._patient(), self._well()
                    told = self._told(found.item) if wants_to_know(found, now) else None
                    pods = where.pods_of(found)
                    intended = step(found, pods, now, gone=gone, patient=patient, well=well, told=told)
                    if intended.unseen:
                        gone |= self._ask(where, intended.unseen)
                        continue
                    after = self._do(where, found, intended)
                except Stale:
                    self._pause(attempt)
                    found = self._read(where, fleet.kind, fleet.name)
                    continue
                if after is found:
                    return intended.wake_at
                found = after
        return self._clock.now() + 1.0

    # Steps.

    def _do(self, where: Where, fleet: FleetState, intended: Step) -> FleetState | None:
        """One step's writes, in the order that `Step` names. Returns: the fleet afterwards, itself if it is at rest."""
        if intended.replicas is not None and intended.places and all(one.stopping for one in intended.places):
            body = requests.change(fleet, intended.places, token=0, replicas=intended.replicas)
            fleet = self._patch(where, fleet, body)
        for one in intended.deletions:
            self._delete(where, one)
        if intended.remove:
            where.link.client.delete(fleet.kind, where.namespace, fleet.name, uid=fleet.uid, version=fleet.version)
            where.link.informer(fleet.kind, where.namespace).removed(fleet.item)
            return None
        after, notes = fleet, {}
        if fleet.record.settings.autoscale is not None and fleet.complete:
            least = max(1, least_of(fleet, intended.places))
            if least != fleet.least:
                where.link.client.apply(AUTOSCALERS, where.namespace, requests.autoscaler(fleet, least))
                notes = {LEAST: str(least)}
        if notes or intended.replicas not in (None, fleet.replicas) or intended.places != fleet.places:
            body = requests.change(fleet, intended.places, token=0, replicas=intended.replicas, **notes)
            after = self._patch(where, fleet, body)
        for pod, instance in intended.marks:
            self._mark(where, pod, instance)
        return after

    def _delete(self, where: Where, one: Deletion) -> None:
        metadata = one.pod["metadata"]
        client, pods = where.link.client, where.link.informer(PODS, where.namespace)
        try:
            left = client.delete(
                PODS, where.namespace, metadata["name"], uid=metadata["uid"], grace_seconds=one.grace_seconds
            )
        except Stale:  # another pod has the name by now
            left = None
        if left is None:
            pods.removed(one.pod)
        else:
            pods.wrote(left)

    def _mark(self, where: Where, pod: Json, instance: str) -> None:
        name = str(pod["metadata"]["name"])
        body = requests.given(instance)
        body["metadata"]["uid"] = pod["metadata"]["uid"]
        marked = where.link.client.patch(PODS, where.namespace, name, body)
        if marked is not None:
            where.link.informer(PODS, where.namespace).wrote(marked)

    def _ask(self, where: Where, places: Iterable[Place]) -> set[str]:
        """Which pods are really gone."""
        gone = set()
        for place in places:
            found = where.link.client.get(PODS, where.namespace, place.pod)
            if found is None or found["metadata"]["uid"] != place.uid:
                gone.add(place.uid)
            else:
                where.link.informer(PODS, where.namespace).wrote(found)
        return gone

    def _create(self, where: Where, record: FleetRecord, instance: str, fence: Fence | None) -> FleetState:
        place = Place(instance, self._clock.now())
        ours = self._whose()
        body = requests.fleet_request(record, (place,), _token(fence), "" if ours is None else ours.id)
        kind = requests.kind_of(record.settings)
        return self._took(where, kind, where.link.client.create(kind, where.namespace, body))

    def _place(self, where: Where, fleet: FleetState, instance: str, fence: Fence | None) -> FleetState:
        """Add a place, unless there is one. What somebody made of the template is put back first."""
        self._check(fleet, fence)
        if fleet.leaving:
            raise Transient("kubernetes-leaving", f"{fleet.kind.resource} {fleet.name} is being deleted")
        if fleet.place(instance) is not None:
            return fleet
        if changed_template(fleet):
            template = requests.template_of(fleet.record)
            template["spec"] = json.loads(fleet.item["metadata"]["annotations"][REQUEST])
            body = requests.restored(fleet, template)
            fleet = self._took(where, fleet.kind, where.link.client.apply(fleet.kind, where.namespace, body))
        places = (*fleet.places, Place(instance, self._clock.now()))
        wished = least_of(fleet, places)
        replicas = wished if fleet.complete and fleet.replicas < wished else None
        return self._patch(where, fleet, requests.change(fleet, places, token=_token(fence), replicas=replicas))

    def _complete(self, where: Where, fleet: FleetState) -> FleetState:
        """Make what the pods need, then let them be raised."""
        client = where.link.client
        for kind, body in requests.companions(fleet, self._secrets(fleet.record)):
            made = client.apply(kind, where.namespace, body)
            if kind == CONFIG_MAPS:
                where.link.informer(kind, where.namespace).wrote(made)
        notes, least = {}, least_of(fleet, fleet.places)
        if fleet.record.settings.autoscale is not None:
            client.apply(AUTOSCALERS, where.namespace, requests.autoscaler(fleet, max(1, least)))
            notes = {LEAST: str(max(1, least))}
            least = max(least, self._grown(where, fleet))
        return self._patch(where, fleet, requests.completed(fleet, least, **notes))

    def _grown(self, where: Where, fleet: FleetState) -> int:
        """How many pods an autoscaler gave the largest fleet beside this one. Its users may come all at once, and this
        fleet's own autoscaler sees their load only then, and late."""
        spec, wished = fleet.record.spec, fleet.record.settings.autoscale
        beside = [one.replicas for one in where.fleets(spec.service, spec.environment) if one.uid != fleet.uid]
        return 0 if wished is None else min(max(beside, default=0), wished.max)

    def _check(self, fleet: FleetState, fence: Fence | None) -> None:
        """Refuse what comes too late. Of another ledger's tokens, whose environment this was, none says when."""
        ours = self._whose()
        theirs = ours is not None and fleet.owner not in ("", ours.id)
        if fence is not None and fence.token < fleet.token and not theirs:
            raise too_late(fence, fleet.token)

    # Reading and writing.

    def _patch(self, where: Where, fleet: FleetState, body: Json) -> FleetState:
        """Raises: Stale, also where the fleet is gone: then who asked reads again."""
        item = where.link.client.patch(fleet.kind, where.namespace, fleet.name, body)
        if item is None:
            where.link.informer(fleet.kind, where.namespace).removed(fleet.item)
            raise Stale("kubernetes-conflict", f"{fleet.kind.resource} {fleet.name} is gone")
        return self._took(where, fleet.kind, item)

    def _took(self, where: Where, kind: Kind, item: Json) -> FleetState:
        where.link.informer(kind, where.namespace).wrote(item)
        fleet = read_fleet(kind, item)
        if fleet is None:
            raise Taken(
                "kubernetes-exists",
                f"expected a fleet of rebake, found another {kind.name} of that name",
                where=f"{kind.resource} {where.namespace}/{item['metadata']['name']}",
                remedy="remove it, if nobody needs it",
            )
        return fleet

    def _known(self, where: Where, kind: Kind, name: str) -> FleetState | None:
        item = where.link.informer(kind, where.namespace).get(name)
        return read_fleet(kind, item) if item is not None else None

    def _read(self, where: Where, kind: Kind, name: str) -> FleetState | None:
        item = where.link.client.get(kind, where.namespace, name)
        return None if item is None else self._took(where, kind, item)

    @staticmethod
    def _pause(attempt: int) -> None:
        threading.Event().wait(_PAUSE_SECONDS * random.uniform(0.5, 1.5) * min(attempt + 1, 5))

    def _lock_of(self, uid: str) -> threading.Lock:
        with self._lock:
            if len(self._locks) > 4096:
                self._locks = {one: lock for one, lock in self._locks.items() if lock.locked()}
            return self._locks.setdefault(uid, threading.Lock())


def changed_template(fleet: FleetState) -> bool:
    """Whether the template is another one than was asked for, as far as that said something."""
    asked = (fleet.item["metadata"].get("annotations") or {}).get(REQUEST)
    return asked is not None and not holds(fleet.item["spec"]["template"]["spec"], json.loads(asked))


def holds(found: object, asked: object) -> bool:
    """Whether everything that was asked for is found, and no list has more than that.

    >>> holds({"a": 1, "b": [{"c": 2, "d": 3}]}, {"b": [{"c": 2}]}), holds([1, 2], [1])
    (True, False)
    """
    if isinstance(asked, Mapping):
        return isinstance(found, Mapping) and all(holds(found.get(name), value) for name, value in asked.items())
    if isinstance(asked, Sequence) and not isinstance(asked, str):
        rows = isinstance(found, Sequence) and not isinstance(found, str) and len(found) == len(asked)
        return rows and all(holds(one, other) for one, other in zip(found, asked, strict=True))  # type: ignore[call-overload]
    return found == asked


def _stopped(place: Place, now: float, deadline: float) -> Place:
    return replace(place, stopping=place.stopping or now, deadline=deadline)


def _token(fence: Fence | None) -> int:
    return 0 if fence is None else fence.token


def _contended(kind: Kind, where: Where, name: str) -> Transient:
    place = f"{kind.resource} {where.namespace}/{name}"
    return Transient("kubernetes-conflict", "others change it again and again", where=place)
