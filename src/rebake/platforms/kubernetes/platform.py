"""The `kubernetes` platform behind the port: joins requests, records, steps and watches."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from rebake.core.clock import Clock, SystemClock
from rebake.core.home import Home
from rebake.errors import Permanent, PlatformError, RebakeError
from rebake.kubernetes.clusters import Clusters
from rebake.kubernetes.names import ENVIRONMENT, SERVICE, lead_name
from rebake.kubernetes.owners import Whose, nobody, other_owner
from rebake.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, SECRETS, STATEFUL_SETS, Json, Kind
from rebake.kubernetes.settings import KubernetesSettings, settings_from
from rebake.ledger.ports import Fence
from rebake.platforms.faults import disk_errors
from rebake.platforms.findings import Finding
from rebake.platforms.kubernetes import drift
from rebake.platforms.kubernetes.audit import AuditLog
from rebake.platforms.kubernetes.doctor import findings
from rebake.platforms.kubernetes.doors import Door, opened
from rebake.platforms.kubernetes.fleets import Fleets, Where
from rebake.platforms.kubernetes.homes import Spot, Spots, spot_of
from rebake.platforms.kubernetes.keeper import Keeper, Key
from rebake.platforms.kubernetes.leads import Leads
from rebake.platforms.kubernetes.podlogs import PodLogs
from rebake.platforms.kubernetes.ports import Published, Publisher
from rebake.platforms.kubernetes.records import REQUEST, FleetRecord, FleetState, Place, general
from rebake.platforms.kubernetes.requests import kind_of, record_for, user_of
from rebake.platforms.kubernetes.seen import STRANGER, address_of, instance_of, strangers
from rebake.platforms.kubernetes.words import Words
from rebake.platforms.model import Drift, Instance, InstanceSpec
from rebake.platforms.ports import Progress
from rebake.platforms.sources import SecretSource
from rebake.platforms.wishes import NoWishes, Wishes
from rebake.release.manifest import Release

SECRETS_SECONDS = 60.0
_OURS = frozenset({DEPLOYMENTS, STATEFUL_SETS, PODS})


class KubernetesPlatform:
    """Instances are pods of a fleet's Deployment or StatefulSet; they outlive this object and its program.

    Args:
        home: where it is kept which namespaces have fleets, and logs of instances that are gone.
        publisher: puts releases where nodes pull them.
        secrets: values of secrets by version.
        clusters: shared with the route; whoever made it closes it.
        wishes: what environments ask of their cluster.
        whose: tells which installation this is; nothing of another one's environments is seen or touched.

    Attributes:
        on_change: told (service, environment) on a thread of this object when something changed.
    """

    name = "kubernetes"

    def __init__(
        self,
        home: Home,
        publisher: Publisher,
        secrets: SecretSource,
        clusters: Clusters,
        clock: Clock | None = None,
        *,
        wishes: Wishes | None = None,
        whose: Whose = nobody,
    ) -> None:
        self.on_change: Callable[[str, str], None] | None = None
        self._home, self._publisher, self._secrets, self._clusters = home, publisher, secrets, clusters
        self._clock = clock or SystemClock()
        self._wishes = wishes or NoWishes()
        self._spots = Spots(home.clusters / "places.json")
        self._logs = PodLogs(home.clusters / "logs")
        self._words = Words(self._clock.now)
        self._well: set[str] = set()
        told = self._words.refusal
        self._fleets = Fleets(self._clock, self._values, self._words.patient, self._seen_well, told, whose=whose)
        self._leads, self._whose = Leads(whose), whose
        self._keeper = Keeper(self._clock, self._keep)
        self._published: dict[tuple[str, str], Published] = {}
        self._publishing = threading.Lock()
        self._drift: dict[str, tuple[Drift, ...]] = {}
        self._secrets_seen: dict[str, tuple[float, tuple[Drift, ...]]] = {}
        self._strangers: dict[str, float] = {}
        self._audits: dict[str, AuditLog] = {}
        self._keys: set[Key] = set()
        self._trouble: dict[Key, RebakeError] = {}
        self._lock = threading.RLock()
        self._closed = False
        clusters.listen(self._heard)

    # The port.

    def prepare(self, release: Release, progress: Progress) -> None:
        """See that the release is where the nodes of every environment pull it. See `Platform.prepare`."""
        for environment in self._wishes.environments(release.service):
            self._publish(release.digest, self._settings(release.service, environment), progress)

    def launch(self, spec: InstanceSpec, *, fence: Fence | None = None) -> None:
        """Give an instance a place in its fleet, which is made with its first. See `Platform.launch`.

        Raises: what `prepare` raises; Permanent naming the permission, the quota or the policy that stands in the way.
        """
        self._raise_trouble((spec.service, spec.environment))
        settings = self._settings(spec.service, spec.environment)
        where = self._where(spot_of(settings, self._namespace(settings)))
        self._leads.check(where.link, where.namespace, fence)
        published = self._publish(spec.release, settings, _silent)
        record = record_for(general(spec), settings, published.reference, user_of(settings, published.user))
        with disk_errors(self._home.root):
            self._spots.add(spec.service, spec.environment, spot_of(settings, where.namespace))
        self._know((spec.service, spec.environment))
        where.fresh()
        self._fleets.add(where, record, spec.id, fence)
        self._keeper.tell((spec.service, spec.environment))

    def observe(self, service: str, environment: str) -> Sequence[Instance]:
        """What the watches know. See `Platform.observe`."""
        self._know((service, environment))
        found: list[Instance] = []
        for where in self._ours(service, environment):
            fleets, pods = where.fleets(service, environment), where.pods(service, environment)
            by_uid = {str(pod["metadata"]["uid"]): pod for pod in pods}
            for fleet in fleets:
                if fleet.leaving:
                    continue
                found += [self._instance(fleet, place, by_uid.get(place.uid)) for place in fleet.places]
            found += strangers(fleets, pods, self._foreign(where, service, environment, fleets), self._strangers)
        if self._words.wanted():
            self._keeper.tell((service, environment))
        return found

    def retire(self, instance: str, grace_ms: int, *, fence: Fence | None = None) -> None:
        """Note that it is to finish; its pod is deleted on the keeper's thread, with those of others that leave.

        See `Platform.retire`. Raises: also what kept the keeper from its work, such as a missing permission.
        """
        if instance.startswith(STRANGER):
            self._retire_stranger(instance.removeprefix(STRANGER), grace_ms)
            return
        located = self._locate(instance)
        if located is None:
            return
        where, fleet, place = located
        self._raise_trouble(fleet.key)
        self._leads.check(where.link, where.namespace, fence)
        self._logs.keep(where.link.client, where.namespace, place)
        self._fleets.stop(where, fleet, instance, grace_ms, fence)
        with self._lock:
            self._drift.pop(instance, None)
            self._well.discard(instance)
            self._secrets_seen.pop(fleet.uid, None)
        self._keeper.tell(fleet.key)

    def logs(self, instance: str, lines: int) -> Sequence[str]:
        """The last lines it wrote. See `Platform.logs`."""
        if lines <= 0 or instance.startswith(STRANGER):
            return ()
        located = self._locate(instance)
        if located is not None and located[2].pod:
            where, _, place = located
            if found := self._logs.read(where.link.client, where.namespace, place, lines):
                return found
        return self._logs.kept(instance, lines)

    def reach(self, addresses: Sequence[str]) -> AbstractContextManager[Sequence[str]]:
        """Through the API server, unless we are in the cluster. See `Platform.reach`."""
        with self._lock:
            keys = list(self._keys)
        known: dict[str, Door] = {}
        for key in keys:
            for where in self._ours(*key):
                for place, pod in where.given(*key):
                    if (address := address_of(place, pod)) is not None:
                        known[address] = Door(where.link, where.namespace, str(pod["metadata"]["name"]), address)
        return opened([known.get(one, one) for one in addresses])

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        """Look for drift in images, specifications, settings, sessions and strangers. See `Platform.inspect`."""
        for where in self._ours(service, environment):
            for fleet in where.fleets(service, environment):
                if not fleet.leaving and fleet.complete:
                    self._inspect(where, fleet)
        return self.observe(service, environment)

    # Beside the port.

    def doctor(self) -> list[Finding]:
        """What the clusters of this home's environments offer, and which permissions are missing."""
        spots = sorted({spot for spots in self._spots.all().values() for spot in spots}, key=str)
        with self._lock:
            dumb = [(path, audit.problem) for path, audit in self._audits.items() if audit.problem]
        remedy = "let the agent read it, or take kubernetes.audit_log out of the file"
        unread = [Finding(f"audit log {path}", False, problem, remedy) for path, problem in dumb]
        return [*findings(self._clusters, spots), *unread]

    def forget(self, _digest: str) -> int:
        """Nothing is kept here of a release: what a registry keeps is the registry's to clean."""
        return 0

    def close(self) -> None:
        """End the keeping. Nothing in any cluster is touched."""
        with self._lock:
            self._closed = True
            for audit in self._audits.values():
                audit.close()
        self._keeper.close()

    # Where things are.

    def _settings(self, service: str, environment: str) -> KubernetesSettings:
        return settings_from(self._wishes.settings(service, environment))

    def _namespace(self, settings: KubernetesSettings) -> str:
        return self._clusters.link(settings).namespace(settings)

    def _where(self, spot: Spot) -> Where:
        if self._closed:
            raise Permanent("platform-closed", "the platform was closed", remedy="make another one")
        settings = spot.settings
        return Where(self._clusters.link(settings), spot.namespace, frozenset({kind_of(settings)}))

    def _wheres(self, service: str, environment: str) -> list[Where]:
        """Every namespace in which an environment may have fleets: where its file points, and where it pointed."""
        spots = list(self._spots.of(service, environment))
        if block := self._wishes.settings(service, environment):
            settings = settings_from(block)
            current = spot_of(settings, self._namespace(settings))
            spots += [current] if current not in spots else []
        return [self._where(spot) for spot in spots]

    def _ours(self, service: str, environment: str) -> Iterator[Where]:
        """Those of `_wheres` in which the environment is not another installation's, with all that is there known."""
        for where in self._wheres(service, environment):
            where.fresh()
            record = where.link.informer(CONFIG_MAPS, where.namespace).get(lead_name(service, environment))
            if other_owner(record, self._whose()) is None:
                yield where

    def _locate(self, instance: str) -> tuple[Where, FleetState, Place] | None:
        """Which fleet has this instance. Raises: PlatformError where it may be in a cluster that cannot be asked."""
        with self._lock:
            keys = list(dict.fromkeys([*self._keys, *self._spots.all()]))
        unknown: PlatformError | None = None
        for key in keys:
            try:
                for where in self._ours(*key):
                    for fleet in where.fleets(*key):
                        if (place := fleet.place(instance)) is not None and not fleet.leaving:
                            return where, fleet, place
            except PlatformError as error:
                unknown = error
        if unknown is not None:
            raise unknown
        return None

    def _know(self, key: Key) -> None:
        with self._lock:
            new = key not in self._keys
            self._keys.add(key)
        if new:
            self._keeper.tell(key)

    # Keeping.

    def _heard(self, kind: Kind, item: Json) -> None:
        """An object changed: its environment is looked at."""
        labels = item["metadata"].get("labels") or {}
        key = (labels.get(SERVICE, ""), labels.get(ENVIRONMENT, ""))
        if kind in _OURS and key in self._keys and not self._closed:
            self._keeper.tell(key)

    def _keep(self, key: Key) -> float:
        """Bring every fleet of an environment to what its places say. Returns: when to look again."""
        wake_at = float("inf")
        try:
            self._trouble.pop(key, None)
            for where in self._ours(*key):
                for fleet in where.fleets(*key):
                    wake_at = min(wake_at, self._fleets.converge(where, fleet))
                    if self._listen_to(where, fleet):
                        wake_at = self._clock.now()
            self._forget_spots(key)
        except RebakeError as error:
            self._trouble[key] = error
            raise
        finally:
            if self.on_change is not None:
                self.on_change(*key)
        return wake_at

    def _forget_spots(self, key: Key) -> None:
        """Where the file points no more, and where nothing is left."""
        block = self._wishes.settings(*key)
        current = spot_of(settings := settings_from(block), self._namespace(settings)) if block else None
        for spot in self._spots.of(*key):
            if spot != current and not self._where(spot).fleets(*key):
                with disk_errors(self._home.root):
                    self._spots.forget(*key, spot)

    def _raise_trouble(self, key: Key) -> None:
        """What the keeper met is told to whoever asks for a change next, once."""
        error = self._trouble.pop(key, None)
        if error is not None:
            self._keeper.tell(key)
            raise error

    def _listen_to(self, where: Where, fleet: FleetState) -> bool:
        """What events say of its pods, for whoever wanted to know. Returns: whether there is news."""
        if not self._words.wanted():
            return False
        items = [fleet.item, *where.pods_of(fleet)]
        return self._words.ask(where.link, where.namespace, items, fleet.record.spec.run.health.path)

    def _publish(self, digest: str, settings: KubernetesSettings, progress: Progress) -> Published:
        if settings.registry is None:
            raise Permanent(
                "registry-missing",
                "expected a repository that the cluster's nodes can pull from, found none",
                where="kubernetes.registry",
                remedy="write bake.repository, or registry under kubernetes, and deploy again",
            )
        place = (digest, settings.registry)
        with self._publishing:
            if place not in self._published:
                self._published[place] = self._publisher.publish(digest, settings.registry, progress)
            return self._published[place]

    def _values(self, record: FleetRecord) -> Mapping[str, str]:
        return {name: self._secrets.secret(one.version) for name, one in sorted(record.spec.secrets.items())}

    # Observing.

    def _instance(self, fleet: FleetState, place: Place, pod: Json | None) -> Instance:
        now, found, well = self._clock.now(), self._drift.get(place.id, ()), place.id in self._well
        seen = instance_of(fleet, place, pod, now=now, word=self._words.of, known_well=well, drift=found)
        if seen.was_healthy and not place.settled and not well:
            with self._lock:
                self._well.add(place.id)
            self._keeper.tell(fleet.key)
        elif place.settled and well:
            with self._lock:
                self._well.discard(place.id)
        return seen

    def _seen_well(self) -> set[str]:
        """Instances that were told to be healthy, until that is written down."""
        with self._lock:
            return set(self._well)

    @staticmethod
    def _foreign(where: Where, service: str, environment: str, fleets: Sequence[FleetState]) -> dict[str, Json]:
        """Objects with our labels that are no fleets: somebody made them by hand."""
        ours = {(fleet.kind, fleet.name) for fleet in fleets}
        return {
            str(item["metadata"]["name"]): item
            for kind in where.kinds
            for item in where.link.informer(kind, where.namespace).of(service, environment)
            if (kind, item["metadata"]["name"]) not in ours
        }

    def _inspect(self, where: Where, fleet: FleetState) -> None:
        asked = json.loads(fleet.item["metadata"]["annotations"][REQUEST])
        shared = tuple(self._shared_drift(where, fleet, asked))
        by_uid = {str(pod["metadata"]["uid"]): pod for pod in where.pods_of(fleet)}
        audit = self._audit(fleet)
        for place in fleet.places:
            pod = by_uid.get(place.uid)
            if pod is not None and not place.ended and not place.stopping:
                found = drift.pod_drift(place.id, fleet, pod, asked)
                self._drift[place.id] = (*found, *(audit.drift(place.id, pod) if audit else ()), *shared)

    def _audit(self, fleet: FleetState) -> AuditLog | None:
        """The audit log that tells of this fleet's pods, read up to now."""
        path = self._settings(fleet.record.spec.service, fleet.record.spec.environment).audit_log
        if path is None:
            return None
        with self._lock:
            audit = self._audits.setdefault(path, AuditLog(Path(path)))
            audit.read()
        return audit

    def _shared_drift(self, where: Where, fleet: FleetState, asked: Json) -> Iterator[Drift]:
        """What all pods of a fleet are made from."""
        yield from drift.object_drift(fleet, asked)
        found = where.link.informer(CONFIG_MAPS, where.namespace).get(fleet.name)
        yield from drift.settings_drift(fleet, found)
        if fleet.record.spec.secrets:
            with suppress(RebakeError):  # another engine has the values
                yield from self._secrets_drift(where, fleet)

    def _secrets_drift(self, where: Where, fleet: FleetState) -> tuple[Drift, ...]:
        """Secrets are not watched, since who may watch them may read them all; each is looked at once in a while."""
        looked, known = self._secrets_seen.get(fleet.uid, (-SECRETS_SECONDS, ()))
        if time.monotonic() - looked >= SECRETS_SECONDS:
            encoded = {name: _encoded(text) for name, text in self._values(fleet.record).items()}
            found = where.link.client.get(SECRETS, where.namespace, fleet.name)
            known = tuple(drift.secrets_drift(fleet, found, encoded))
            self._secrets_seen[fleet.uid] = time.monotonic(), known
        return known

    # Retiring.

    def _retire_stranger(self, name: str, grace_ms: int) -> None:
        with self._lock:
            keys = list(self._keys)
        for key in keys:
            for where in self._ours(*key):
                pods = where.link.informer(PODS, where.namespace)
                pod = pods.get(name)
                if pod is None or pod not in where.pods(*key):
                    continue
                self._strangers[name] = self._clock.now()
                grace, uid = max(1, grace_ms // 1000), str(pod["metadata"]["uid"])
                with suppress(PlatformError):  # it is asked again
                    left = where.link.client.delete(PODS, where.namespace, name, uid=uid, grace_seconds=grace)
                    pods.wrote(left) if left is not None else pods.removed(pod)
                return


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _silent(_line: str) -> None:
    pass
