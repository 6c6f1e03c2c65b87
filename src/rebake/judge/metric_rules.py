"""Metrics of the service's own, as the judge is told of them: where each is read, and what counts as worse. Values.

A metric is of one of two forms:
- a **share**: of `total` things, `hits` had the event (failed jobs of all jobs; a command that failed, of its runs);
- a **number**: what an instance, or a whole cohort, says of itself (the age of the oldest job, a mean latency).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REQUESTS = "$requests"
"""Instead of a `total`: the users' requests that the route dealt to the cohort, which rebake counts itself."""

Worse = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class PrometheusAsk:
    """Queries to a Prometheus server, asked once for each cohort, with its placeholders filled in.

    Attributes:
        query: gives numbers, one for each series; None where `hits` and `total` are asked.
        hits, total: counters as they stand, never `rate(…)` of them: the judge takes the differences.
        token_file: a file with a bearer token, on the machine that asks.
    """

    url: str
    query: str | None = None
    hits: str | None = None
    total: str | None = None
    token_file: str | None = None
    timeout_ms: int = 5000
    kind: Literal["prometheus"] = "prometheus"


@dataclass(frozen=True, slots=True)
class EndpointAsk:
    """The metrics endpoint of every instance. What is asked for are selectors, such as `jobs_total{state="failed"}`.

    Attributes:
        value: a gauge; each instance gives one number.
        growth, per: a counter whose growth is the number, for each one that `per` grew by, or for each second.
        hits, total: counters of a share.
    """

    path: str = "/metrics"
    value: str | None = None
    growth: str | None = None
    per: str | None = None
    hits: str | None = None
    total: str | None = None
    timeout_ms: int = 5000
    kind: Literal["endpoint"] = "endpoint"


@dataclass(frozen=True, slots=True)
class CommandAsk:
    """A program, run once for each cohort: its exit code is a trial (0 is well), or it prints a number."""

    command: tuple[str, ...]
    reads: Literal["exit-code", "number"] = "exit-code"
    cwd: str | None = None
    timeout_ms: int = 30_000
    kind: Literal["command"] = "command"


Ask = PrometheusAsk | EndpointAsk | CommandAsk


@dataclass(frozen=True, slots=True)
class MetricRule:
    """One metric of the service's own.

    Attributes:
        ratio_milli, extra_bp: of a share: worse means above ratio x stable's + extra.
        percent_bp, absolute_milli: of a number: worse means beyond stable's by more than both together.
        span_ms: of a number: readings within one span count as one comparison.
        loaded: of a number: it grows with the traffic of an instance, so it is compared only while an instance of the
            candidate gets no more of it than one of stable's (no less, where lower is worse).
        missing: what no data means: `undecided` holds, `ignore` leaves the metric out.
        observe: shown, and never decides.
    """

    name: str
    ask: Ask
    worse: Worse = "higher"
    ratio_milli: int = 1100
    extra_bp: int = 10
    percent_bp: int = 2000
    absolute_milli: int = 0
    interval_ms: int = 10_000
    span_ms: int = 30_000
    loaded: bool = True
    missing: Literal["undecided", "ignore"] = "undecided"
    observe: bool = False

    @property
    def form(self) -> Literal["share", "number"]:
        if isinstance(self.ask, CommandAsk):
            return "number" if self.ask.reads == "number" else "share"
        return "share" if self.ask.hits is not None else "number"

    @property
    def by_requests(self) -> bool:
        """Its total are the requests that the route dealt."""
        return not isinstance(self.ask, CommandAsk) and self.ask.total == REQUESTS
