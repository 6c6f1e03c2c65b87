"""Which series say what became of users' requests, for each kind of gateway. Pure.

Every query names the series of one fleet, so no label has to be understood to know whose a request was.

| from | requests and failures | durations | how a fleet is known |
| --- | --- | --- | --- |
| envoy-gateway | `envoy_cluster_endpoint_rq_success`, `…_rq_error` | none | the address of its pods |
| istio | `istio_requests_total` by `response_code` | `istio_request_duration_milliseconds` | its Service |
| nginx-gateway | `nginxplus_upstream_server_responses` by `code` | none | its Service, as an upstream |
| traefik | `traefik_service_requests_total` by `code` | `traefik_service_request_duration_seconds` | its Service |
| own | what the file says | what the file says | what the file says |

Sources:
- Envoy, "Cluster manager statistics", per endpoint statistics (`rq_success`; `rq_error`: answers with 5xx, and what was
  reset or never got a connection, which `rq_total` does not count). Envoy Gateway, `EnvoyProxy`,
  `telemetry.metrics.enablePerEndpointStats`, which has to be on: the statistics of a whole route's cluster do not tell
  its fleets apart. A cluster is called `httproute/NAMESPACE/NAME/rule/N…`; rule 0 is the users'.
- Istio, "Standard Metrics": `reporter="source"` is the gateway; code 0 is a caller who left before the answer, which is
  nobody's request. Testers who ask for the candidate by header count as users there: no label tells them apart.
- nginx-prometheus-exporter, "Metrics for NGINX Plus", upstreams. NGINX Gateway Fabric calls an upstream
  `NAMESPACE_SERVICE_PORT` and may prefix the names itself. Without NGINX Plus it counts no fleet apart.
- Traefik, "Metrics", service metrics; a Service behind an HTTPRoute is `…NAMESPACE-SERVICE-…PORT@kubernetesgateway`. A
  scrape with a label `service` of its own, as the Prometheus Operator makes them, moves it to `exported_service`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebake.judge.selectors import alternatives, filled
from rebake.kubernetes.settings import Traffic
from rebake.traffic.kubernetes.documents import PORT

_TRAEFIK_LABELS = ("service", "exported_service")


@dataclass(frozen=True, slots=True)
class Queries:
    """Of one fleet.

    Attributes:
        requests: select counters. With `code` their sum is split by the label's value, else failures are `errors`.
        code: a label with the answer's code (`503`), or its class (`5xx`).
        latency: select the counters of a histogram, by `le`.
        unit_ms: what its bounds are in.
    """

    requests: tuple[str, ...]
    code: str | None = None
    errors: tuple[str, ...] = ()
    latency: tuple[str, ...] = ()
    unit_ms: float = 1000.0

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.requests + self.errors + self.latency))


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose series are meant.

    Attributes:
        route, backend: names of the HTTPRoute, and of the fleet's Service.
        addresses: `IP:PORT` of the fleet's pods by instance.
    """

    service: str
    environment: str
    namespace: str
    route: str
    fleet: str
    backend: str
    addresses: dict[str, str]


def queries_for(traffic: Traffic, subject: Subject) -> Queries:
    """The queries of one fleet, as the file names the gateway."""
    if traffic.source == "own":
        return _own(traffic, subject)
    return {"istio": _istio, "nginx-gateway": _nginx, "traefik": _traefik}.get(traffic.source, _envoy)(subject)


def _envoy(subject: Subject) -> Queries:
    cluster = f"httproute/{subject.namespace}/{subject.route}/rule/0"
    addresses = alternatives(sorted(subject.addresses.values()))
    chosen = f'envoy_cluster_name=~"{cluster}(/.*)?",envoy_endpoint_address=~"{addresses}"'
    well, failed = (f"envoy_cluster_endpoint_rq_{one}{{{chosen}}}" for one in ("success", "error"))
    return Queries((well, failed), errors=(failed,))


def _istio(subject: Subject) -> Queries:
    chosen = f'reporter="source",destination_service_namespace="{subject.namespace}"'
    chosen += f',destination_service_name="{subject.backend}",response_code!="0"'
    timed = f'istio_request_duration_milliseconds_bucket{{{chosen},response_code!~"5.."}}'
    return Queries((f"istio_requests_total{{{chosen}}}",), code="response_code", latency=(timed,), unit_ms=1.0)


def _nginx(subject: Subject) -> Queries:
    name = "nginx(plus|_gateway_fabric)_upstream_server_responses"
    upstream = f"{subject.namespace}_{subject.backend}_{PORT}"
    return Queries((f'{{__name__=~"{name}",upstream="{upstream}"}}',), code="code")


def _traefik(subject: Subject) -> Queries:
    service = f".*{subject.namespace}-{subject.backend}-.*@kubernetesgateway"
    chosen = [f'{name}=~"{service}"' for name in _TRAEFIK_LABELS]
    counted = tuple(f"traefik_service_requests_total{{{one}}}" for one in chosen)
    name = "traefik_service_request_duration_seconds_bucket"
    return Queries(counted, code="code", latency=tuple(f'{name}{{{one},code!~"5.."}}' for one in chosen))


def _own(traffic: Traffic, subject: Subject) -> Queries:
    values = {
        "fleet": subject.fleet,
        "service": subject.service,
        "environment": subject.environment,
        "instances": alternatives(sorted(subject.addresses.values())),
        "names": alternatives(sorted(subject.addresses)),
    }

    def query(text: str | None) -> tuple[str, ...]:
        return () if text is None else (filled(text, values),)

    return Queries(query(traffic.requests), errors=query(traffic.errors), latency=query(traffic.latency))


def kinds_of(code: str) -> Sequence[str]:
    """What an answer with this code, or of this class, counts as besides a request.

    >>> kinds_of("503"), kinds_of("4xx"), kinds_of("304"), kinds_of("200")
    (['errors'], ['refused'], [], [])
    """
    if code in ("304", "3xx"):
        return []  # of a class nobody knows how many were "not modified"
    return {"5": ["errors"], "4": ["refused"], "3": ["redirected"]}.get(code[:1], [])
