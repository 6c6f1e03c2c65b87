"""The judge: ticks in, a verdict after each. Pure, incremental, constant memory.

It decides whether the candidate is worse than stable by more than the margins, from how events fall on the two
cohorts. It leaves to others how the route moves (`traffic.ramp`) and what happens to an undecided rollout.

The rules:
- harmful, for good, as soon as the averaged evidence reaches 1 / false_rollbacks, however often one looks;
- healthy only after enough candidate requests at the present step, with no brake, fault or shared outage;
- a share of the traffic that is not what was set is a fault: a surplus suspends judging, a deficit (a candidate that
  hangs, say) leaves only the bets that stay valid when the candidate gets less than its share;
- metrics of the service's own (`custom`) are weighed in with a fixed share; one that must be heard and is not makes
  the verdict undecided;
- else undecided: too little data, no comparison (all traffic on one cohort), or doubt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rebake.judge import texts
from rebake.judge.bound import ExtraFailures
from rebake.judge.copies import UNIT as COPIED
from rebake.judge.copies import Copies
from rebake.judge.custom import CustomMetrics, Split
from rebake.judge.eprocess import SMALLEST_SHARE, Counts, odds
from rebake.judge.margins import widened
from rebake.judge.metric_readings import Reading
from rebake.judge.metrics import OTHERS
from rebake.judge.routing import NEEDED as FAULT_NEEDED
from rebake.judge.routing import RoutingCheck
from rebake.judge.rows import Rows, sane
from rebake.judge.samples import Arm, JudgeSettings, Pairs, Tick, Verdict
from rebake.judge.shared_fate import SharedFate
from rebake.judge.warm_up import WarmUp

BRAKE_ABOVE, BRAKE_UNTIL = 4.0, 2.0
OWN_METRICS_SHARE = 0.2
"""Part of the wealth that metrics of the service's own get, where it has any that decide. It costs those of the
requests a fifth of theirs, 0.22 of the 4.6 nats that they need."""
HALF_AN_HOUR_SECONDS = 1800.0
"""Half of an hour's requests go to the candidate."""
RATE_KNOWN_SECONDS = 20.0
"""After so long the traffic is known from what was judged."""
NATS_TO_EXCLUDE = 4.6
"""n requests without excess failures bound the excess by about this much over n (JUDGE.md section 1, Ramp)."""


class Judge:
    """Judges one rollout.

    Args:
        settings: margins and the bound on false rollbacks.
        rate_hint: requests per second of the service, 0 when unknown; used in sentences only.
        history: stable's requests of the hour before: centres the bets and places the latency thresholds.
        kinds: what the ticks will carry ("errors", "endpoints", "latency"); None: the same as the history.
        candidate_instances: how many instances the candidate has, 0: as many as stable. Where the history knows
            stable's instances, margins below three standard errors of what they differ by are raised to that.
        custom: metrics of the service's own.
        by_requests: False where no route deals requests to the fleets: then only `custom` decides.
        copies_share: part of the wealth that is bet on copies of users' requests (`copies`), 0 where none are sent.

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
        custom: CustomMetrics | None = None,
        by_requests: bool = True,
        copies_share: float = 0.0,
    ) -> None:
        self.settings = settings = widened(settings, history, candidate_instances)
        self.rate_hint = rate_hint
        self.custom = custom or CustomMetrics(())
        self.by_requests = by_requests
        self.copies_share = copies_share
        self.copies = Copies(settings, history) if copies_share else None
        self.needed = 1.0 / min(max(settings.false_rollbacks, 1e-12), 0.5)
        self.rows = Rows(settings, history, kinds)
        self.routing = RoutingCheck()
        self.extra_failures = ExtraFailures()
        self.shared_fate = SharedFate.of(history)
        self.evidence = 1.0
        self.bound: float | None = None
        self._step_requests = 0.0
        self._warm_up = WarmUp(history)
        self._compared = self._copied = False
        self._braked = False
        self._fault: str | None = None
        self._too_few = False
        self._harmful: str | None = None
        self._now = 0.0
        self._shielded = 0

    # -- one tick -----------------------------------------------------------------------------------------------

    def update(self, tick: Tick) -> Verdict:
        """Take in one tick and say what is known now. Never raises on absurd counts: they are clamped."""
        dt = tick.dt if math.isfinite(tick.dt) and tick.dt > 0 else 0.0
        now = tick.t + dt if math.isfinite(tick.t) else self.rows.book.clock
        self.rows.open_newcomers(tick)
        stable, candidate = sane(tick.stable), sane(tick.candidate)
        self._shielded += min(max(tick.candidate.shielded, 0), int(candidate[1]))
        self._compared = SMALLEST_SHARE <= tick.weight <= 1.0 - SMALLEST_SHARE
        self._copied = self.copies is not None and tick.weight < SMALLEST_SHARE
        counts = self.rows.counts(tick)
        cold = self._warm_up.cold(tick, now - dt, now) and bool(self.rows.limits)
        if self._compared and (self._fault is None or self._too_few):
            judged = self.rows.without_latency(counts) if cold else counts
            self._compare(tick.weight, now, judged, (_dealt(tick.candidate), _dealt(tick.stable)))
        if tick.pairs is not None and self.copies is not None:
            self._compare_copies(self.copies, tick.pairs, now)
        self.rows.book.remember(dt, counts.stable_n, counts.stable_hits)
        self.shared_fate.update(dt, candidate, stable)
        self.rows.learn(tick.stable)
        return self._verdict()

    def _compare(self, weight: float, now: float, counts: Counts, dealt: tuple[float, float]) -> None:
        candidate = (float(counts.candidate_n[0]), float(counts.candidate_hits[0]))
        stable = (float(counts.stable_n[0]), float(counts.stable_hits[0]))
        odd = odds(weight)
        if self._fault is None:
            self.extra_failures.update(float(self.rows.book.centers()[0]), odd, candidate, stable)
        self.rows.book.bet(odd, now, counts, centered=self._fault is None)
        self.rows.book.add_totals(counts)
        self.bound = self.extra_failures.upper()
        self.routing.update(weight, *dealt)
        self._step_requests += candidate[0]
        self._weigh()
        if self._fault is None and self._harmful is None and self.routing.evidence >= FAULT_NEEDED:
            self._too_few = self.routing.too_few
            self._fault = self._why_fault(weight)

    def _compare_copies(self, copies: Copies, pairs: Pairs, now: float) -> None:
        copies.update(now, pairs)
        if self._copied:
            self._step_requests += max(pairs.n, 0)
        self._weigh()

    def _weigh(self) -> None:
        """What all evidence together says now."""
        self.evidence = sum(self._parts().values())
        if self.evidence >= self.needed and self._harmful is None:
            self._harmful = self._why_harmful()
        self._braked = self.evidence > (BRAKE_UNTIL if self._braked else BRAKE_ABOVE)

    def _parts(self) -> dict[str, float]:
        """The average over all metrics, by where it comes from: the requests', and with fixed shares that of copies
        and of the service's own metrics."""
        own = (OWN_METRICS_SHARE if self.by_requests else 1.0) if self.custom.deciding else 0.0
        copied = 0.0 if self.copies is None else self.copies_share * (1.0 - own)
        parts = {"requests": (1.0 - own - copied) * self.rows.evidence()}
        if own:
            parts["custom"] = own * self.custom.evidence
        if self.copies is not None:
            parts["copies"] = copied * self.copies.evidence
        return parts

    def hear(self, now: float, readings: Sequence[Reading] = (), split: Split | None = None) -> Verdict:
        """Take in what sources said of the service's own metrics, and say what is known at `now` (their clock)."""
        self._now = now
        for reading in readings:
            self.custom.take(reading, split or Split())
        if self.custom.deciding:
            self._weigh()
        return self._verdict()

    # -- what is known now --------------------------------------------------------------------------------------

    def begin_step(self) -> None:
        """A new weight was reached: `healthy` needs requests at this step. Evidence is kept."""
        self._step_requests = 0.0
        self.custom.begin_step()

    def _verdict(self) -> Verdict:
        n1, k1, n0, k0 = (int(min(x, 2**63)) for x in self.rows.book.totals[0])
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
            left=self.promotion_text(),
            worst=self.rows.worst(),
            own_metrics=self.custom.said(self._now),
            copies=(0, 0) if self.copies is None else self.copies.seen,
        )

    def _kind(self) -> tuple[Any, str]:
        if self._harmful is not None:
            return "harmful", self._harmful
        if self._fault is not None:
            return "undecided", self._fault
        if self.shared_fate.both_burn:
            return "undecided", self.shared_fate.reason()
        waiting = self._why_no_comparison() if self.by_requests else None
        if waiting is not None:
            return "undecided", waiting
        if self._braked:
            return "undecided", f"in doubt: {self._numbers()}"
        unheard = self.custom.unheard(self._now)
        if unheard is not None:
            return "undecided", unheard
        return "healthy", f"{self._numbers()}{self._bound_text()}"

    def _why_no_comparison(self) -> str | None:
        if not self._compared and not self._copied:
            return "nothing to compare: all traffic goes to one cohort"
        return self._why_waiting() if self._step_requests < max(self.settings.min_requests, 1) else None

    # -- sentences ----------------------------------------------------------------------------------------------

    def _numbers(self) -> str:
        n1, k1, n0, k0 = self.rows.book.totals[0]
        words = self.settings.words
        caveat = f" ({words.caveat})" if words.caveat else ""
        what = texts.compared(words.hit, (n1, k1), (n0, k0), words.unit) + self._shielded_text()
        if self.copies is not None and not n1:
            what = self.copies.compared()
        if not self.by_requests:
            what = self.custom.worst() or "no metric decides here"
        return f"{what}; evidence {texts.evidence(self.evidence)} of {texts.number(self.needed)} needed{caveat}"

    def _shielded_text(self) -> str:
        shielded = texts.number(self._shielded)
        return f", {shielded} of the candidate's answered well by another try" if self._shielded else ""

    def _why_waiting(self) -> str:
        unit, asked = (COPIED, "") if self._copied else (self.settings.words.unit, "candidate ")
        if not self._step_requests and not self.rows.book.totals[0, 0]:
            return f"no {unit} on the candidate yet: no data is no verdict"
        seen, wanted = self._step_requests, max(self.settings.min_requests, 1)
        needs = f"{unit.removesuffix('s') if wanted == 1 else unit} that this step needs"
        return f"{texts.number(seen)} of {wanted:,} {asked}{needs}; {self._numbers()}"

    def _why_fault(self, weight: float) -> str:
        n1, _, n0, _ = self.rows.book.totals[0]
        what = (
            "it may hang, or the route is not what was set; judging goes on with weaker bets, and the rollout holds"
            if self._too_few
            else "judging is suspended and the rollout holds"
        )
        return (
            f"routing fault: the candidate answered {texts.part(n1, n1 + n0)} of the requests, not the share it was "
            f"meant to get (now {texts.percent(weight)}); {what}"
        )

    def _why_harmful(self) -> str:
        worst = int(np.argmax(self.rows.book.evidence()))
        bound = f"false-alarm bound {texts.percent(1.0 / self.needed)}"
        text = self._numbers()
        parts = self._parts()
        if parts.get("copies", 0.0) > self.evidence / 2 and self.copies is not None:
            if self.rows.book.totals[0, 0]:
                text = f"{self.copies.compared()}; {text}"
            return f"{text}; {bound}"
        if parts.get("custom", 0.0) > self.evidence / 2:
            text = f"{self.custom.worst()}; {text}" if self.by_requests else text
            return f"{text}; {bound}, by a {self.custom.worst_test()}"
        if worst in (i for _, i in self.rows.limits):
            n1, k1, n0, k0 = self.rows.book.totals[worst]
            what = f"answer slower than stable's {self.rows.book.rows[worst].name.removeprefix('latency ')} limit"
            text = f"{texts.compared(what, (n1, k1), (n0, k0))}; {text}"
        for kind, what in OTHERS.items():
            if worst == self.rows.others.get(kind):
                n1, k1, n0, k0 = self.rows.book.totals[worst]
                return f"{texts.compared(what, (n1, k1), (n0, k0))}; {text}; {bound}"
        endpoint = self.rows.worst_endpoint()
        if endpoint is None:
            return f"{text}; {bound}"
        name, n, failures = endpoint
        return f"{text}; {bound}; worst endpoint {name} ({texts.number(failures)} of {texts.number(n)})"

    def _bound_text(self) -> str:
        bound = self.bound
        return "" if bound is None else f"; at most {texts.points(bound)} more failures than stable (95 %)"

    def promotion_text(self) -> str:
        """The sentence for a promotion: what harm is still possible, and what this traffic can show at all."""
        bound, compared = self.bound, self.rows.book.totals[0, 0] > 0
        if not compared and self.copies is not None and self.copies.seen[0]:
            return f"promoted after copies of users' requests alone were compared: {self.copies.compared()}"
        if not compared:
            return "promoted without a comparison: no request of the candidate was judged beside stable's"
        if bound is None:
            return "no bound on extra failures: too few requests were compared"
        return f"at most {texts.points(bound)} more failures than stable (95 %){self._unseen_text()}"

    def _unseen_text(self) -> str:
        """The smallest harm that an hour of this traffic can show. Source: JUDGE.md section 1, Ramp: 4.6 / n."""
        rate = self._rate()
        if rate <= 0:
            return ""
        traffic = f"at your traffic ({texts.number(rate)} requests/s)"
        smallest = NATS_TO_EXCLUDE / (rate * HALF_AN_HOUR_SECONDS)
        if smallest >= 1.0:
            return f"; {traffic} an hour is too short to see any harm"
        if smallest <= self.settings.error_extra:
            return f"; less than {texts.points(self.settings.error_extra)} is within the margin (judge.errors.extra)"
        return f"; {traffic} harm below {texts.points(smallest)} cannot be seen in an hour"

    def _rate(self) -> float:
        """Requests per second: as counted once it is known, else as told."""
        judged = float(self.rows.book.totals[0, 0] + self.rows.book.totals[0, 2])
        return judged / self.rows.book.clock if self.rows.book.clock >= RATE_KNOWN_SECONDS else self.rate_hint

    # -- memory -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that is remembered, as JSON. `restore` continues from it as if nothing had happened."""
        return {
            "rows": self.rows.state(),
            "routing": self.routing.log_wealth.tolist(),
            "extra_failures": self.extra_failures.log_wealth.tolist(),
            "shared_fate": self.shared_fate.state(),
            "rate_hint": self.rate_hint,
            "error_ratio": self.settings.error_ratio,
            "latency_growth": dict(self.settings.latency),
            "evidence": self.evidence,
            "bound": self.bound,
            "step_requests": self._step_requests,
            "warm_up": self._warm_up.state(),
            "compared": self._compared,
            "copied": self._copied,
            "braked": self._braked,
            "fault": self._fault,
            "too_few": self._too_few,
            "harmful": self._harmful,
            **({"custom": self.custom.state()} if self.custom.rules else {}),
            **({"copies": self.copies.state()} if self.copies is not None else {}),
            "shielded": self._shielded,
        }

    @classmethod
    def restore(
        cls,
        settings: JudgeSettings,
        state: Mapping[str, Any],
        *,
        custom: CustomMetrics | None = None,
        by_requests: bool = True,
        copies_share: float = 0.0,
    ) -> Judge:
        """The judge that wrote `state`, with the margins it judged by; `custom` goes on from it too."""
        margins = {"error_ratio": state["error_ratio"], "latency": dict(state["latency_growth"])}
        known = {"rate_hint": state["rate_hint"], "by_requests": by_requests, "copies_share": copies_share}
        judge = cls(replace(settings, **margins), custom=custom, **known)
        if judge.copies is not None:
            judge.copies = Copies.restore(judge.settings, state["copies"])
        judge.custom.restore(state.get("custom", {}))
        judge.rows = Rows.restore(judge.settings, state["rows"])
        judge.routing.log_wealth = np.array(state["routing"])
        judge.extra_failures.log_wealth = np.array(state["extra_failures"])
        judge.shared_fate = SharedFate.restore(state["shared_fate"])
        judge.evidence, judge.bound = state["evidence"], state["bound"]
        judge._step_requests = state["step_requests"]
        judge._warm_up = WarmUp.restore(state["warm_up"])
        judge._compared, judge._copied, judge._braked = state["compared"], state.get("copied", False), state["braked"]
        judge._shielded = state.get("shielded", 0)
        judge._fault, judge._too_few, judge._harmful = state["fault"], state["too_few"], state["harmful"]
        return judge


def judge_alone(settings: JudgeSettings, candidate: Arm) -> Verdict:
    """The verdict where there is no working stable to compare with: undecided, with the candidate's own counts."""
    counted = sane(candidate)
    n, errors = int(counted[0]), int(counted[1])
    reason = f"no stable to compare with; the candidate gave {texts.part(errors, n)} bad answers"
    return Verdict("undecided", 1.0, 1.0 / settings.false_rollbacks, reason, candidate=(n, errors))


def _dealt(arm: Arm) -> float:
    """Requests the balancer gave to a cohort: what its weight is checked by. What has finished says nothing of that
    while answers are slow: right after a shift only requests dealt by the former weights finish."""
    return max(float(arm.started), 0.0) if arm.started is not None else sane(arm)[0]
