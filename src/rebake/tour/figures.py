"""What a load client counted: the tally while it runs, and the report made of it. No I/O."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

BUCKET_SECONDS = 0.1
"""Width of one bucket of the timeline."""

SAMPLES = 20
"""Lost requests that are told one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One request without a whole answer. `at`: seconds since the epoch."""

    at: float
    request: str
    reason: str


@dataclass(slots=True)
class Bucket:
    """What ended within one BUCKET_SECONDS: answers below 400, answers from 400 on, requests lost."""

    ok: int = 0
    errors: int = 0
    lost: int = 0


@dataclass(slots=True)
class Tag:
    """Answers with one value of the tag header, and when the first and the last of them came (epoch seconds)."""

    answered: int = 0
    errors: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a load. At its end `sent == answered + lost`; while it runs, `in_flight` is between.

    Attributes:
        started: seconds since the epoch.
        seconds: how long requests were sent.
        statuses: answers by class, `2xx` to `5xx`.
        reasons: lost requests by reason.
        losses: the first lost requests, one by one.
        latency_ms: p50, p90, p99, max and mean of the answers, from the time a request was due; empty without answers.
        stalled_ms: how late the client itself was at worst; latencies below it say nothing of the service.
        timeline: by BUCKET_SECONDS since `started`.
        tags: by value of the tag header.
    """

    started: float
    seconds: float
    sent: int
    answered: int
    lost: int
    in_flight: int
    statuses: dict[str, int]
    reasons: dict[str, int]
    losses: tuple[Loss, ...]
    latency_ms: dict[str, float]
    stalled_ms: float
    timeline: tuple[Bucket, ...]
    tags: dict[str, Tag] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Answers with 5xx: what the judge calls an error."""
        return self.statuses.get("5xx", 0)

    def to_json(self) -> dict[str, Any]:
        """One JSON object; the timeline as rows of [ok, errors, lost]."""
        rows = [[b.ok, b.errors, b.lost] for b in self.timeline]
        return asdict(self) | {"errors": self.errors, "timeline": rows, "bucket_seconds": BUCKET_SECONDS}

    def sentence(self) -> str:
        """The figures in one line for people."""
        latency = self.latency_ms
        times = f", p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms" if latency else ""
        reasons = "".join(f" ({count} {reason})" for reason, count in self.reasons.items())
        return f"{self.sent} sent, {self.answered} answered, {self.errors} failed, {self.lost} lost{reasons}{times}"


class Tally:
    """Counts what ends. All times in seconds of the caller's one clock; `epoch` turns them into epoch seconds."""

    def __init__(self, started: float, epoch: float) -> None:
        self.sent = 0
        self.answered = 0
        self.lost = 0
        self.stalled = 0.0
        self._started = started
        self._epoch = epoch
        self._statuses: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        self._losses: list[Loss] = []
        self._latencies = array("d")
        self._timeline: list[Bucket] = []
        self._tags: dict[str, Tag] = {}

    @property
    def in_flight(self) -> int:
        """Requests that were due and have not ended."""
        return self.sent - self.answered - self.lost

    def answer(self, now: float, due: float, status: int, tag: str) -> None:
        """An answer came whole."""
        self.answered += 1
        self._latencies.append(now - due)
        kind = f"{status // 100}xx"
        self._statuses[kind] = self._statuses.get(kind, 0) + 1
        bucket = self._bucket(now)
        if status < 400:
            bucket.ok += 1
        else:
            bucket.errors += 1
        if tag:
            self._tag(tag, now, status)

    def loss(self, now: float, request: str, reason: str) -> None:
        """A request got no whole answer."""
        self.lost += 1
        self._reasons[reason] = self._reasons.get(reason, 0) + 1
        self._bucket(now).lost += 1
        if len(self._losses) < SAMPLES:
            self._losses.append(Loss(self._epoch + now, request, reason))

    def report(self, now: float) -> Report:
        """The figures so far. `now`: the present, or when sending ended."""
        return Report(
            started=self._epoch + self._started,
            seconds=now - self._started,
            sent=self.sent,
            answered=self.answered,
            lost=self.lost,
            in_flight=self.in_flight,
            statuses=dict(sorted(self._statuses.items())),
            reasons=dict(self._reasons),
            losses=tuple(self._losses),
            latency_ms=quantiles_ms(self._latencies),
            stalled_ms=self.stalled * 1000,
            timeline=tuple(Bucket(b.ok, b.errors, b.lost) for b in self._timeline),
            tags={name: Tag(t.answered, t.errors, t.first_at, t.last_at) for name, t in self._tags.items()},
        )

    def _bucket(self, now: float) -> Bucket:
        index = max(0, int((now - self._started) / BUCKET_SECONDS))
        while len(self._timeline) <= index:
            self._timeline.append(Bucket())
        return self._timeline[index]

    def _tag(self, name: str, now: float, status: int) -> None:
        tag = self._tags.get(name)
        if tag is None:
            tag = self._tags[name] = Tag(first_at=self._epoch + now)
        tag.answered += 1
        tag.errors += status >= 500
        tag.last_at = self._epoch + now


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Nearest-rank quantiles in milliseconds; empty for no values.

    >>> quantiles_ms([0.001, 0.002, 0.003])["p50"]
    2.0
    """
    if not seconds:
        return {}
    ordered = sorted(seconds)
    count = len(ordered)

    def rank(percent: int) -> float:
        return ordered[max(0, -(-count * percent // 100) - 1)] * 1000

    mean = sum(ordered) / count * 1000
    return {"p50": rank(50), "p90": rank(90), "p99": rank(99), "max": ordered[-1] * 1000, "mean": mean}
