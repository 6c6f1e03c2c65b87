"""In which cluster and namespace the environments of this home have fleets: also where a changed file points elsewhere.

A fleet that was raised where an older file said is found again there until it is gone. Losing this file loses no fleet
that the present file points to.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebake.core.atomic import write_atomic
from rebake.kubernetes.settings import KubernetesSettings


@dataclass(frozen=True, slots=True)
class Spot:
    """Where fleets of an environment are. Attributes: kind: of its fleets."""

    kubeconfig: str
    context: str
    namespace: str
    kind: str

    @property
    def settings(self) -> KubernetesSettings:
        return KubernetesSettings(
            context=self.context or None,
            kubeconfig=self.kubeconfig or None,
            namespace=self.namespace or None,
            kind="statefulset" if self.kind == "statefulset" else "deployment",
        )


def spot_of(settings: KubernetesSettings, namespace: str) -> Spot:
    return Spot(settings.kubeconfig or "", settings.context or "", namespace, settings.kind)


class Spots:
    """Kept in one file of the home, which is small and written seldom."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._known: dict[tuple[str, str], tuple[Spot, ...]] | None = None

    def of(self, service: str, environment: str) -> tuple[Spot, ...]:
        with self._lock:
            return self._read().get((service, environment), ())

    def all(self) -> dict[tuple[str, str], tuple[Spot, ...]]:
        with self._lock:
            return dict(self._read())

    def add(self, service: str, environment: str, spot: Spot) -> None:
        """Raises: OSError."""
        with self._lock:
            known, key = self._read(), (service, environment)
            if spot not in known.get(key, ()):
                known[key] = (*known.get(key, ()), spot)
                self._write(known)

    def forget(self, service: str, environment: str, spot: Spot) -> None:
        """Nothing of the environment is there any more. Raises: OSError."""
        with self._lock:
            known, key = self._read(), (service, environment)
            left = tuple(one for one in known.get(key, ()) if one != spot)
            if left != known.get(key, ()):
                known[key] = left
                self._write({one: spots for one, spots in known.items() if spots})

    def _read(self) -> dict[tuple[str, str], tuple[Spot, ...]]:
        if self._known is None:
            try:
                rows: Mapping[str, Any] = json.loads(self._file.read_bytes())
                self._known = {_key(name): tuple(Spot(**one) for one in spots) for name, spots in rows.items()}
            except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
                self._known = {}
        return self._known

    def _write(self, known: dict[tuple[str, str], tuple[Spot, ...]]) -> None:
        self._known = known
        rows = {"/".join(key): [_row(one) for one in spots] for key, spots in known.items()}
        self._file.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        write_atomic(self._file, json.dumps(rows, sort_keys=True).encode(), mode=0o600)


def _key(name: str) -> tuple[str, str]:
    service, _, environment = name.partition("/")
    return service, environment


def _row(spot: Spot) -> dict[str, str]:
    return {name: getattr(spot, name) for name in ("kubeconfig", "context", "namespace", "kind")}
