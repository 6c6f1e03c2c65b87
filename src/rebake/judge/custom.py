"""Metrics of the service's own, judged beside its requests: readings in, one evidence and some sentences out. Pure.

It decides how their evidence is put together, and what it means that there is none. It leaves to others how readings
are made (`judge.sources`), what one is worth (`custom_metric`), and how all this is weighed against the evidence of
the requests (`judge.judge`).

The rules:
- deciding metrics share the wealth evenly, fixed when the rollout begins; observe-only ones have none;
- no data is neither a pass nor a harm: with `missing: undecided` it is a sentence that keeps the verdict undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebake.judge.custom_metric import Metric, Split
from rebake.judge.metric_readings import Reading
from rebake.judge.metric_rules import MetricRule
from rebake.judge.samples import MetricSaid

__all__ = ["CustomMetrics", "Split"]


class CustomMetrics:
    """The metrics of one rollout.

    Args:
        rules: in the order of the file.
        hint: the command that shows what every source says now.
        besides: what every test takes for granted as well, where no route deals the work; empty when there is nothing.
    """

    def __init__(self, rules: Sequence[MetricRule], hint: str = "rebake judge metrics ENV", besides: str = "") -> None:
        self.rules = tuple(rules)
        self._metrics = {rule.name: Metric(rule, besides) for rule in rules}
        self._hint = hint

    @property
    def deciding(self) -> bool:
        return any(not m.rule.observe for m in self._metrics.values())

    @property
    def evidence(self) -> float:
        """The averaged e-value of the metrics that decide; 1 where there is none."""
        found = [m.test.wealth.evidence for m in self._metrics.values() if not m.rule.observe]
        return sum(found) / len(found) if found else 1.0

    def take(self, reading: Reading, split: Split) -> None:
        """Take in one reading, of a metric that may be unknown."""
        metric = self._metrics.get(reading.metric)
        if metric is not None:
            metric.take(reading, split)

    def begin_step(self) -> None:
        """A new weight was reached: each metric must be heard at it."""
        for metric in self._metrics.values():
            metric.heard = False

    def unheard(self, now: float) -> str | None:
        """Why the verdict cannot be better than undecided: the first deciding metric without data; None if none."""
        for metric in self._metrics.values():
            rule = metric.rule
            if not rule.observe and rule.missing == "undecided" and metric.missing(now):
                return f"{metric.why_missing()} (to see what it says: {self._hint})"
        return None

    def worst(self) -> str | None:
        """The sentence about the deciding metric with the most evidence."""
        metric = self._worst()
        return None if metric is None else metric.sentence()

    def worst_test(self) -> str:
        """By which test that one was judged."""
        metric = self._worst()
        return "" if metric is None else metric.assumption()

    def _worst(self) -> Metric | None:
        found = [m for m in self._metrics.values() if not m.rule.observe]
        return max(found, key=lambda m: m.test.wealth.evidence) if found else None

    def said(self, now: float) -> tuple[MetricSaid, ...]:
        return tuple(m.said(now) for m in self._metrics.values())

    def state(self) -> dict[str, Any]:
        return {name: metric.state() for name, metric in self._metrics.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` said; a metric it does not know begins anew."""
        for name, metric in self._metrics.items():
            if name in state:
                metric.restore(state[name])
