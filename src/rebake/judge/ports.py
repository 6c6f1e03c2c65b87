"""The port to metrics of the service's own. Adapters live in `sources`; nothing here or there knows of a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rebake.judge.metric_readings import CohortName, Side
from rebake.judge.metric_rules import MetricRule


@dataclass(frozen=True, slots=True)
class Cohort:
    """One cohort as a source may ask for it. Instances: address by id, those that are healthy."""

    fleet: str
    revision: str
    release: str
    instances: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """One metric of the cohorts that there are now."""

    service: str
    environment: str
    rule: MetricRule
    cohorts: Mapping[CohortName, Cohort]


class MetricSource(Protocol):
    """Reads one kind of metric. Safe from several threads; blocks for the rule's timeout at most, and a little."""

    def read(self, question: Question) -> Mapping[CohortName, Side]:
        """What the source says of each cohort now. A cohort of which it says nothing has an empty side.

        Raises: Transient `metric-not-answered` when a later try may succeed; Permanent `metric-refused` when somebody
            must change the question, the source or the program.
        """
        ...
