"""What the judge reads (samples) and what it says (verdicts). Pure values.

A tick covers `dt` seconds in which the candidate's share of the requests was exactly `weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

LATENCY_BUCKETS = 226
"""Buckets of an arm's latency counts: bucket i ends at 1.05**i milliseconds, i = 0 ... 225."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One cohort's requests that finished within a tick.

    Attributes:
        n: requests.
        errors: requests that failed, 0 <= errors <= n.
        endpoints: by templated endpoint, (requests, failures); empty when unknown.
        latency: counts of successful requests by bucket (see LATENCY_BUCKETS); empty when unknown.
        instances: of a history, the same by instance, for what stable's own instances differ by; empty when unknown.
        started: requests dealt to the cohort within the tick, finished or not; None: taken to be `n`.
        shielded: those of `errors` whose callers got a good answer all the same, from a second try elsewhere.
        refused: those of `n` that were refused: answers with 4xx. No failures, unless the other cohort has fewer.
        redirected: those of `n` that sent the caller elsewhere: answers with 3xx, but for "not modified" (304).
        unfinished: requests whose answer began and had no end within the limit, or whose callers left in its middle;
            none of `n`, unless they ended after that.
        unanswered: requests that had no answer within a limit or whose callers left before any; none of `n`.
    """

    n: int = 0
    errors: int = 0
    endpoints: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    latency: Sequence[int] = ()
    instances: Mapping[str, Arm] = field(default_factory=dict)
    started: int | None = None
    shielded: int = 0
    refused: int = 0
    unanswered: int = 0
    redirected: int = 0
    unfinished: int = 0


Joint = tuple[int, int, int]
"""How many pairs had an event on both sides, on the copy alone, on the original alone."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Users' requests that stable was given and of which the candidate was given a copy. Nobody saw its answer.

    Attributes:
        n: pairs of which it is known what became of both.
        failed, refused, unanswered, redirected, unfinished: of those; as for an `Arm`, and each pair's first word
            counts.
        endpoints: by templated endpoint, (pairs, and how many failed on both, on the copy, on the original alone).
        instances: of the candidate, that copies reached.
    """

    n: int = 0
    failed: Joint = (0, 0, 0)
    refused: Joint = (0, 0, 0)
    unanswered: Joint = (0, 0, 0)
    redirected: Joint = (0, 0, 0)
    unfinished: Joint = (0, 0, 0)
    endpoints: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """One look. `t` is seconds since the rollout's first user request; `weight` is 0 to 1. `pairs`: copies of users'
    requests that the candidate was given besides; none of `candidate`."""

    t: float
    dt: float
    weight: float
    stable: Arm = Arm()
    candidate: Arm = Arm()
    pairs: Pairs | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """How sentences call what is judged.

    Attributes:
        unit: a trial, in the plural.
        hit: an event.
        not_yet: said before the first trial at a step's weight.
        caveat: what a verdict must add about its bound; empty when there is nothing.
        taken_besides: what tests of the service's own metrics take for granted as well; empty when there is nothing.
    """

    unit: str
    hit: str
    not_yet: str
    caveat: str = ""
    taken_besides: str = ""


REQUESTS = Words("requests", "bad answer", "no request was dealt by the present weights yet")
WORK = Words(
    "instance-seconds",
    "failure",
    "no instance-second was counted at the present size yet",
    "shares of the work are those that live instances really had, so the bound is weaker than with a route",
    "instances of both fleets fetch like work, and as much of it",
)

BY_INSTANCES = Words(
    REQUESTS.unit,
    REQUESTS.hit,
    REQUESTS.not_yet,
    "shares of the requests are those that the instances really had, so the bound is weaker than with a gateway",
    "callers of both fleets are alike",
)
RUNS = Words("runs", "failed run", "no run was drawn at the present share yet")


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What `judge:` in the user's file says. Shares as fractions.

    Attributes:
        false_rollbacks: bound on the probability that a release no worse than the margins is ever taken back.
        error_ratio, error_extra: a candidate is worse when its error rate is above ratio x stable's + extra.
        refusal_ratio, refusal_extra: the same for the share of its answers that refuse (4xx), and for those that
            redirect (3xx).
        latency: allowed growth by quantile: {"p50": .07, "p90": .1, "p99": .2}.
        min_requests: candidate requests that a step needs before it can be called healthy.
        words: how sentences call what is judged.
    """

    false_rollbacks: float = 0.01
    error_ratio: float = 1.1
    error_extra: float = 0.001
    refusal_ratio: float = 1.5
    refusal_extra: float = 0.02
    latency: Mapping[str, float] = field(default_factory=lambda: {"p50": 0.07, "p90": 0.10, "p99": 0.20})
    min_requests: int = 20
    words: Words = REQUESTS


@dataclass(frozen=True, slots=True)
class MetricSaid:
    """What is known of one metric of the service's own, for people.

    Attributes:
        state: `compared`; `missing`: there is no data; `suspended`: not compared at the present weights.
        observe: it is shown and never decides.
        evidence: its own e-value against the candidate.
        text: both cohorts' figures, or why there are none.
        test: by which test, and what that takes for granted.
        problem, remedy: why it is suspended, or what to try where it is missing.
    """

    name: str
    state: Literal["compared", "missing", "suspended"]
    observe: bool
    evidence: float
    text: str
    test: str
    problem: str | None = None
    remedy: str | None = None


VerdictKind = Literal["healthy", "harmful", "undecided"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says now, with its numbers.

    Attributes:
        evidence: the averaged e-value against the candidate; `needed` (1/false_rollbacks) takes it back.
        brake: do not give the candidate more traffic now.
        reason: one sentence with the numbers, for people.
        fault: the routing does not send the share it was told to; judging is suspended and the rollout holds.
        stable, candidate: totals (requests, errors) judged so far.
        bound: upper confidence bound (95 %, at any time) on the candidate's extra failures, as a fraction; or None.
        left: one sentence on what harm a promotion now would leave possible.
        worst: by metric, its evidence; for the live view.
        own_metrics: what the metrics of the service's own say; empty where it has none.
        copies: copies of users' requests that the candidate was given, and those of them that failed; no users'.
    """

    kind: VerdictKind
    evidence: float
    needed: float
    reason: str
    brake: bool = False
    fault: str | None = None
    stable: tuple[int, int] = (0, 0)
    candidate: tuple[int, int] = (0, 0)
    bound: float | None = None
    left: str = ""
    worst: Mapping[str, float] = field(default_factory=dict)
    own_metrics: tuple[MetricSaid, ...] = ()
    copies: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.kind,
            "evidence": self.evidence,
            "needed": self.needed,
            "reason": self.reason,
            "brake": self.brake,
            "fault": self.fault,
            "stable": {"total": self.stable[0], "errors": self.stable[1]},
            "candidate": {"total": self.candidate[0], "errors": self.candidate[1]},
            "copies": {"total": self.copies[0], "errors": self.copies[1]},
            "bound": self.bound,
            "left": self.left,
            "metrics": dict(self.worst),
            "own_metrics": [asdict(said) for said in self.own_metrics],
        }
