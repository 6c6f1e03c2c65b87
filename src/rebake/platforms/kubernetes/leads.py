"""The newest token of each environment, kept in the cluster: an engine that stood still finds that another one leads.

A fleet's own object holds the token of the last effect on it and refuses older ones (`fleets`); this record is for what
has no object yet, and for fleets that the new engine has not touched. It is raised by compare-and-swap before an
effect.
"""

from __future__ import annotations

import threading
import time

from rebake.errors import Transient
from rebake.kubernetes.clusters import ClusterLink
from rebake.kubernetes.faults import Stale, Taken
from rebake.kubernetes.names import environment_labels, lead_name
from rebake.kubernetes.owners import Whose, data_of, nobody, other_owner, refuse_other
from rebake.kubernetes.resources import CONFIG_MAPS, Json
from rebake.ledger.fencing import too_late
from rebake.ledger.ports import Fence

_TRIES = 8
_BELIEVED_SECONDS = 1.0
"""How long what was read is believed. Who stands still longer reads again."""


class Leads:
    """The newest tokens that were read. Safe from several threads."""

    def __init__(self, whose: Whose = nobody) -> None:
        self._whose = whose
        self._known: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()

    def check(self, link: ClusterLink, namespace: str, fence: Fence | None) -> None:
        """Let an effect pass, or refuse it. Without a fence nobody contends for the environment.

        Raises: LedgerConflict `lease-lost` when a newer token was seen; Permanent `environment-of-another-ledger`;
            PlatformError.
        """
        if fence is None:
            return
        place = (namespace, fence.key)
        with self._lock:
            token, until = self._known.get(place, (0, 0.0))
        if token > fence.token:
            raise too_late(fence, token)
        if token == fence.token and time.monotonic() < until:
            return
        self._raise(link, namespace, fence)
        with self._lock:
            held, _ = self._known.get(place, (0, 0.0))
            self._known[place] = max(held, fence.token), time.monotonic() + _BELIEVED_SECONDS

    def _raise(self, link: ClusterLink, namespace: str, fence: Fence) -> None:
        service, _, environment = fence.key.partition("/")
        name = lead_name(service, environment)
        for _ in range(_TRIES):
            found = link.client.get(CONFIG_MAPS, namespace, name)
            ours, held = self._whose(), _token(found)
            if (other := other_owner(found, ours)) is not None:
                raise refuse_other(service, environment, namespace, other)
            if found is not None and held > fence.token:
                with self._lock:
                    self._known[namespace, fence.key] = held, 0.0
                raise too_late(fence, held)
            data = data_of(fence.token, ours)
            if found is not None and held == fence.token and data.items() <= (found.get("data") or {}).items():
                return
            try:
                if found is None:
                    body = _record(name, service, environment, data)
                    link.client.create(CONFIG_MAPS, namespace, body)
                else:
                    link.client.replace(CONFIG_MAPS, namespace, {**found, "data": data})
            except (Stale, Taken):
                continue
            return
        raise Transient(
            "kubernetes-conflict", f"others write {name} all the time", where=f"configmaps {namespace}/{name}"
        )


def _token(found: Json | None) -> int:
    text = str(((found or {}).get("data") or {}).get("token", "0"))
    return int(text) if text.isdigit() else 0


def _record(name: str, service: str, environment: str, data: dict[str, str]) -> Json:
    metadata = {"name": name, "labels": environment_labels(service, environment)}
    head = {"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.name}
    return {**head, "metadata": metadata, "data": data}
