"""The query API of Prometheus, or of whatever speaks it (Thanos, Mimir, VictoriaMetrics).

Source: Prometheus 2.42, HTTP API, "Instant queries" and "Expression query result formats".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rebake.errors import Transient
from rebake.prometheus.asking import Answer, ask, refused

Series = list[tuple[dict[str, str], float]]
Matrix = list[tuple[dict[str, str], list[tuple[float, float]]]]
"""Series as they were scraped: labels, and (seconds since the epoch, value), oldest first."""

# --- pure ------------------------------------------------------------------------------------------------------------


def form_of(query: str, at: float | None, timeout_ms: int) -> str:
    """The body of an instant query: evaluated at one moment, the same for all queries of a reading; None: at the
    server's own present."""
    moment = {} if at is None else {"time": f"{at:.3f}"}
    return urlencode({"query": query, **moment, "timeout": f"{timeout_ms}ms"})


def series_in(answer: Answer, query: str) -> Series:
    """The series of an instant vector, or the one of a scalar.

    Raises: Permanent `metric-refused` for a query that is wrong; Transient when the server cannot answer it now.
    """
    kind, result = _result(answer, query)
    if kind == "scalar" and isinstance(result, list):
        return [({}, float(result[1]))]
    if kind != "vector" or not isinstance(result, list):
        remedy = "let the query give an instant vector: no range such as [5m] at its end, no text"
        raise refused(f"expected a vector, found a {kind} for {query}", remedy)
    return [(dict(one["metric"]), float(one["value"][1])) for one in result if "value" in one]


def matrix_in(answer: Answer, query: str) -> Matrix:
    """The scraped samples of a range vector. Raises: as `series_in`."""
    kind, result = _result(answer, query)
    if kind != "matrix" or not isinstance(result, list):
        raise refused(f"expected a range, found a {kind} for {query}", "let the query be the name of a counter")
    rows = [one for one in result if "values" in one]
    return [(dict(one["metric"]), [(float(at), float(value)) for at, value in one["values"]]) for one in rows]


def _result(answer: Answer, query: str) -> tuple[Any, Any]:
    data = _document(answer, query).get("data") or {}
    return data.get("resultType"), data.get("result")


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


# --- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """One server.

    Attributes:
        url: its API is below it.
        token_file: a bearer token, read for each question, as it may be a new one by then.
    """

    url: str
    timeout_ms: int
    token_file: str | None = None

    def series(self, query: str, at: float) -> Series:
        """Raises: as `series_in`; Transient when nobody answers in time."""
        return series_in(self._ask(query, at), query)

    def matrix(self, query: str, at: float) -> Matrix:
        """Raises: as `series`."""
        return matrix_in(self._ask(query, at), query)

    def clock(self) -> float:
        """What time it is there, seconds since the epoch. Raises: as `series`."""
        return series_in(self._ask("time()", None), "time()")[0][1]

    def _ask(self, query: str, at: float | None) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._authorisation()}
        body = form_of(query, at, self.timeout_ms)
        return ask(f"{self.url.rstrip('/')}/api/v1/query", self.timeout_ms, method="POST", headers=headers, body=body)

    def _authorisation(self) -> dict[str, str]:
        if self.token_file is None:
            return {}
        try:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise refused(f"the token cannot be read from {self.token_file}: {error}", "correct token_file") from error
        return {"Authorization": f"Bearer {token}"}
