"""Which metrics are bet on in one rollout, and how a tick is counted for each: the book with its rows' places.

Wealth that is meant for metrics not yet known (thresholds still to be learnt, endpoints first seen later) waits in
reserves; it is part of the evidence, and worth what it was.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rebake.judge.book import PRIOR_REQUESTS, PRIOR_REQUESTS_UNKNOWN, Book
from rebake.judge.eprocess import Counts, Floats
from rebake.judge.metrics import (
    MAX_ENDPOINTS,
    REDIRECTS,
    REFUSALS,
    THRESHOLD_SAMPLES,
    UNANSWERED,
    UNFINISHED,
    Row,
    Threshold,
    bucket_counts,
    endpoint_row,
    error_row,
    has_latency,
    kind_shares,
    kinds_of,
    latency_row,
    newcomer_share,
    plain_counts,
    redirect_row,
    refusal_row,
    slow_candidate,
    slow_stable,
    thresholds,
    unanswered_row,
    unfinished_row,
)
from rebake.judge.samples import Arm, JudgeSettings, Tick

MOST_REQUESTS = 1e15
KNOWN_ENDPOINTS_SHARE = 0.75
"""Part of the endpoints' wealth for those of the hour before; the rest waits for endpoints first seen now."""

Pair = tuple[float, float]
_OTHER_ROWS = {
    UNANSWERED: unanswered_row,
    REFUSALS: refusal_row,
    REDIRECTS: redirect_row,
    UNFINISHED: unfinished_row,
}


class Rows:
    """The rows of one rollout: failures first, then latency limits and endpoints, more endpoints as they are seen.

    Attributes:
        book: their wealth, running rates and totals.
        others: row by kind, of requests without an answer, of refusals, of redirects and of unfinished answers.
        endpoints: row by endpoint. limits: latency limits, each with its row.
    """

    def __init__(self, settings: JudgeSettings, history: Arm | None, kinds: Sequence[str] | None) -> None:
        self.settings = settings
        shares = kind_shares(tuple(kinds) if kinds is not None else kinds_of(history))
        known = history is not None and history.n > 0
        prior_requests = PRIOR_REQUESTS if known else PRIOR_REQUESTS_UNKNOWN
        self.book = Book([error_row(settings, shares["errors"], history)], prior_requests=prior_requests)
        self.others: dict[str, int] = {}
        self._open_others(shares, history)
        self.endpoints: dict[str, int] = {}
        self.limits: list[tuple[Threshold, int]] = []
        self._latency_reserve = shares.get("latency", 0.0)
        self._endpoint_reserve = shares.get("endpoints", 0.0)
        self._newcomers = 0
        self._seen_latency: Floats = np.zeros(0)
        if history is not None:
            self._open_history(history)

    # -- opening rows -------------------------------------------------------------------------------------------

    def _open_others(self, shares: Mapping[str, float], history: Arm | None) -> None:
        rows = [row(self.settings, shares[kind], history) for kind, row in _OTHER_ROWS.items() if kind in shares]
        if rows:
            first = len(self.book.rows)
            self.book.open(rows)
            self.others = {row.name: first + i for i, row in enumerate(rows)}

    def _open_history(self, history: Arm) -> None:
        if self._latency_reserve and has_latency(history):
            self._open_latency(history.latency, history)
        if self._endpoint_reserve and history.endpoints:
            busiest = sorted(history.endpoints, key=lambda e: (-history.endpoints[e][0], e))[:MAX_ENDPOINTS]
            each = self._endpoint_reserve * KNOWN_ENDPOINTS_SHARE / len(busiest)
            self._endpoint_reserve *= 1.0 - KNOWN_ENDPOINTS_SHARE
            self._open_endpoints([endpoint_row(e, self.settings, each, history) for e in busiest], busiest)

    def _open_latency(self, latency: Sequence[int] | Floats, history: Arm | None) -> None:
        limits = thresholds([int(c) for c in latency], self.settings.latency)
        if not limits:
            return
        each, first = self._latency_reserve / len(limits), len(self.book.rows)
        self._latency_reserve = 0.0
        self.book.open([latency_row(limit, each, history) for limit in limits])
        self.limits = [(limit, first + i) for i, limit in enumerate(limits)]

    def _open_endpoints(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        first = len(self.book.rows)
        self.book.open(rows)
        self.endpoints.update({name: first + i for i, name in enumerate(names)})

    def open_newcomers(self, tick: Tick) -> None:
        """Open rows for endpoints first seen now. Which endpoint a request asks for is decided before the request is
        routed, so opening an account on seeing one keeps the bound; outcomes play no part in it."""
        if not self._endpoint_reserve or self._newcomers >= MAX_ENDPOINTS:
            return
        names = sorted({*tick.stable.endpoints, *tick.candidate.endpoints} - self.endpoints.keys())
        names = names[: MAX_ENDPOINTS - self._newcomers]
        shares = [self._endpoint_reserve * newcomer_share(self._newcomers + i) for i in range(len(names))]
        self._newcomers += len(names)
        rows = [endpoint_row(e, self.settings, s, None) for e, s in zip(names, shares, strict=True)]
        self._open_endpoints(rows, names)

    def learn(self, stable: Arm) -> None:
        """Without history, stable's first successful answers place the thresholds; bets start after that."""
        if self.limits or not self._latency_reserve or not has_latency(stable):
            return
        counts = bucket_counts(stable.latency)
        self._seen_latency = counts if not self._seen_latency.size else self._seen_latency + counts
        if self._seen_latency.sum() >= THRESHOLD_SAMPLES:
            self._open_latency(self._seen_latency, None)
            self._seen_latency = np.zeros(0)

    # -- counting -----------------------------------------------------------------------------------------------

    def counts(self, tick: Tick) -> Counts:
        """The tick by row; absurd counts are clamped."""
        table = np.zeros((6, len(self.book.rows)))
        stable, candidate = sane(tick.stable), sane(tick.candidate)
        table[:4, 0] = (*candidate, *stable)
        for name, index in self.others.items():
            table[:4, index] = (*_other(name, tick.candidate), *_other(name, tick.stable))
        for name, index in self.endpoints.items():
            table[:2, index] = _pair(tick.candidate.endpoints.get(name))
            table[2:4, index] = _pair(tick.stable.endpoints.get(name))
        if self.limits:
            self._count_slow(table, tick, stable[1], candidate[1])
        return Counts(table[0], table[1], table[2], table[3], table[4], table[5])

    def _count_slow(self, table: Floats, tick: Tick, stable_errors: float, candidate_errors: float) -> None:
        ours, theirs = plain_counts(tick.candidate.latency), plain_counts(tick.stable.latency)
        totals = (sum(ours) + candidate_errors, sum(theirs) + stable_errors)
        for limit, index in self.limits:
            hits, cut = slow_candidate(ours, limit)
            table[:, index] = (totals[0], hits, totals[1], slow_stable(theirs, limit), cut, limit.partial)

    def without_latency(self, counts: Counts) -> Counts:
        """The same counts with nothing seen by the latency rows."""
        judged = np.ones(len(self.book.rows))
        judged[[i for _, i in self.limits]] = 0.0
        return Counts(
            candidate_n=counts.candidate_n * judged,
            candidate_hits=counts.candidate_hits * judged,
            stable_n=counts.stable_n * judged,
            stable_hits=counts.stable_hits * judged,
            candidate_partial=counts.candidate_partial * judged,
            partial=counts.partial,
        )

    # -- what is known ------------------------------------------------------------------------------------------

    def evidence(self) -> float:
        """The averaged e-value: wealth of all rows and what is kept for rows to come."""
        used = sum(newcomer_share(i) for i in range(self._newcomers))
        reserve = self._latency_reserve + self._endpoint_reserve * max(0.0, 1.0 - used)
        return float(self.book.evidence().sum() + reserve)

    def own_evidence(self) -> Floats:
        """Each row's own e-value, (rows,)."""
        own: Floats = self.book.evidence() / np.maximum(self.book.constants[:, 0], 1e-300)
        return own

    def worst(self, most: int = 8) -> Mapping[str, float]:
        """The rows with the largest e-values of their own, by name."""
        own: list[float] = self.own_evidence().tolist()
        return {self.book.rows[i].name: own[i] for i in heapq.nlargest(most, range(len(own)), key=own.__getitem__)}

    def worst_endpoint(self) -> tuple[str, float, float] | None:
        """(name, candidate's requests, its failures) of the endpoint with the most evidence; None without failures."""
        if not self.endpoints:
            return None
        own = self.own_evidence()
        name, index = max(self.endpoints.items(), key=lambda item: (own[item[1]], item[0]))
        n, failures = self.book.totals[index][:2]
        return (name, float(n), float(failures)) if failures else None

    # -- memory -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "book": self.book.state(),
            "reserves": [self._latency_reserve, self._endpoint_reserve],
            "newcomers": self._newcomers,
            "others": dict(self.others),
            "endpoints": dict(self.endpoints),
            "limits": [[t.name, t.bucket, t.shifted, t.partial, i] for t, i in self.limits],
            "seen_latency": self._seen_latency.tolist(),
        }

    @classmethod
    def restore(cls, settings: JudgeSettings, state: Mapping[str, Any]) -> Rows:
        rows = cls(settings, None, None)
        rows.book = Book.restore(state["book"])
        rows._latency_reserve, rows._endpoint_reserve = state["reserves"]
        rows._newcomers = state["newcomers"]
        rows.others = dict(state["others"])
        rows.endpoints = dict(state["endpoints"])
        rows.limits = [(Threshold(*limit[:4]), limit[4]) for limit in state["limits"]]
        rows._seen_latency = np.array(state["seen_latency"], dtype=np.float64)
        return rows


def _pair(counts: tuple[int, int] | None) -> Pair:
    n, hits = counts or (0, 0)
    requests = float(min(max(0.0, n), MOST_REQUESTS))
    return requests, float(min(max(0.0, hits), requests))


def _other(kind: str, arm: Arm) -> Pair:
    """The unit is the request whose answer came or is overdue; of what its answer says the one that was answered."""
    if kind in (UNANSWERED, UNFINISHED):
        hits = arm.unanswered if kind == UNANSWERED else arm.unfinished
        return _pair((arm.n + max(hits, 0), hits))
    return _pair((arm.n, arm.refused if kind == REFUSALS else arm.redirected))


def sane(arm: Arm) -> Pair:
    """(requests, failures), 0 <= failures <= requests, whatever was given."""
    return _pair((arm.n, arm.errors))
