"""Envoy's files on disk: written whole or not at all, and only when they changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rebake.core.atomic import write_atomic
from rebake.core.codec import dump, load
from rebake.traffic.envoy import names, routes, snapshot
from rebake.traffic.envoy.snapshot import Document, EdgePaths
from rebake.traffic.ports import EnvironmentRoute


class Documents:
    """The edge folder. Every method is idempotent; renames make Envoy look, so equal files are left alone."""

    def __init__(self, paths: EdgePaths) -> None:
        self._paths = paths
        self._expected: dict[str, tuple[str, dict[Path, bytes]]] = {}

    def prepare(self) -> None:
        for folder in ("rds", "eds", "routes"):
            (self._paths.root / folder).mkdir(parents=True, exist_ok=True)
        self._paths.records("-").parent.mkdir(mode=0o700, exist_ok=True)  # paths of users' requests are nobody else's

    def wishes(self) -> dict[str, EnvironmentRoute]:
        """The routes as applied, by environment key. One that a power cut left unreadable is left out: the engine
        applies it again."""
        found = {}
        for path in sorted((self._paths.root / "routes").glob("*.json")):
            try:
                found[path.stem] = load(EnvironmentRoute, json.loads(path.read_bytes()))
            except (ValueError, ValidationError):
                continue
        return found

    def keep_wish(self, key: str, route: EnvironmentRoute) -> None:
        self._write(self._paths.wish(key), dump(route))

    def drop_wish(self, key: str) -> None:
        self._remove(self._paths.wish(key))

    def write_endpoints(self, route: EnvironmentRoute) -> None:
        for fleet in route.fleets:
            name = snapshot.cluster_of(route, fleet)
            resource = snapshot.endpoints_resource(name, fleet)
            self._write(self._paths.endpoints(name), snapshot.response([resource]))

    def write_clusters(self, wishes: Iterable[EnvironmentRoute], *, keep_others: bool) -> bool:
        """Write every wished cluster. With `keep_others`, those in the file that nobody wishes any more stay, since
        a loaded route may still name them. Returns: whether others are (still) in the file."""
        wished = snapshot.clusters(wishes, self._paths)
        names_wished = {c["name"] for c in wished}
        others = [c for c in self._resources(self._paths.clusters) if c["name"] not in names_wished]
        resources = sorted([*wished, *others], key=lambda c: str(c["name"])) if keep_others else wished
        self._write(self._paths.clusters, snapshot.response(resources))
        return bool(others)

    def write_route(self, route: EnvironmentRoute) -> frozenset[str]:
        """Returns: clusters that had users by the former file and have none by this one."""
        path = self._paths.route(names.environment_key(route.service, route.environment))
        before = self._resources(path)
        resource = routes.route_configuration(route)
        self._write(path, snapshot.response([resource]))
        had = routes.weights_in(before[0]) if before else {}
        return frozenset(had) - frozenset(routes.weights_in(resource))

    def write_listeners(self, wishes: Iterable[EnvironmentRoute], *, again: bool = False) -> None:
        """`again` renames even an equal file in, so that Envoy tries a refused listener once more."""
        self._write(self._paths.listeners, snapshot.response(snapshot.listeners(wishes, self._paths)), always=again)

    def listeners(self) -> frozenset[str]:
        """Names of the listeners Envoy is told to open."""
        return frozenset(str(r["name"]) for r in self._resources(self._paths.listeners))

    def write_all(self, wishes: dict[str, EnvironmentRoute], open_to_users: Iterable[EnvironmentRoute]) -> None:
        """Everything at once, before Envoy starts from zero; listeners only for `open_to_users`."""
        self.prepare()
        for route in wishes.values():
            self.write_endpoints(route)
            if snapshot.serves(route):
                self.write_route(route)
        self.write_clusters(wishes.values(), keep_others=False)
        self.write_listeners(open_to_users)
        self.sweep(wishes)

    def sweep(self, wishes: dict[str, EnvironmentRoute]) -> None:
        """Remove files of environments and fleets that left."""
        kept = {self._paths.route(key) for key, route in wishes.items() if snapshot.serves(route)}
        kept |= {self._paths.endpoints(snapshot.cluster_of(r, f)) for r in wishes.values() for f in r.fleets}
        for folder in ("rds", "eds"):
            for path in set((self._paths.root / folder).glob("*.json")) - kept:
                self._remove(path)

    def intact(self, route: EnvironmentRoute) -> bool:
        """Whether the files of this route say what was applied: Envoy serves what is in them, whoever wrote it."""
        key = names.environment_key(route.service, route.environment)
        if self._expected.get(key, (None, {}))[0] != route.version:
            self._expected[key] = (route.version, self._rendered(key, route))
        return all(_bytes_of(path) == data for path, data in self._expected[key][1].items())

    def _rendered(self, key: str, route: EnvironmentRoute) -> dict[Path, bytes]:
        found = {}
        for fleet in route.fleets:
            name = snapshot.cluster_of(route, fleet)
            resource = snapshot.endpoints_resource(name, fleet)
            found[self._paths.endpoints(name)] = snapshot.encode(snapshot.response([resource]))
        if snapshot.serves(route):
            document = snapshot.response([routes.route_configuration(route)])
            found[self._paths.route(key)] = snapshot.encode(document)
        return found

    def _write(self, path: Path, document: Document, *, always: bool = False) -> None:
        data = snapshot.encode(document)
        if always or _bytes_of(path) != data:
            write_atomic(path, data)

    def _resources(self, path: Path) -> list[dict[str, Any]]:
        try:
            found = json.loads(_bytes_of(path) or b"{}").get("resources", [])
        except ValueError:
            return []
        return list(found)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
