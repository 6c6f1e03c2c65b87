"""The kinds of objects that rebake speaks of, and where the API server has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = dict[str, Any]
"""An object as the API server writes it. One that came from a cache is shared: it is read, never changed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. Source: Kubernetes, "API Concepts", resource URIs."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As people and refusals call it, such as `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or without a name of the collection."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inner = ["namespaces", namespace] if self.namespaced and namespace else []
        return "/".join(part for part in (root, *inner, self.plural, name, subresource) if part)


PODS = Kind("", "v1", "pods", "Pod")
SERVICES = Kind("", "v1", "services", "Service")
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap")
SECRETS = Kind("", "v1", "secrets", "Secret")
EVENTS = Kind("", "v1", "events", "Event")
DEPLOYMENTS = Kind("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Kind("apps", "v1", "statefulsets", "StatefulSet")
ENDPOINT_SLICES = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
BUDGETS = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
AUTOSCALERS = Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
GATEWAYS = Kind("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
HTTP_ROUTES = Kind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
ACCESS_REVIEWS = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)


def condition(item: Json, kind: str) -> Json | None:
    """A condition of an object's status, by its type."""
    rows = (item.get("status") or {}).get("conditions") or ()
    return next((row for row in rows if row.get("type") == kind), None)


def is_true(item: Json, kind: str) -> bool:
    found = condition(item, kind)
    return found is not None and found.get("status") == "True"


def seconds_of(stamp: str) -> float:
    """Seconds since the epoch of a time as the API writes it, `2026-11-30T12:00:00.123456Z`. Raises: ValueError."""
    return datetime.fromisoformat(stamp).timestamp()
