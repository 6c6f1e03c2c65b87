"""One metric of the service's own: what a reading of it is worth, and what is told of it. Pure.

The rules:
- a counter that started again, or an instance that came or went, is left out of that interval;
- a number that grows with the traffic of an instance is compared only where the candidate has no advantage to be
  blamed for: see `MetricRule.loaded`. Where it is not compared, it is not missing either;
- no data is neither a pass nor a harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rebake.core.units import FULL, format_duration
from rebake.judge import texts
from rebake.judge.eprocess import SMALLEST_SHARE
from rebake.judge.metric_readings import Pair, Reading, Side, grown, quotients, sane_numbers
from rebake.judge.metric_rules import CommandAsk, MetricRule
from rebake.judge.metric_tests import ALONE_SPANS, NumberTest, ShareTest
from rebake.judge.samples import MetricSaid

WARM_UP_SECONDS = 90.0
"""Numbers of a candidate that has just begun are not judged, as its latency is not."""
PATIENCE_INTERVALS = 3.0
"""Without data for so many intervals, a metric is missing."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the route splits the traffic at the time of a reading.

    Attributes:
        weight: the candidate's share; None where no route deals to the fleets.
        candidates, stables: instances of each cohort.
        requests: users' requests of (stable, candidate) counted so far; None where nobody counts.
        steady: what the weights are called: readings with the same name were made under the same ones.
    """

    weight: float | None = None
    candidates: int = 1
    stables: int = 1
    requests: Pair | None = None
    steady: str = ""

    @property
    def both(self) -> bool:
        return self.weight is None or SMALLEST_SHARE <= self.weight <= 1.0 - SMALLEST_SHARE


class Metric:
    """One metric: its test, its last reading, and what is told of it.

    Args:
        besides: what its test takes for granted as well; empty when there is nothing.
    """

    def __init__(self, rule: MetricRule, besides: str = "") -> None:
        self.rule = rule
        self._besides = besides
        self.test: ShareTest | NumberTest = _test_of(rule)
        self.last: tuple[Reading, Split] | None = None
        self.began: float | None = None
        self.heard, self.heard_at = False, -1e18
        self.failed: Reading | None = None
        self.suspended: str | None = None
        self.totals = (0.0, 0.0, 0.0, 0.0)
        self.numbers: Pair | None = None
        self.alone = False

    # -- one reading --------------------------------------------------------------------------------------------

    def take(self, reading: Reading, split: Split) -> None:
        before, self.last = self.last, (reading, split)
        self.suspended = self._why_suspended(split)
        self.failed = reading if reading.problem is not None else None
        if self.failed is not None:
            self.last = before  # the next one that succeeds is compared with the last one that did
            return
        if self.began is None and not reading.candidate.empty:
            self.began = reading.at
        heard = self._count(before, reading, split) if self.rule.form == "share" else self._measure(before, reading)
        if heard:
            self.heard, self.heard_at = True, reading.at

    def _since(self, at: float) -> float:
        return at - (at if self.began is None else self.began)

    def _count(self, before: tuple[Reading, Split] | None, reading: Reading, split: Split) -> bool:
        """A share: what both cohorts grew by since the last reading."""
        assert isinstance(self.test, ShareTest)
        pairs, weight = self._pairs(before, reading, split)
        if pairs is None:
            return False
        candidate, stable = (self._bad(pair) for pair in pairs)
        dt = 0.0 if before is None else reading.at - before[0].at
        if not self.test.update(self._since(reading.at), dt, candidate, stable, weight):
            return False
        k1, n1, k0, n0 = self.totals
        self.totals = (k1 + candidate[0], n1 + candidate[1], k0 + stable[0], n0 + stable[1])
        return True

    def _bad(self, pair: Pair) -> Pair:
        """Hits that count against a cohort: where lower is worse, those that are lacking."""
        hits, total = pair
        return pair if self.rule.worse == "higher" else (max(total - hits, 0.0), total)

    def _pairs(
        self, before: tuple[Reading, Split] | None, reading: Reading, split: Split
    ) -> tuple[tuple[Pair, Pair] | None, float | None]:
        """(hits, total) of candidate and stable in this interval, and the weight its requests were dealt by."""
        if isinstance(self.rule.ask, CommandAsk):
            return (_flipped(reading.candidate.trials), _flipped(reading.stable.trials)), None
        if before is None:
            return None, None
        last, last_split = before
        ours = grown(last.candidate.counters, reading.candidate.counters)
        theirs = grown(last.stable.counters, reading.stable.counters)
        if not self.rule.by_requests:
            return (ours.pair, theirs.pair), None
        dealt = _difference(last_split, split)
        if dealt is None or ours.restarted or theirs.restarted:
            return None, None  # hits of requests that another weight dealt, or hits that nobody saw
        return ((ours.pair[0], dealt[1]), (theirs.pair[0], dealt[0])), split.weight

    def _measure(self, before: tuple[Reading, Split] | None, reading: Reading) -> bool:
        """A number: compare unit with unit, unless the candidate is still warming up or has more to carry."""
        assert isinstance(self.test, NumberTest)
        last = Reading("", 0.0) if before is None else before[0]
        ours, theirs = _numbers(last.candidate, reading.candidate), _numbers(last.stable, reading.stable)
        if ours and theirs:
            self.numbers, self.alone = (_mean(ours), _mean(theirs)), len(theirs) < 2
        warm = self._since(reading.at) >= WARM_UP_SECONDS
        if warm and self.suspended is None:
            self.test.update(self._since(reading.at), ours, theirs)
        return bool(ours and theirs)

    def _why_suspended(self, split: Split) -> str | None:
        """Why numbers are not compared at this split, though both cohorts may be heard."""
        rule = self.rule
        if rule.form == "share" or split.weight is None:
            return None
        if not split.both and not isinstance(rule.ask, CommandAsk):
            return "one of the cohorts has no users"
        ours, theirs = split.weight / max(split.candidates, 1), (1.0 - split.weight) / max(split.stables, 1)
        heavier = ours > theirs * 1.001 if rule.worse == "higher" else ours * 1.001 < theirs
        if rule.loaded and heavier:
            word = "more" if rule.worse == "higher" else "less"
            return f"an instance of the candidate has {word} traffic than one of stable, and the number goes with it"
        return None

    # -- what is known ------------------------------------------------------------------------------------------

    def missing(self, now: float) -> bool:
        """No data at this step, or none for a while, and nothing that explains it."""
        if self.suspended is not None:
            return False
        patience = PATIENCE_INTERVALS * self.rule.interval_ms / 1000 + self.rule.ask.timeout_ms / 1000
        return not self.heard or now - self.heard_at > patience

    def why_missing(self) -> str:
        name = self.rule.name
        if self.failed is not None:
            return f"metric {name}: {self.failed.problem}"
        if self.last is None:
            return f"metric {name}: not read yet"
        reading = self.last[0]
        empty = [n for n, side in (("the candidate", reading.candidate), ("stable", reading.stable)) if side.empty]
        if empty:
            return f"metric {name}: no data of {' and '.join(empty)}"
        return f"metric {name}: nothing was counted on both cohorts at these weights yet"

    def sentence(self) -> str:
        """What both cohorts show, with the evidence and by which test."""
        return f"metric {self.rule.name}: {self._figures()}; evidence {texts.number(self.test.wealth.evidence)}"

    def _figures(self) -> str:
        if isinstance(self.test, ShareTest):
            k1, n1, k0, n0 = self.totals
            what = "bad" if self.rule.worse == "higher" else "lacking"
            return texts.compared(what, (n1, k1), (n0, k0))
        if self.numbers is None:
            return "no number of both cohorts yet"
        ours, theirs = self.numbers
        return f"{_figure(ours)} on the candidate against {_figure(theirs)} on stable ({self._margin()})"

    def _margin(self) -> str:
        assert isinstance(self.test, NumberTest)
        allowed = max(self.test.percent, self.test.widened)
        text = f"{self.rule.worse} is worse, margin {texts.percent(allowed)}"
        text += f" and {_figure(self.rule.absolute_milli / 1000)}" if self.rule.absolute_milli else ""
        if self.test.widened <= self.test.percent:
            return text
        return f"{text}, raised from {texts.percent(self.test.percent)} by what stable's instances differ by"

    def said(self, now: float) -> MetricSaid:
        missing = self.missing(now)
        state: Literal["compared", "missing", "suspended"]
        state = "missing" if missing else "suspended" if self.suspended else "compared"
        return MetricSaid(
            name=self.rule.name,
            state=state,
            observe=self.rule.observe,
            evidence=self.test.wealth.evidence,
            text=self.why_missing() if missing else self._figures(),
            test=self.assumption(),
            problem=self.suspended if state == "suspended" else None,
            remedy=self.failed.remedy if missing and self.failed is not None else None,
        )

    def assumption(self) -> str:
        """By which test, and what it takes for granted."""
        return self._test_said() + (f", and that {self._besides}" if self._besides else "")

    def _test_said(self) -> str:
        rule, every = self.rule, format_duration(self.rule.interval_ms)
        if rule.by_requests:
            return "test by the weights that dealt the requests; takes it that one request counts once at most"
        if isinstance(rule.ask, CommandAsk) and rule.form == "share":
            return f"weaker test: one run for each cohort every {every}; takes it that runs of alike cohorts fail alike"
        if rule.form == "share":
            return (
                "weaker test: how the events fell to the cohorts is taken as it happened, not drawn by rebake; takes "
                f"it that events within {every} are independent"
            )
        span = format_duration(rule.span_ms * (ALONE_SPANS if self.alone else 1))
        what = "one number of stable" if self.alone else "instance against instance"
        return (
            f"weaker test: {what}, once every {span}; takes it that without harm either is the worse one as often, "
            f"whatever the {span} before showed"
        )

    # -- memory -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "test": self.test.state(),
            "last": None if self.last is None else _dumped(*self.last),
            "began": self.began,
            "heard": [self.heard, self.heard_at],
            "suspended": self.suspended,
            "totals": list(self.totals),
            "numbers": None if self.numbers is None else list(self.numbers),
            "alone": self.alone,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.test.restore(state["test"])
        self.last = None if state["last"] is None else _loaded(self.rule.name, state["last"])
        self.began, (self.heard, self.heard_at) = state["began"], state["heard"]
        self.suspended = state["suspended"]
        k1, n1, k0, n0 = (float(x) for x in state["totals"])
        self.totals = (k1, n1, k0, n0)
        numbers, self.alone = state["numbers"], bool(state["alone"])
        self.numbers = None if numbers is None else (float(numbers[0]), float(numbers[1]))


def _test_of(rule: MetricRule) -> ShareTest | NumberTest:
    if rule.form == "share":
        return ShareTest(rule.ratio_milli / 1000, rule.extra_bp / FULL)
    percent, absolute = rule.percent_bp / FULL, rule.absolute_milli / 1000
    return NumberTest(percent, absolute, rule.worse == "higher", rule.span_ms / 1000)


def _flipped(trials: Pair) -> Pair:
    runs, failures = trials
    return failures, runs


def _difference(before: Split, after: Split) -> Pair | None:
    """Requests of (stable, candidate) dealt in between; None where more than one setting of the weights dealt them."""
    if before.requests is None or after.requests is None or before.steady != after.steady or not after.both:
        return None
    stable, candidate = (max(b - a, 0.0) for a, b in zip(before.requests, after.requests, strict=True))
    return stable, candidate


def _numbers(before: Side, now: Side) -> dict[str, float]:
    """A cohort's numbers by unit: as they were said, or the growth of one counter for each one of another."""
    if now.counters:
        return sane_numbers(quotients(grown(before.counters, now.counters)))
    return sane_numbers(now.numbers)


def _mean(numbers: Mapping[str, float]) -> float:
    return sum(numbers.values()) / len(numbers)


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _dumped(reading: Reading, split: Split) -> dict[str, Any]:
    """What the next reading is compared with. Numbers are not: they stand alone."""
    sides = {
        name: {unit: list(pair) for unit, pair in side.counters.items()}
        for name, side in (("stable", reading.stable), ("candidate", reading.candidate))
    }
    requests = None if split.requests is None else list(split.requests)
    return {"at": reading.at, **sides, "requests": requests, "steady": split.steady}


def _loaded(name: str, doc: Mapping[str, Any]) -> tuple[Reading, Split]:
    def side(which: str) -> Side:
        return Side(counters={unit: (float(p[0]), float(p[1])) for unit, p in doc[which].items()})

    requests = None if doc["requests"] is None else (float(doc["requests"][0]), float(doc["requests"][1]))
    reading = Reading(name, float(doc["at"]), side("stable"), side("candidate"))
    return reading, replace(Split(), requests=requests, steady=str(doc["steady"]))
