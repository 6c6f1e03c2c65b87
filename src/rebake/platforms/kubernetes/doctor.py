"""What the clusters offer to the `kubernetes` platform, and which permissions are missing, for `rebake doctor`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rebake.errors import PlatformError
from rebake.kubernetes.clusters import Clusters
from rebake.kubernetes.resources import (
    AUTOSCALERS,
    BUDGETS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    PODS,
    SECRETS,
    SERVICES,
    STATEFUL_SETS,
    Kind,
)
from rebake.platforms.findings import Finding
from rebake.platforms.kubernetes.homes import Spot

if TYPE_CHECKING:
    from rebake.kubernetes.client import KubeClient

OLDEST = (1, 30)
"""The first version in which the kubelet itself sleeps before a pod ends."""
ALWAYS: Mapping[tuple[Kind, str], tuple[str, ...]] = MappingProxyType(
    {
        (DEPLOYMENTS, ""): ("get", "list", "watch", "create", "patch", "delete"),
        (PODS, ""): ("get", "list", "watch", "patch", "delete"),
        (PODS, "log"): ("get",),
        (PODS, "portforward"): ("get", "create"),
        (CONFIG_MAPS, ""): ("get", "list", "watch", "create", "patch", "update"),
        (SECRETS, ""): ("get", "create", "patch"),
        (BUDGETS, ""): ("create", "patch"),
        (EVENTS, ""): ("list",),
    }
)
"""What the platform must be allowed to in its namespace."""
AUTOSCALED: Mapping[tuple[Kind, str], tuple[str, ...]] = MappingProxyType({(AUTOSCALERS, ""): ("create", "patch")})
"""Beside that with `autoscale`."""
STATEFUL: Mapping[tuple[Kind, str], tuple[str, ...]] = MappingProxyType(
    {
        (STATEFUL_SETS, ""): ("get", "list", "watch", "create", "patch", "delete"),
        (SERVICES, ""): ("create", "patch"),
    }
)
"""Instead of what is asked of Deployments with `kind: statefulset`."""


def findings(clusters: Clusters, spots: Sequence[Spot]) -> list[Finding]:
    """Args: spots: where environments of this home have fleets."""
    if not spots:
        return [Finding("kubernetes", True, "no environment here is on a cluster")]
    return [finding for spot in spots for finding in _of(clusters, spot)]


def _of(clusters: Clusters, spot: Spot) -> Iterator[Finding]:
    name = f"kubernetes {spot.context or 'current context'}/{spot.namespace}"
    try:
        client = clusters.link(spot.settings).client
        version = client.version()
        missing = list(lacking(client, spot))
    except PlatformError as error:
        yield Finding(name, False, error.problem, error.remedy)
        return
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        text = f"{version} is too old: pods cannot drain without a shell"
        yield Finding(name, False, text, f"use Kubernetes {OLDEST[0]}.{OLDEST[1]} or later")
    if missing:
        remedy = "add to the Role what docs/kubernetes.md lists"
        yield Finding(f"{name} permissions", False, f"missing: {', '.join(missing)}", remedy)
    yield Finding(name, True, f"{version} at {client.server}")


def lacking(client: KubeClient, spot: Spot) -> Iterator[str]:
    """Permissions that are not there, such as `create deployments.apps`. Raises: PlatformError."""
    wanted = dict(ALWAYS)
    if client.sign.inside:  # pods are reached by their own addresses
        del wanted[PODS, "portforward"]
    if spot.kind == "statefulset":
        wanted = {one: verbs for one, verbs in wanted.items() if one[0] != DEPLOYMENTS} | dict(STATEFUL)
    for (kind, below), verbs in wanted.items():
        for verb in verbs:
            if not client.may(verb, kind, spot.namespace, below):
                yield f"{verb} {kind.resource}{f'/{below}' if below else ''}"
