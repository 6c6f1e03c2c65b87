"""The judge: ticks in, a verdict after each. Pure, incremental, constant memory.

It decides whether the candidate is worse than stable by more than the margins, from how events fall on the two
cohorts. It leaves to others how the route moves (`traffic.ramp`) and what happens to an undecided rollout.

The rules:
- harmful, for good, as soon as the averaged evidence reaches 1 / false_rollbacks, however often one looks;
- healthy only after enough candidate requests at the present step, with no brake, fault or shared outage;
- a share of the traffic that is not what was set is a fault: a surplus suspends judging, a deficit (a candidate that
  hangs, say) leaves only the bets that stay valid when the candidate gets less than its share;
- else undecided: too little data, no comparison (all traffic on one cohort), or doubt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rebake.judge import texts
from rebake.judge.book import PRIOR_REQUESTS, PRIOR_REQUESTS_UNKNOWN, Book
from rebake.judge.bound import ExtraFailures
from rebake.judge.eprocess import Counts, Floats, odds
from rebake.judge.margins import widened
from rebake.judge.metrics import (
    MAX_ENDPOINTS,
    THRESHOLD_SAMPLES,
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
    slow_candidate,
    slow_stable,
    thresholds,
)
from rebake.judge.routing import NEEDED as FAULT_NEEDED
from rebake.judge.routing import RoutingCheck
from rebake.judge.samples import Arm, JudgeSettings, Tick, Verdict
from rebake.judge.shared_fate import SharedFate

BRAKE_ABOVE, BRAKE_UNTIL = 4.0, 2.0
WARM_UP_SECONDS = 90.0
MOST_REQUESTS = 1e15
SMALLEST_SHARE = 1e-6
"""Nearer to 0 or 1 there is nothing to compare."""
KNOWN_ENDPOINTS_SHARE = 0.75
"""Part of the endpoints' wealth for those of the hour before; the rest waits for endpoints first seen now."""


class Judge:
    """Judges one rollout.

    Args:
        settings: margins and the bound on false rollbacks.
        rate_hint: requests per second of the service, 0 when unknown; used in sentences only.
        history: stable's requests of the hour before: centres the bets and places the latency thresholds.
        kinds: what the ticks will carry ("errors", "endpoints", "latency"); None: the same as the history.
        candidate_instances: how many instances the candidate has, 0: as many as stable. Where the history knows
            stable's instances, margins below three standard errors of what they differ by are raised to that.

    Attributes:
        evidence: the averaged e-value against the candidate; 1 at the start.
        bound: upper confidence bound (95 %, at any time) on its extra failures; None while there is none.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        *,
        rate_hint: float = 0.0,
        history: Arm | None = None,
        kinds: Sequence[str] | None = None,
        candidate_instances: int = 0,
    ) -> None:
        self.settings = settings = widened(settings, history, candidate_instances)
        self.rate_hint = rate_hint
        self.needed = 1.0 / min(max(settings.false_rollbacks, 1e-12), 0.5)
        shares = kind_shares(tuple(kinds) if kinds is not None else kinds_of(history))
        self._latency_reserve = shares.get("latency", 0.0)
        self._endpoint_reserve = shares.get("endpoints", 0.0)
        self._newcomers = 0
        self._endpoints: dict[str, int] = {}
        self._limits: list[tuple[Threshold, int]] = []
        self._seen_latency: Floats = np.zeros(0)
        self.book = Book([error_row(settings, shares["errors"], history)], prior_requests=_prior_requests(history))
        self.routing = RoutingCheck()
        self.extra_failures = ExtraFailures()
        self.shared_fate = SharedFate.of(history)
        self.evidence = 1.0
        self.bound: float | None = None
        self._step_requests = 0.0
        self._first_candidate: float | None = None
        self._compared = False
        self._braked = False
        self._fault: str | None = None
        self._too_few = False
        self._harmful: str | None = None
        if history is not None:
            self._open_history(history)

    # -- the rows -----------------------------------------------------------------------------------------------

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
        self._limits = [(limit, first + i) for i, limit in enumerate(limits)]

    def _open_endpoints(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        first = len(self.book.rows)
        self.book.open(rows)
        self._endpoints.update({name: first + i for i, name in enumerate(names)})

    def _open_newcomers(self, tick: Tick) -> None:
        """Endpoints first seen now. Which endpoint a request asks for is decided before the request is routed, so
        opening an account on seeing one keeps the bound; outcomes play no part in it."""
        if not self._endpoint_reserve or self._newcomers >= MAX_ENDPOINTS:
            return
        names = sorted({*tick.stable.endpoints, *tick.candidate.endpoints} - self._endpoints.keys())
        names = names[: MAX_ENDPOINTS - self._newcomers]
        shares = [self._endpoint_reserve * newcomer_share(self._newcomers + i) for i in range(len(names))]
        self._newcomers += len(names)
        self._open_endpoints(
            [endpoint_row(e, self.settings, s, None) for e, s in zip(names, shares, strict=True)], names
        )

    def _learn_thresholds(self, stable: Arm) -> None:
        """Without history, stable's first successful answers place the thresholds; bets start after that."""
        if self._limits or not self._latency_reserve or not has_latency(stable):
            return
        counts = bucket_counts(stable.latency)
        self._seen_latency = counts if not self._seen_latency.size else self._seen_latency + counts
        if self._seen_latency.sum() >= THRESHOLD_SAMPLES:
            self._open_latency(self._seen_latency, None)
            self._seen_latency = np.zeros(0)

    # -- one tick -----------------------------------------------------------------------------------------------

    def update(self, tick: Tick) -> Verdict:
        """Take in one tick and say what is known now. Never raises on absurd counts: they are clamped."""
        dt = tick.dt if math.isfinite(tick.dt) and tick.dt > 0 else 0.0
        now = tick.t + dt if math.isfinite(tick.t) else self.book.clock
        self._open_newcomers(tick)
        stable, candidate = _sane(tick.stable), _sane(tick.candidate)
        self._compared = SMALLEST_SHARE <= tick.weight <= 1.0 - SMALLEST_SHARE
        if self._first_candidate is None and candidate[0] > 0:
            self._first_candidate = now - dt
        counts = self._counts(tick, stable, candidate)
        if self._compared and (self._fault is None or self._too_few):
            self._compare(tick.weight, now, counts)
        self.book.remember(dt, counts.stable_n, counts.stable_hits)
        self.shared_fate.update(dt, candidate, stable)
        self._learn_thresholds(tick.stable)
        return self._verdict()

    def _compare(self, weight: float, now: float, counts: Counts) -> None:
        candidate = (float(counts.candidate_n[0]), float(counts.candidate_hits[0]))
        stable = (float(counts.stable_n[0]), float(counts.stable_hits[0]))
        odd = odds(weight)
        if self._fault is None:
            self.extra_failures.update(float(self.book.centers()[0]), odd, candidate, stable)
        self.book.bet(odd, now, self._without_warm_up(counts, now), centered=self._fault is None)
        self.book.add_totals(counts)
        self.evidence = self._total_evidence()
        self.bound = self.extra_failures.upper()
        self.routing.update(weight, candidate[0], stable[0])
        self._step_requests += candidate[0]
        if self.evidence >= self.needed and self._harmful is None:
            self._harmful = self._why_harmful()
        if self._fault is None and self._harmful is None and self.routing.evidence >= FAULT_NEEDED:
            self._too_few = self.routing.too_few
            self._fault = self._why_fault(weight)
        self._braked = self.evidence > (BRAKE_UNTIL if self._braked else BRAKE_ABOVE)

    def _without_warm_up(self, counts: Counts, now: float) -> Counts:
        """Latency is not judged until the candidate has served for a while; failures always are."""
        warm = self._first_candidate is not None and now - self._first_candidate >= WARM_UP_SECONDS
        if warm or not self._limits:
            return counts
        judged = np.ones(len(self.book.rows))
        judged[[i for _, i in self._limits]] = 0.0
        return Counts(
            candidate_n=counts.candidate_n * judged,
            candidate_hits=counts.candidate_hits * judged,
            stable_n=counts.stable_n * judged,
            stable_hits=counts.stable_hits * judged,
            candidate_partial=counts.candidate_partial * judged,
            partial=counts.partial,
        )

    def _counts(self, tick: Tick, stable: tuple[float, float], candidate: tuple[float, float]) -> Counts:
        table = np.zeros((6, len(self.book.rows)))
        table[:4, 0] = (*candidate, *stable)
        for name, index in self._endpoints.items():
            table[:2, index] = _pair(tick.candidate.endpoints.get(name))
            table[2:4, index] = _pair(tick.stable.endpoints.get(name))
        if self._limits:
            self._count_slow(table, tick, stable[1], candidate[1])
        return Counts(table[0], table[1], table[2], table[3], table[4], table[5])

    def _count_slow(self, table: Floats, tick: Tick, stable_errors: float, candidate_errors: float) -> None:
        ours, theirs = bucket_counts(tick.candidate.latency), bucket_counts(tick.stable.latency)
        totals = (ours.sum() + candidate_errors, theirs.sum() + stable_errors)
        for limit, index in self._limits:
            hits, cut = slow_candidate(ours, limit)
            table[:, index] = (totals[0], hits, totals[1], slow_stable(theirs, limit), cut, limit.partial)

    # -- what is known now --------------------------------------------------------------------------------------

    def _total_evidence(self) -> float:
        """The averaged e-value: wealth of all rows and what is kept for rows to come."""
        used = sum(newcomer_share(i) for i in range(self._newcomers))
        reserve = self._latency_reserve + self._endpoint_reserve * max(0.0, 1.0 - used)
        return float(self.book.evidence().sum() + reserve)

    def begin_step(self) -> None:
        """A new weight was reached: `healthy` needs requests at this step. Evidence is kept."""
        self._step_requests = 0.0

    def _verdict(self) -> Verdict:
        n1, k1, n0, k0 = (int(min(x, 2**63)) for x in self.book.totals[0])
        kind, reason = self._kind()
        return Verdict(
            kind=kind,
            evidence=self.evidence,
            needed=self.needed,
            reason=reason,
            brake=self._braked or self._fault is not None or self.shared_fate.both_burn,
            fault=self._fault,
            stable=(n0, k0),
            candidate=(n1, k1),
            bound=self.bound if n1 else None,
            worst=self._worst(),
        )

    def _kind(self) -> tuple[Any, str]:
        if self._harmful is not None:
            return "harmful", self._harmful
        if self._fault is not None:
            return "undecided", self._fault
        if self.shared_fate.both_burn:
            return "undecided", self.shared_fate.reason()
        if not self._compared:
            return "undecided", "nothing to compare: all traffic goes to one cohort"
        if self._step_requests < max(self.settings.min_requests, 1):
            return "undecided", self._why_waiting()
        if self._braked:
            return "undecided", f"in doubt: {self._numbers()}"
        return "healthy", f"{self._numbers()}{self._bound_text()}"

    def _worst(self, most: int = 8) -> Mapping[str, float]:
        """Each row's own e-value, the largest few."""
        own = self.book.evidence() / np.maximum(self.book.constants[:, 0], 1e-300)
        top = np.argsort(-own, kind="stable")[:most]
        return {self.book.rows[i].name: float(own[i]) for i in top}

    # -- sentences ----------------------------------------------------------------------------------------------

    def _numbers(self) -> str:
        n1, k1, n0, k0 = self.book.totals[0]
        return (
            f"{texts.compared('bad answers', (n1, k1), (n0, k0))}; "
            f"evidence {texts.number(self.evidence)} of {texts.number(self.needed)} needed"
        )

    def _why_waiting(self) -> str:
        if not self.book.totals[0, 0]:
            return "no requests on the candidate yet: no data is no verdict"
        seen, wanted = self._step_requests, max(self.settings.min_requests, 1)
        return f"{texts.number(seen)} of {wanted} candidate requests that this step needs; {self._numbers()}"

    def _why_fault(self, weight: float) -> str:
        n1, _, n0, _ = self.book.totals[0]
        what = (
            "it may hang, or the route is not what was set; only failures are judged now, and the rollout holds"
            if self._too_few
            else "judging is suspended and the rollout holds"
        )
        return (
            f"routing fault: the candidate answered {texts.part(n1, n1 + n0)} of the requests, not the share it was "
            f"meant to get (now {texts.percent(weight)}); {what}"
        )

    def _why_harmful(self) -> str:
        worst = int(np.argmax(self.book.evidence()))
        bound = f"false-alarm bound {texts.percent(1.0 / self.needed)}"
        text = self._numbers()
        if worst in (i for _, i in self._limits):
            n1, k1, n0, k0 = self.book.totals[worst]
            what = f"answers slower than stable's {self.book.rows[worst].name.removeprefix('latency ')} limit"
            text = f"{texts.compared(what, (n1, k1), (n0, k0))}; {text}"
        return f"{text}; {bound}{self._worst_endpoint()}"

    def _worst_endpoint(self) -> str:
        if not self._endpoints:
            return ""
        evidence = self.book.evidence() / self.book.constants[:, 0]
        name, index = max(self._endpoints.items(), key=lambda item: (evidence[item[1]], item[0]))
        n1, k1, _, _ = self.book.totals[index]
        return f"; worst endpoint {name} ({texts.number(k1)} of {texts.number(n1)})" if k1 else ""

    def _bound_text(self) -> str:
        bound = self.bound
        return "" if bound is None else f"; at most {texts.points(bound)} more failures than stable (95 %)"

    def promotion_text(self) -> str:
        """The sentence for a promotion: what harm is still possible, and what this traffic can show at all."""
        bound = self.bound
        if bound is None:
            return "promoted without a bound on extra failures: too few requests were compared"
        text = f"at most {texts.points(bound)} more failures than stable (95 %)"
        if bound > 0.005:
            text += "; at this traffic smaller harm cannot be seen in the time of a rollout"
        return text

    # -- memory -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that is remembered, as JSON. `restore` continues from it as if nothing had happened."""
        return {
            "book": self.book.state(),
            "routing": self.routing.log_wealth.tolist(),
            "extra_failures": self.extra_failures.log_wealth.tolist(),
            "shared_fate": self.shared_fate.state(),
            "rate_hint": self.rate_hint,
            "error_ratio": self.settings.error_ratio,
            "latency_growth": dict(self.settings.latency),
            "reserves": [self._latency_reserve, self._endpoint_reserve],
            "newcomers": self._newcomers,
            "endpoints": dict(self._endpoints),
            "limits": [[t.name, t.bucket, t.shifted, t.partial, i] for t, i in self._limits],
            "seen_latency": self._seen_latency.tolist(),
            "evidence": self.evidence,
            "bound": self.bound,
            "step_requests": self._step_requests,
            "first_candidate": self._first_candidate,
            "compared": self._compared,
            "braked": self._braked,
            "fault": self._fault,
            "too_few": self._too_few,
            "harmful": self._harmful,
        }

    @classmethod
    def restore(cls, settings: JudgeSettings, state: Mapping[str, Any]) -> Judge:
        """The judge that wrote `state`, with the margins it judged by."""
        margins = {"error_ratio": state["error_ratio"], "latency": dict(state["latency_growth"])}
        judge = cls(replace(settings, **margins), rate_hint=state["rate_hint"])
        judge.book = Book.restore(state["book"])
        judge.routing.log_wealth = np.array(state["routing"])
        judge.extra_failures.log_wealth = np.array(state["extra_failures"])
        judge.shared_fate = SharedFate.restore(state["shared_fate"])
        judge._latency_reserve, judge._endpoint_reserve = state["reserves"]
        judge._newcomers = state["newcomers"]
        judge._endpoints = dict(state["endpoints"])
        judge._limits = [(Threshold(*limit[:4]), limit[4]) for limit in state["limits"]]
        judge._seen_latency = np.array(state["seen_latency"], dtype=np.float64)
        judge.evidence, judge.bound = state["evidence"], state["bound"]
        judge._step_requests = state["step_requests"]
        judge._first_candidate = state["first_candidate"]
        judge._compared, judge._braked = state["compared"], state["braked"]
        judge._fault, judge._too_few, judge._harmful = state["fault"], state["too_few"], state["harmful"]
        return judge


def judge_alone(settings: JudgeSettings, candidate: Arm) -> Verdict:
    """The verdict where there is no working stable to compare with: undecided, with the candidate's own counts."""
    counted = _sane(candidate)
    n, errors = int(counted[0]), int(counted[1])
    reason = f"no stable to compare with; the candidate gave {texts.part(errors, n)} bad answers"
    return Verdict("undecided", 1.0, 1.0 / settings.false_rollbacks, reason, candidate=(n, errors))


def _prior_requests(history: Arm | None) -> float:
    return PRIOR_REQUESTS if history is not None and history.n > 0 else PRIOR_REQUESTS_UNKNOWN


def _pair(counts: tuple[int, int] | None) -> tuple[float, float]:
    n, hits = counts or (0, 0)
    requests = float(min(max(0.0, n), MOST_REQUESTS))
    return requests, float(min(max(0.0, hits), requests))


def _sane(arm: Arm) -> tuple[float, float]:
    return _pair((arm.n, arm.errors))
