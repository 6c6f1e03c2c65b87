"""What a supervisor and Prometheus ask of a server: alive, ready, and its figures. Plain HTTP, without secrets.

`/livez` fails when the engine's threads are gone or hang, which only a restart cures; `/readyz` when the ledger cannot
be read, which a restart does not cure. Source: Kubernetes, "Configure Liveness, Readiness and Startup Probes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from anyio import to_thread
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rebake import __version__
from rebake.errors import RebakeError
from rebake.server.ports import Application, Doc


class _Figures(Collector):
    """The application's figures in Prometheus' terms, taken at each question."""

    def __init__(self, take: Callable[[], Doc]) -> None:
        self._take = take

    def collect(self) -> Iterator[Metric]:
        figures = self._take()
        info = GaugeMetricFamily("rebake_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _by(
            "rebake_environments", "Environments in the ledger, by platform.", "platform", figures["environments"]
        )
        yield GaugeMetricFamily("rebake_led", "Environments that this engine holds the lease of.", figures["led"])
        yield _by("rebake_rollouts", "Rollouts under way, by state.", "state", figures["rollouts"])
        yield CounterMetricFamily("rebake_looks", "Looks at environments since the start.", figures["looks"])
        yield CounterMetricFamily(
            "rebake_failed_looks", "Looks that an error ended, since the start.", figures["failed_looks"]
        )
        yield GaugeMetricFamily("rebake_oldest_look_seconds", "Age of the oldest look under way.", figures["hanging"])
        yield CounterMetricFamily("rebake_ledger_entries", "Entries of the ledger.", figures["entries"])


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def probes_app(application: Application) -> Starlette:
    """The three pages over an application."""
    registry = CollectorRegistry()
    registry.register(_Figures(application.figures))
    ProcessCollector(registry=registry)

    async def alive(_: Request) -> Response:
        return _said(application.ails())

    head = partial(application.ledger, after=0, limit=0, service=None, environment=None, rollout=None)

    async def ready(_: Request) -> Response:
        try:
            await to_thread.run_sync(head)
        except RebakeError as error:
            return _said(f"{error.problem} [{error.code}]")
        return _said(None)

    async def metrics(_: Request) -> Response:
        try:
            text = await to_thread.run_sync(generate_latest, registry)
        except RebakeError as error:
            return _said(f"{error.problem} [{error.code}]")
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    pages = {"/livez": alive, "/readyz": ready, "/metrics": metrics}
    return Starlette(routes=[Route(path, page, methods=["GET"]) for path, page in pages.items()])


def _said(problem: str | None) -> Response:
    return PlainTextResponse("ok\n" if problem is None else problem + "\n", 200 if problem is None else 503)
