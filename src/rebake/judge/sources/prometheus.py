"""Metrics from a Prometheus server, or from whatever speaks its query API (Thanos, Mimir, VictoriaMetrics).

Source: Prometheus 2.42, HTTP API, "Instant queries" and "Expression query result formats".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rebake.core.clock import Clock, SystemClock
from rebake.core.units import format_duration
from rebake.errors import Transient
from rebake.judge.metric_readings import CohortName, Pair, Side
from rebake.judge.metric_rules import REQUESTS, PrometheusAsk
from rebake.judge.ports import Cohort, Question
from rebake.judge.selectors import alternatives, filled
from rebake.judge.sources.asking import Answer, ask, refused

Series = list[tuple[dict[str, str], float]]

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


def form_of(query: str, at: float, timeout_ms: int) -> str:
    """The body of an instant query: evaluated at one moment, the same for all queries of a reading."""
    return urlencode({"query": query, "time": f"{at:.3f}", "timeout": f"{timeout_ms}ms"})


def series_in(answer: Answer, query: str) -> Series:
    """The series of an instant vector, or the one of a scalar.

    Raises: Permanent `metric-refused` for a query that is wrong; Transient when the server cannot answer it now.
    """
    doc = _document(answer, query)
    data = doc.get("data") or {}
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar" and isinstance(result, list):
        return [({}, float(result[1]))]
    if kind != "vector" or not isinstance(result, list):
        remedy = "let the query give an instant vector: no range such as [5m] at its end, no text"
        raise refused(f"expected a vector, found a {kind} for {query}", remedy)
    return [(dict(one["metric"]), float(one["value"][1])) for one in result if "value" in one]


def _document(answer: Answer, query: str) -> dict[str, Any]:
    try:
        doc = json.loads(answer.text)
    except ValueError:
        doc = None
    if not isinstance(doc, dict):
        remedy = "let url name a Prometheus server: its API is asked at URL/api/v1/query"
        raise refused(f"expected Prometheus' JSON, found status {answer.status} with {answer.text[:60]!r}", remedy)
    if doc.get("status") == "success":
        return doc
    said = f"{doc.get('errorType')}: {doc.get('error')}"
    if answer.status in (400, 401, 403, 404, 422):
        raise refused(f"Prometheus refuses {query}: {said}", "correct the query in rebake.yaml")
    raise Transient("metric-not-answered", f"Prometheus cannot answer {query} now: {said}", retry_after_seconds=1.0)


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

    def _query(self, question: Question, query: str, at: float) -> Series:
        wanted = question.rule.ask
        assert isinstance(wanted, PrometheusAsk)
        headers = {"Content-Type": "application/x-www-form-urlencoded", **_authorisation(wanted)}
        url, body = f"{wanted.url.rstrip('/')}/api/v1/query", form_of(query, at, wanted.timeout_ms)
        return series_in(ask(url, wanted.timeout_ms, method="POST", headers=headers, body=body), query)


def _refuse_never_hit(wanted: PrometheusAsk, hits: Mapping[CohortName, Series]) -> None:
    """No series of hits at all may be a slip of the pen: that must not pass for a service without a failure."""
    same = wanted.total is not None and (wanted.hits or "").partition("{")[0].strip() in wanted.total
    if any(hits.values()) or (same and wanted.total != REQUESTS) or not hits:
        return
    remedy = "if it is not born before the first event, write: hits: (…) or vector(0)"
    raise refused(f"no series of either cohort for hits: {wanted.hits}", remedy)


def _authorisation(wanted: PrometheusAsk) -> dict[str, str]:
    if wanted.token_file is None:
        return {}
    try:
        token = Path(wanted.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise refused(f"the token cannot be read from {wanted.token_file}: {error}", "correct token_file") from error
    return {"Authorization": f"Bearer {token}"}
