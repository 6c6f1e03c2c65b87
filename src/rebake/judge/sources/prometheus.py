"""Metrics from a Prometheus server."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rebake.core.clock import Clock, SystemClock
from rebake.core.units import format_duration
from rebake.judge.metric_readings import CohortName, Pair, Side
from rebake.judge.metric_rules import REQUESTS, PrometheusAsk
from rebake.judge.ports import Cohort, Question
from rebake.judge.selectors import alternatives, filled
from rebake.prometheus.api import Series, Server
from rebake.prometheus.asking import refused

# --- pure ------------------------------------------------------------------------------------------------------------


def values_of(question: Question, name: CohortName, cohort: Cohort) -> dict[str, str]:
    """What the placeholders stand for, in the queries of one cohort."""
    return {
        "cohort": name,
        "fleet": cohort.fleet,
        "revision": cohort.revision,
        "release": cohort.release,
        "instances": alternatives(sorted(cohort.instances.values())),
        "names": alternatives(sorted(cohort.instances)),
        "service": question.service,
        "environment": question.environment,
        "interval": format_duration(question.rule.interval_ms),
    }


def unit_of(labels: Mapping[str, str]) -> str:
    """What series of counters are added up by: the instance that counts, as far as the query keeps it."""
    return next((labels[name] for name in ("instance", "pod") if name in labels), "")


def summed(series: Series) -> dict[str, float]:
    """Counters by unit."""
    found: dict[str, float] = {}
    for labels, value in series:
        found[unit_of(labels)] = found.get(unit_of(labels), 0.0) + value
    return found


def paired(hits: Series, total: Series | None) -> dict[str, Pair]:
    """Both counters by unit. A unit that counts a total and no hit had none: its series of hits is not born yet.

    With `total` None hits stand alone: the total is counted by the route.
    """
    had = summed(hits)
    if total is None:
        return {unit: (count, 0.0) for unit, count in had.items()}
    return {unit: (had.get(unit, 0.0), count) for unit, count in summed(total).items()}


def numbers(series: Series) -> dict[str, float]:
    """One number for each series."""
    return {json.dumps(labels, sort_keys=True): value for labels, value in series}


# --- the source ------------------------------------------------------------------------------------------------------


class PrometheusSource:
    """`judge.ports.MetricSource` for `PrometheusAsk`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        wanted, at = question.rule.ask, self._clock.now()
        assert isinstance(wanted, PrometheusAsk)
        if wanted.query is not None:
            found = self._each(question, wanted.query, at)
            return {name: Side(numbers=numbers(series)) for name, series in found.items()}
        assert wanted.hits is not None
        hits = self._each(question, wanted.hits, at)
        total = None if wanted.total in (None, REQUESTS) else self._each(question, wanted.total, at)
        _refuse_never_hit(wanted, hits)
        return {n: Side(counters=paired(hits[n], None if total is None else total[n])) for n in hits}

    def _each(self, question: Question, query: str | None, at: float) -> dict[CohortName, Series]:
        cohorts = question.cohorts.items()
        return {n: self._query(question, filled(query or "", values_of(question, n, c)), at) for n, c in cohorts}

    @staticmethod
    def _query(question: Question, query: str, at: float) -> Series:
        wanted = question.rule.ask
        assert isinstance(wanted, PrometheusAsk)
        return Server(wanted.url, wanted.timeout_ms, wanted.token_file).series(query, at)


def _refuse_never_hit(wanted: PrometheusAsk, hits: Mapping[CohortName, Series]) -> None:
    """No series of hits at all may be a slip of the pen: that must not pass for a service without a failure."""
    same = wanted.total is not None and (wanted.hits or "").partition("{")[0].strip() in wanted.total
    if any(hits.values()) or (same and wanted.total != REQUESTS) or not hits:
        return
    remedy = "if it is not born before the first event, write: hits: (…) or vector(0)"
    raise refused(f"no series of either cohort for hits: {wanted.hits}", remedy)
