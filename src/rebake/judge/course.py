"""The course of one rollout as the judge saw it, drawn from its tape. Pure.

What is told here was said at the time; nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rebake.judge import texts
from rebake.judge.tape import Entry

MOST_POINTS = 240
MOST_EVENTS = 40


@dataclass(frozen=True, slots=True)
class Point:
    """Where things stood `t` seconds after the judge's first tick.

    Attributes:
        weight: the candidate's share, 0 to 1.
        stable, candidate: (requests, failures) so far.
        evidence: against the candidate; `metrics`: each metric's own, those with the most.
    """

    t: float
    weight: float
    stable: tuple[int, int]
    candidate: tuple[int, int]
    evidence: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    brake: bool = False
    fault: bool = False

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {"total": n, "errors": k} for name, (n, k) in (("stable", self.stable), ("candidate", self.candidate))
        }
        return {**asdict(self), **sides}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `what` is `weight`, `brake`, `released`, `fault`, `harmful` or `state`."""

    t: float
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Course:
    points: Sequence[Point]
    events: Sequence[Event]


def course_of(entries: Iterable[Entry], *, needed: float) -> Course:
    """The course that a tape tells. Few points: a stretch is shown by the one with the most evidence in it.

    Args:
        needed: the evidence that takes the candidate back.
    """
    walk = _Walk(needed)
    for entry in entries:
        if entry[0] == "tick":
            walk.tick(entry[1])
        elif entry[0] == "said":
            walk.said(entry[1])
    return Course(thinned(walk.points, MOST_POINTS), walk.events)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: of each stretch the one with the largest evidence; the first and the last always."""
    if len(points) <= most:
        return list(points)
    inner, count = points[1:-1], most - 2
    stretches = (inner[i * len(inner) // count : (i + 1) * len(inner) // count] for i in range(count))
    return [points[0], *(max(stretch, key=lambda p: p.evidence) for stretch in stretches), points[-1]]


class _Walk:
    """Goes through a tape once."""

    def __init__(self, needed: float) -> None:
        self.needed = needed
        self.points: list[Point] = []
        self.events: list[Event] = []
        self._weight = 0.0
        self._totals = {"stable": (0, 0), "candidate": (0, 0)}
        self._last: Mapping[str, Any] = {}

    def tick(self, doc: Mapping[str, Any]) -> None:
        for name in self._totals:
            arm, (n, k) = doc.get(name, {}), self._totals[name]
            self._totals[name] = (n + arm.get("n", 0), k + arm.get("errors", 0))
        if doc["weight"] != self._weight:
            text = f"the candidate gets {texts.percent(doc['weight'])} of the requests"
            self.events.append(Event(doc["t"], "weight", text))
        self._weight = doc["weight"]

    def said(self, doc: Mapping[str, Any]) -> None:
        for event in self._changed(doc):
            self.events.append(event)
        self._last = doc
        point = Point(
            doc["t"],
            self._weight,
            self._totals["stable"],
            self._totals["candidate"],
            doc["evidence"],
            doc.get("own", {}),
            bool(doc.get("brake")),
            "fault" in doc,
        )
        if self.points and self.points[-1].t == point.t:
            self.points.pop()
        self.points.append(point)

    def _changed(self, doc: Mapping[str, Any]) -> Iterable[Event]:
        before, t = self._last, doc["t"]
        evidence = f"evidence {texts.evidence(doc['evidence'])} of {texts.number(self.needed)} needed"
        if doc["kind"] == "harmful" and before.get("kind") != "harmful":
            yield Event(t, "harmful", f"harmful: {evidence}")
        elif "fault" in doc and "fault" not in before:
            yield Event(t, "fault", str(doc["fault"]))
        elif doc.get("brake") and not before.get("brake"):
            yield Event(t, "brake", f"the brake holds the weight: {evidence}")
        elif before.get("brake") and not doc.get("brake"):
            yield Event(t, "released", f"the brake is released: {evidence}")


def few_events(events: Sequence[Event], most: int = MOST_EVENTS) -> list[Event]:
    """Few enough to be read: of weights that follow each other only the last of each run is told, then the first ones
    and the last ones."""
    runs: list[Event] = []
    for event in sorted(events, key=lambda e: e.t):
        if event.what == "weight" and runs and runs[-1].what == "weight":
            runs.pop()
        runs.append(event)
    if len(runs) <= most:
        return runs
    left = Event(runs[most // 2].t, "state", f"{len(runs) - most + 1} more events are left out here")
    return [*runs[: most // 2], left, *runs[-(most // 2 - 1) :]]


def explanation(
    view: Mapping[str, Any], tape: Mapping[str, Any] | None, course: Course, moves: Sequence[tuple[float, str]]
) -> dict[str, Any]:
    """The document of docs/api.md: what happened to one rollout, as the judge saw it.

    Args:
        view: the rollout view. tape: its tape's header; None where none is kept, then only the view's own short course.
        moves: the rollout's transitions, as (seconds since the epoch, sentence).
    """
    verdict = view.get("verdict")
    needed = float(verdict["needed"]) if verdict else 100.0
    points, events = list(course.points), list(course.events)
    if tape is None:
        points = [Point(t, 0.0, (0, 0), (0, 0), e) for t, e in view.get("evidence") or []]
    else:
        events += [Event(at - tape["zero_at"], "state", text) for at, text in moves]
    return {
        **{name: view.get(name) for name in _TOLD},
        "needed": needed,
        "tape": None if tape is None else "full" if tape.get("full") else "whole",
        "course": [point.to_json() for point in points],
        "events": [asdict(event) for event in few_events(events)],
    }


_TOLD = (
    "rollout", "service", "environment", "release", "revision", "kind", "strategy", "state", "outcome", "reason",
    "verdict", "requests", "started", "ended",
)  # fmt: skip
