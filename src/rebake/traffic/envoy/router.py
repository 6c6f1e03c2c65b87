"""`EnvoyRouter`: the traffic port on real Envoy, one edge per home.

What it decides: in which order documents reach Envoy, so that no request ever meets a route to a cluster Envoy does
not know. What it leaves to others: what the documents say (`snapshot`, `routes`), and that Envoy lives (`keeper`).

The order of every change, each stage seen done by Envoy before the next begins:
1. clusters and endpoints of the wish are added; those of the former wish stay;
2. the route configuration, which then names only known clusters;
3. listeners;
4. clusters nobody names any more are removed.
A stage that Envoy does not reach within `_PATIENCE_SECONDS` is finished by the keeper's thread; `apply` may be called
again at any time, and continues where Envoy is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rebake.core.home import Home
from rebake.errors import Permanent, PlatformError
from rebake.ledger.fencing import Tokens
from rebake.ledger.ports import Fence
from rebake.traffic.envoy import admin, listening, names, routes, snapshot
from rebake.traffic.envoy.admin import AdminClient, ClusterNumbers, Session
from rebake.traffic.envoy.documents import Documents
from rebake.traffic.envoy.keeper import EnvoyKeeper
from rebake.traffic.envoy.process import EdgeSettings, EnvoyProcess, Running
from rebake.traffic.envoy.recorder import Recorder
from rebake.traffic.envoy.watches import check_watches
from rebake.traffic.ports import Counters, EnvironmentRoute, FleetRoute, RouteObservation, Samples

_PATIENCE_SECONDS = 1.0
_POLL_SECONDS = 0.001
_SETTLE_SECONDS = 0.1
_CHORE_SECONDS = 0.1
_BLOCKED_SECONDS = 1.0


class EnvoyRouter:
    """The route of every environment of one home.

    Nothing is touched before the first call. `resume` brings back what an earlier agent applied; `close` leaves
    Envoy serving; `stop` ends it.
    """

    def __init__(self, home: Home, settings: EdgeSettings | None = None) -> None:
        settings = settings or EdgeSettings()
        self._tokens = Tokens()
        self._lock = threading.RLock()
        paths = snapshot.EdgePaths(home.edge.absolute())
        self._documents = Documents(paths)
        self._process = EnvoyProcess(home, settings)
        self._keeper = EnvoyKeeper(self._process, settings, self._lock, self._before_start, self._chores)
        self._wishes: dict[str, EnvironmentRoute] | None = None
        self._pending: set[str] = set()
        self._blocked: set[str] = set()
        self._departed: dict[str, float] = {}
        self._recorders: dict[str, Recorder] = {}
        self._seen_of: Running | None = None
        self._seen_names: set[str] = set()

    def resume(self) -> None:
        """Adopt or start Envoy when some environment has a route: it then serves what was applied last.

        Raises: Permanent `edge-missing`, `edge-failed`.
        """
        with self._lock:
            wishes = self._loaded()
            if wishes or self._process.find():
                self._keeper.ensure()
                self._pending.update(wishes)
                self._keeper.wake()

    def apply(self, route: EnvironmentRoute, *, fence: Fence | None = None) -> None:
        """Hand the whole route over; see the module for the order.

        Raises:
            Permanent: `address-in-use`, `address-not-permitted`, `address-unavailable`, `address-not-an-ip`,
                `listener-rejected`, `edge-watch-limit`, `edge-missing`, `edge-failed`. The former route then stays.
            Transient: `edge-unreachable`, `address-contended`, `address-lingering`. What was handed over is served
                once Envoy is back.
        """
        self._tokens.check(fence)
        snapshot.check_route(route)
        for fleet in route.fleets:
            for endpoint in fleet.endpoints:
                names.split_address(endpoint.address)
        key = names.environment_key(route.service, route.environment)
        with self._lock:
            wishes = self._loaded()
            before = wishes.get(key)
            if before is None or len(route.fleets) > len(before.fleets):
                running = self._keeper.running
                check_watches([*({**wishes, key: route}).values()], running.pid if running else None)
            if self._opens(route):
                self._open(key, route, before)
            else:
                self._hand_over(key, route)

    def observe(self, service: str, environment: str) -> RouteObservation | None:
        """What Envoy itself says of this environment; None when it was never told of it.

        Raises: Transient `edge-unreachable`; Permanent as `resume`.
        """
        key = names.environment_key(service, environment)
        with self._lock:
            wish = self._loaded().get(key)
            if wish is None:
                return None
            running = self._keeper.running or self._keeper.ensure()
        with AdminClient(running.admin).session() as session:
            return self._observed(session, key, wish, running)

    def remove(self, service: str, environment: str, *, fence: Fence | None = None) -> None:
        """Close the listener, then forget routes and clusters; connections end within the drain time."""
        self._tokens.check(fence)
        key = names.environment_key(service, environment)
        with self._lock:
            if key not in self._loaded():
                return
            self._drop(key)
            running = self._keeper.ensure()
            self._documents.write_listeners(self._unblocked())
            with AdminClient(running.admin).session() as session:
                _until(lambda: not _listens(session.ask(admin.open_listeners()), key))
            self._forget_others()
        self._recorder(service, environment).drop()

    def samples(self, service: str, environment: str, cursor: Mapping[str, Any] | None) -> Samples | None:
        """What Envoy wrote down of users' requests since `cursor`.

        Raises: Permanent `records-unreadable` when the disk refuses.
        """
        try:
            return self._recorder(service, environment).read(cursor)
        except OSError as error:
            raise _unreadable(error) from error

    def forget_samples(self, service: str, environment: str, cursor: Mapping[str, Any]) -> None:
        """Keep the records small. Raises: Transient `edge-unreachable`; Permanent `records-unreadable`."""
        try:
            self._recorder(service, environment).forget(cursor)
        except OSError as error:
            raise _unreadable(error) from error

    def environments(self) -> list[tuple[str, str]]:
        """Service and environment of every route known here."""
        with self._lock:
            return [(w.service, w.environment) for w in self._loaded().values()]

    def close(self) -> None:
        """Stop watching; Envoy goes on without us."""
        self._keeper.close()

    def stop(self) -> None:
        """End Envoy. The routes are kept, and served again at the next `resume` or `apply`."""
        self._keeper.stop()

    def _recorder(self, service: str, environment: str) -> Recorder:
        key = names.environment_key(service, environment)
        with self._lock:
            if key not in self._recorders:
                prefix = names.cluster_name(service, environment, "")
                self._recorders[key] = Recorder(self._process.paths.records(key), prefix, self._reopen_records)
            return self._recorders[key]

    def _reopen_records(self) -> None:
        running = self._keeper.running
        if running is not None:
            with AdminClient(running.admin).session() as session:
                session.reopen_records()

    # --- handing over

    def _loaded(self) -> dict[str, EnvironmentRoute]:
        if self._wishes is None:
            self._documents.prepare()
            self._wishes = self._documents.wishes()
        return self._wishes

    def _before_start(self) -> None:
        """Write every document. An address that somebody took while no Envoy ran is left out, since Envoy would
        share it; the next `apply` then says who has it."""
        self._departed.clear()
        wishes = self._loaded()
        self._blocked = {key for key, wish in wishes.items() if snapshot.serves(wish) and not _is_free(wish.listen)}
        self._pending |= self._blocked
        self._documents.write_all(wishes, self._unblocked())

    def _unblocked(self) -> list[EnvironmentRoute]:
        return [wish for key, wish in self._loaded().items() if key not in self._blocked]

    def _opens(self, route: EnvironmentRoute) -> bool:
        name = names.listener_name(route.service, route.environment, route.listen)
        return snapshot.serves(route) and name not in self._documents.listeners()

    def _open(self, key: str, route: EnvironmentRoute, before: EnvironmentRoute | None) -> None:
        """Hand over a route whose address this edge does not have yet; a refusal leaves the former route."""
        for other_key, other in self._loaded().items():
            if other_key != key and snapshot.serves(other) and listening.overlaps(other.listen, route.listen):
                raise _taken_by(other, route)
        with listening.reserved(route.listen):
            listening.check_free(route.listen)
            self._blocked.discard(key)
            try:
                self._hand_over(key, route)
            except Permanent:
                self._withdraw(key, before)
                raise

    def _withdraw(self, key: str, before: EnvironmentRoute | None) -> None:
        """Put the former wish back in place of one that was refused."""
        if before is not None:
            self._hand_over(key, before)
        else:
            self._drop(key)
            self._documents.write_listeners(self._unblocked())

    def _drop(self, key: str) -> None:
        self._loaded().pop(key, None)
        self._pending.discard(key)
        self._blocked.discard(key)
        self._documents.drop_wish(key)

    def _hand_over(self, key: str, route: EnvironmentRoute) -> None:
        self._loaded()[key] = route
        self._documents.keep_wish(key, route)
        self._pending.add(key)
        running = self._keeper.ensure()
        with AdminClient(running.admin).session() as session:
            self._advance(session, key, route, _PATIENCE_SECONDS)
        if key in self._pending:
            self._keeper.wake()

    def _advance(self, session: Session, key: str, route: EnvironmentRoute, patience_seconds: float) -> None:
        """Take one environment through the stages; it stays pending when Envoy is not that far."""
        wishes = self._loaded()
        self._documents.write_endpoints(route)
        others = self._documents.write_clusters(wishes.values(), keep_others=True)
        if snapshot.serves(route):
            if not self._knows(
                session, {c["name"] for c in snapshot.clusters([route], self._process.paths)}, patience_seconds
            ):
                return
            self._depart(self._documents.write_route(route))
        self._documents.write_listeners(self._unblocked())
        if not self._served(session, key, route, patience_seconds):
            return
        self._pending.discard(key)
        if others:
            self._forget_others()

    def _depart(self, clusters: Iterable[str]) -> None:
        """These lose their users now. Who lost them longer ago is forgotten: every rollout has one."""
        now = time.monotonic()
        recent = {cluster: at for cluster, at in self._departed.items() if now - at < _SETTLE_SECONDS}
        self._departed = recent | dict.fromkeys(clusters, now)

    def _knows(self, session: Session, wanted: set[str], patience_seconds: float) -> bool:
        """Wait until Envoy knows these clusters; what this very process was seen to know is not asked again."""
        seen = self._seen()
        missing = wanted - seen
        question = admin.hosts(f"^({admin.any_of(missing)})$")
        if missing and not _until(lambda: missing <= session.ask(question).keys(), patience_seconds):
            return False
        seen |= missing
        return True

    def _seen(self) -> set[str]:
        """Clusters and listeners that the running Envoy was seen to have, and was not told to drop since."""
        if self._seen_of != self._keeper.running:
            self._seen_of, self._seen_names = self._keeper.running, set()
        return self._seen_names

    def _served(self, session: Session, key: str, route: EnvironmentRoute, patience_seconds: float) -> bool:
        """Wait until Envoy serves this route. Raises: Permanent when it refuses its listener."""
        if not snapshot.serves(route):
            self._seen().difference_update([name for name in self._seen() if name.startswith(f"{key}@")])
            return _until(lambda: not _listens(session.ask(admin.open_listeners()), key), patience_seconds)
        name = names.listener_name(route.service, route.environment, route.listen)
        if name not in self._seen() and not self._opened(session, name, route, patience_seconds):
            return False
        version, question = route.version, admin.route_configuration(key)
        return _until(lambda: _version(session.ask(question)) == version, patience_seconds)

    def _opened(self, session: Session, name: str, route: EnvironmentRoute, patience_seconds: float) -> bool:
        """Wait until the listener is open. Raises: Permanent with Envoy's reason when it was refused."""
        found: list[tuple[bool, str | None]] = []

        def decided() -> bool:
            open_now, reason = session.ask_together(admin.open_listeners(), admin.listener_error(name))
            found.append((name in open_now, reason))
            return name in open_now or reason is not None

        if not _until(decided, patience_seconds):
            return False
        is_open, reason = found[-1]
        if not is_open:
            listening.check_free(route.listen)
            self._documents.write_listeners(self._unblocked(), again=True)
            raise _rejected(route, reason or "rejected")
        # Another address of this environment is closed by the same document.
        key = names.environment_key(route.service, route.environment)
        self._seen().difference_update([other for other in self._seen() if other.startswith(f"{key}@")])
        self._seen().add(name)
        return True

    def _forget_others(self) -> None:
        """Take clusters away that no environment wishes, unless some environment is still on its way."""
        if self._pending - self._blocked:
            return
        wishes = self._loaded()
        kept = {c["name"] for c in snapshot.clusters(wishes.values(), self._process.paths)}
        self._seen().difference_update([name for name in self._seen() if "@" not in name and name not in kept])
        self._documents.write_clusters(wishes.values(), keep_others=False)
        self._documents.sweep(wishes)

    def _chores(self) -> float | None:
        """Finish what an `apply` or a restart left under way. Returns: seconds until the next try, None when done."""
        running = self._keeper.running
        if running is None or not self._pending:
            return None
        with AdminClient(running.admin).session() as session:
            for key in sorted(self._pending):
                wish = self._loaded()[key]
                if key not in self._blocked or _is_free(wish.listen):
                    self._blocked.discard(key)
                    self._advance(session, key, wish, 0.0)
        self._forget_others()
        return _CHORE_SECONDS if self._pending - self._blocked else _BLOCKED_SECONDS if self._blocked else None

    # --- reading back

    def _observed(self, session: Session, key: str, wish: EnvironmentRoute, running: Running) -> RouteObservation:
        fleets = {snapshot.cluster_of(wish, f): f for f in wish.fleets}
        loaded, hosts, numbers, open_listeners = session.ask_together(
            admin.route_configuration(key),
            admin.hosts(f"^({admin.any_of(fleets)})$"),
            admin.numbers(c for name in fleets for c in _family(name)),
            admin.open_listeners(),
        )
        weights = routes.weights_in(dict(loaded)) if loaded and snapshot.serves(wish) else {}
        name = names.listener_name(wish.service, wish.environment, wish.listen)
        return RouteObservation(
            version=wish.version if self._is_whole(wish, loaded, hosts, open_listeners) else None,
            weights={_fleet_of(fleets, c): weights.get(c, 0) for c in {*fleets, *weights}},
            healthy={f.fleet: _instances(f, hosts.get(c, {}), sound=True) for c, f in fleets.items()},
            unhealthy={f.fleet: _instances(f, hosts.get(c, {}), sound=False) for c, f in fleets.items()},
            active={f.fleet: self._active(c, numbers) for c, f in fleets.items()},
            counters={f.fleet: _counters(numbers[c], numbers[names.shield_name(c)]) for c, f in fleets.items()},
            epoch=f"{running.generation}.{running.epoch}",
            listening=name in open_listeners,
        )

    def _is_whole(
        self,
        wish: EnvironmentRoute,
        loaded: Mapping[str, object] | None,
        hosts: Mapping[str, Mapping[str, bool]],
        open_listeners: frozenset[str],
    ) -> bool:
        """Whether Envoy serves every part of the wish: weights, instances, and the listener or its absence."""
        if not self._documents.intact(wish):
            return False
        key = names.environment_key(wish.service, wish.environment)
        for fleet in wish.fleets:
            found = hosts.get(snapshot.cluster_of(wish, fleet))
            if found is None or found.keys() != {_plain(e.address) for e in fleet.endpoints}:
                return False
        if not snapshot.serves(wish):
            return not _listens(open_listeners, key)
        opened = {names.listener_name(wish.service, wish.environment, wish.listen)}
        if wish.mirror is not None:
            opened.add(names.copies_listener(wish.service, wish.environment))
        return opened <= open_listeners and _version(loaded) == wish.version

    def _active(self, cluster: str, numbers: Mapping[str, ClusterNumbers]) -> int:
        """Requests in flight of users and testers.

        A fleet that just lost its users is not idle yet: for a moment a worker thread may still hand it a request
        that it dealt by the former weights.
        """
        found = numbers[cluster].active + numbers[names.preview_name(cluster)].active
        left = self._departed.get(cluster)
        settling = left is not None and time.monotonic() - left < _SETTLE_SECONDS
        return max(found, 1) if settling else found


def _listens(open_listeners: frozenset[str], key: str) -> bool:
    return any(name.startswith(f"{key}@") for name in open_listeners)


def _until(done: Callable[[], bool], patience_seconds: float = _PATIENCE_SECONDS) -> bool:
    """Ask Envoy until it is so, for a short while. Returns: whether it is."""
    deadline = time.monotonic() + patience_seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_free(listen: str) -> bool:
    try:
        listening.check_free(listen)
    except PlatformError:
        return False
    return True


def _version(configuration: Mapping[str, object] | None) -> str | None:
    return routes.version_in(dict(configuration)) if configuration else None


def _family(cluster: str) -> Iterable[str]:
    return cluster, names.shield_name(cluster), names.preview_name(cluster)


def _fleet_of(fleets: Mapping[str, FleetRoute], cluster: str) -> str:
    """The fleet of a cluster; one that is loaded but not wished any more is named by its cluster's last part."""
    return fleets[cluster].fleet if cluster in fleets else cluster.split("/", 2)[-1]


def _instances(fleet: FleetRoute, hosts: Mapping[str, bool], *, sound: bool) -> frozenset[str]:
    by_address = {_plain(e.address): e.instance for e in fleet.endpoints}
    return frozenset(by_address.get(address, address) for address, found in hosts.items() if found is sound)


def _plain(address: str) -> str:
    host, port = names.split_address(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _counters(*several: ClusterNumbers) -> Counters:
    return Counters(sum(n.completed for n in several), sum(n.failed for n in several))


def _unreadable(error: OSError) -> Permanent:
    return Permanent(
        "records-unreadable",
        f"expected to read what Envoy wrote down of the requests, found {error.strerror}",
        where=str(error.filename),
        remedy="make the edge folder readable and writable for this user; the judge waits meanwhile",
    )


def _taken_by(other: EnvironmentRoute, route: EnvironmentRoute) -> Permanent:
    return Permanent(
        "address-in-use",
        f"expected {route.listen} to be free, found environment {other.environment} of service {other.service} there",
        where=route.listen,
        remedy="give each environment its own `listen` in rebake.yaml",
    )


def _rejected(route: EnvironmentRoute, reason: str) -> Permanent:
    return Permanent(
        "listener-rejected",
        f"Envoy refused to listen on {route.listen}: {reason}",
        where=route.listen,
        remedy="correct `listen` in rebake.yaml, or free the address",
        evidence=[reason],
    )
