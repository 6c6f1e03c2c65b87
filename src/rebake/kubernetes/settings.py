"""`kubernetes: {…}` of an environment as a value. Pure; `spec.model.Kubernetes` explains each key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCRATCH_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Gateway:
    """The Gateway that users come by.

    Attributes:
        namespace: empty for the environment's own.
        section: of its listeners; empty for all.
    """

    name: str
    namespace: str = ""
    section: str = ""
    hostnames: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Attributes: cpu_basis_points: the use, as a share of what a pod asks for, that is held."""

    max: int
    cpu_basis_points: int = 7000


@dataclass(frozen=True, slots=True)
class Traffic:
    """Where the judge's numbers come from.

    Attributes:
        source: whose series: `envoy-gateway`, `istio`, `nginx-gateway`, `traefik` or `own`.
        requests, errors, latency: queries of `own`.
    """

    prometheus: str
    source: str = "envoy-gateway"
    requests: str | None = None
    errors: str | None = None
    latency: str | None = None
    token_file: str | None = None
    timeout_ms: int = 5000


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """What one environment asks of its cluster.

    Attributes:
        instances: the size of a fleet; an autoscaler's smallest number.
        namespace: None for that of the context, or of the agent's own pod.
        kind: `deployment` or `statefulset`.
        canary_by: `instances` where shares of users are those of pods behind one Service; None where a gateway deals
            requests, or nothing is shared.
        audit_log: the API server's, as a file of the agent's machine.
    """

    context: str | None = None
    kubeconfig: str | None = None
    namespace: str | None = None
    registry: str | None = None
    pull_secret: str | None = None
    gateway: Gateway | None = None
    kind: Literal["deployment", "statefulset"] = "deployment"
    autoscale: Autoscale | None = None
    service_account: str | None = None
    user: int | None = None
    writable: tuple[str, ...] = ()
    scratch_bytes: int = SCRATCH_BYTES
    labels: Mapping[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None
    canary_by: Literal["instances"] | None = None
    audit_log: str | None = None
    instances: int = 1


def settings_from(doc: Mapping[str, Any]) -> KubernetesSettings:
    """From the environment's block, as the plan carries it; unknown keys are left to the file's own model."""
    gateway, autoscale, traffic = (doc.get(key) for key in ("gateway", "autoscale", "traffic"))
    return KubernetesSettings(
        context=doc.get("context"),
        kubeconfig=doc.get("kubeconfig"),
        namespace=doc.get("namespace"),
        registry=doc.get("registry"),
        pull_secret=doc.get("pull_secret"),
        gateway=_gateway(gateway) if gateway else None,
        kind=doc.get("kind", "deployment"),
        autoscale=Autoscale(int(autoscale["max"]), int(autoscale.get("cpu", 7000))) if autoscale else None,
        service_account=doc.get("service_account"),
        user=doc.get("user"),
        writable=tuple(doc.get("writable", ())),
        scratch_bytes=int(doc.get("scratch") or SCRATCH_BYTES),
        labels=dict(doc.get("labels") or {}),
        traffic=_traffic(traffic) if traffic else None,
        canary_by=doc.get("canary_by"),
        audit_log=doc.get("audit_log"),
        instances=int(doc.get("instances", 1)),
    )


def _gateway(doc: Mapping[str, Any]) -> Gateway:
    section, namespace = doc.get("section") or "", doc.get("namespace") or ""
    return Gateway(str(doc["name"]), namespace, section, tuple(doc.get("hostnames") or ()))


def _traffic(doc: Mapping[str, Any]) -> Traffic:
    return Traffic(
        prometheus=str(doc["prometheus"]),
        source=str(doc.get("from_", "envoy-gateway")),
        requests=doc.get("requests"),
        errors=doc.get("errors"),
        latency=doc.get("latency"),
        token_file=doc.get("token_file"),
        timeout_ms=int(doc.get("timeout", 5000)),
    )
