"""Which resources the emulator serves, and what is special about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, Unpack

GATEWAY_GROUP = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object.

    Attributes:
        subresources: what may follow its name in a path.
        definition: its schema's name.
        generation: whether `metadata.generation` counts changes of what is wished.
        custom: whether it is a custom resource: no strategic merge, its own words for what does not fit its schema.
    """

    group: str
    version: str
    plural: str
    kind: str
    definition: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    generation: bool = False
    custom: bool = False
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def root(self) -> str:
        """The first part of its paths."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Where objects of it are: a collection without a name, all namespaces' without a namespace."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, name, subresource]
        return "/".join(part for part in parts if part)


class _Shared(TypedDict, total=False):
    subresources: tuple[str, ...]
    generation: bool
    custom: bool
    categories: tuple[str, ...]


class _More(_Shared, total=False):
    namespaced: bool
    short_names: tuple[str, ...]


def _core(plural: str, kind: str, **more: Unpack[_More]) -> Resource:
    return Resource("", "v1", plural, kind, f"io.k8s.api.core.v1.{kind}", **more)


def _of(group: str, version: str, package: str, plural: str, kind: str, **more: Unpack[_More]) -> Resource:
    return Resource(group, version, plural, kind, f"io.k8s.api.{package}.{version}.{kind}", **more)


_SCALABLE: _Shared = {"subresources": ("scale", "status"), "generation": True, "categories": ("all",)}
NAMESPACES = _core("namespaces", "Namespace", namespaced=False, short_names=("ns",), subresources=("status",))
PODS = _core(
    "pods",
    "Pod",
    short_names=("po",),
    subresources=("eviction", "log", "status", "ephemeralcontainers", "portforward", "proxy"),
    generation=True,
    categories=("all",),
)
SERVICES = _core("services", "Service", short_names=("svc",), subresources=("status",), categories=("all",))
CONFIGMAPS = _core("configmaps", "ConfigMap", short_names=("cm",))
SECRETS = _core("secrets", "Secret")
SERVICE_ACCOUNTS = _core("serviceaccounts", "ServiceAccount", short_names=("sa",))
EVENTS = _core("events", "Event", short_names=("ev",))
QUOTAS = _core("resourcequotas", "ResourceQuota", short_names=("quota",), subresources=("status",))
DEPLOYMENTS = _of("apps", "v1", "apps", "deployments", "Deployment", short_names=("deploy",), **_SCALABLE)
STATEFULSETS = _of("apps", "v1", "apps", "statefulsets", "StatefulSet", short_names=("sts",), **_SCALABLE)
REPLICASETS = _of("apps", "v1", "apps", "replicasets", "ReplicaSet", short_names=("rs",), **_SCALABLE)
ENDPOINT_SLICES = _of("discovery.k8s.io", "v1", "discovery", "endpointslices", "EndpointSlice", generation=True)
BUDGETS = _of(
    "policy",
    "v1",
    "policy",
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    short_names=("pdb",),
    subresources=("status",),
    generation=True,
)
AUTOSCALERS = _of(
    "autoscaling",
    "v2",
    "autoscaling",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
    short_names=("hpa",),
    subresources=("status",),
    categories=("all",),
)
LEASES = _of("coordination.k8s.io", "v1", "coordination", "leases", "Lease")
ROLES = _of("rbac.authorization.k8s.io", "v1", "rbac", "roles", "Role")
ROLE_BINDINGS = _of("rbac.authorization.k8s.io", "v1", "rbac", "rolebindings", "RoleBinding")
CLUSTER_ROLES = _of("rbac.authorization.k8s.io", "v1", "rbac", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = _of(
    "rbac.authorization.k8s.io", "v1", "rbac", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
SELF_REVIEWS = _of(
    "authorization.k8s.io",
    "v1",
    "authorization",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    namespaced=False,
)
"""Asked and answered, never kept."""
_GATEWAY: _Shared = {"subresources": ("status",), "generation": True, "custom": True, "categories": ("gateway-api",)}
GATEWAY_CLASSES = Resource(
    GATEWAY_GROUP,
    "v1",
    "gatewayclasses",
    "GatewayClass",
    "io.k8s.networking.gateway.v1.GatewayClass",
    namespaced=False,
    short_names=("gc",),
    **_GATEWAY,
)
GATEWAYS = Resource(
    GATEWAY_GROUP,
    "v1",
    "gateways",
    "Gateway",
    "io.k8s.networking.gateway.v1.Gateway",
    short_names=("gtw",),
    **_GATEWAY,
)
HTTP_ROUTES = Resource(
    GATEWAY_GROUP,
    "v1",
    "httproutes",
    "HTTPRoute",
    "io.k8s.networking.gateway.v1.HTTPRoute",
    **_GATEWAY,
)

BUILT_IN = (
    *(NAMESPACES, PODS, SERVICES, CONFIGMAPS, SECRETS, SERVICE_ACCOUNTS, EVENTS, QUOTAS),
    *(DEPLOYMENTS, STATEFULSETS, REPLICASETS, ENDPOINT_SLICES, BUDGETS, AUTOSCALERS, LEASES),
    *(ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS),
)
GATEWAY_API = (GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES)
"""Custom resources, which a cluster has or has not."""
