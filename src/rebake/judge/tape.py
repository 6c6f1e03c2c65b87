"""The judge's tape: what it began with, everything it was fed, and now and then what it said. Pure.

A judge is a function of its beginning and of what it is fed, in order. Both are kept, so that the same judge, or one
with other margins, can be run again over a rollout of the past and says the very same, to the last digit.

An entry is a list whose first item says what it is:

- `["tick", {...}]`: `Judge.update` was given this tick;
- `["step"]`: `Judge.begin_step` was called;
- `["heard", {...}]`: `Judge.hear` was given readings of the service's own metrics;
- `["said", {...}]`: the verdict so far: at least where the engine saved it, and where it changed.

Fields that have their default are left out, and a missing one means the default: what is added to a tick or an arm
later, with a default, is kept and read without a change here.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from rebake.core.codec import dump, load
from rebake.judge.custom import CustomMetrics, Split
from rebake.judge.judge import Judge
from rebake.judge.metric_readings import Reading
from rebake.judge.metric_rules import MetricRule
from rebake.judge.samples import LATENCY_BUCKETS, Arm, JudgeSettings, Pairs, Tick, Verdict

Entry = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a judge is made of: the arguments of `Judge`."""

    settings: JudgeSettings = field(default_factory=JudgeSettings)
    rate_hint: float = 0.0
    history: Arm | None = None
    kinds: tuple[str, ...] | None = None
    candidate_instances: int = 0
    metrics: tuple[MetricRule, ...] = ()
    hint: str = ""
    copies_share: float = 0.0

    def judge(self) -> Judge:
        return Judge(
            self.settings,
            rate_hint=self.rate_hint,
            history=self.history,
            kinds=self.kinds,
            candidate_instances=self.candidate_instances,
            custom=CustomMetrics(self.metrics, self.hint, self.settings.words.taken_besides),
            copies_share=self.copies_share,
        )

    def to_json(self) -> dict[str, Any]:
        return {**dump(self), "history": None if self.history is None else arm_to_json(self.history)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Beginning:
        """Raises: ValueError (pydantic's) when the document does not fit."""
        history = doc.get("history")
        known = load(cls, {**doc, "history": None})
        arm = None if history is None else arm_from_json(history)
        return replace(known, history=arm)


# Entries


def tick_entry(tick: Tick) -> Entry:
    doc = _brief(tick, ("stable", "candidate", "pairs"))
    for name, arm in (("stable", tick.stable), ("candidate", tick.candidate)):
        if brief := arm_to_json(arm):
            doc[name] = brief
    if tick.pairs is not None:
        doc["pairs"] = _brief(tick.pairs, ())
    return ["tick", doc]


def tick_of(doc: Mapping[str, Any]) -> Tick:
    arms = {name: arm_from_json(doc.get(name, {})) for name in ("stable", "candidate")}
    pairs = None if doc.get("pairs") is None else pairs_from_json(doc["pairs"])
    return Tick(**{**doc, **arms, "pairs": pairs})


_LISTS = ("failed", "refused", "unanswered", "redirected", "unfinished", "instances")


def pairs_from_json(doc: Mapping[str, Any]) -> Pairs:
    endpoints = {name: (n, both, ours, theirs) for name, (n, both, ours, theirs) in doc.get("endpoints", {}).items()}
    joint = {name: tuple(doc[name]) for name in _LISTS if name in doc}
    return Pairs(**{**doc, **joint, "endpoints": endpoints})


STEP: Entry = ("step",)


def heard_entry(now: float, readings: Sequence[Reading], split: Split | None) -> Entry:
    return [
        "heard",
        {"now": now, "readings": [dump(r) for r in readings], "split": None if split is None else dump(split)},
    ]


def hear(judge: Judge, doc: Mapping[str, Any]) -> Verdict:
    """Let a judge hear what another one heard."""
    split = None if doc["split"] is None else load(Split, doc["split"])
    return judge.hear(doc["now"], [load(Reading, r) for r in doc["readings"]], split)


def said_entry(t: float, verdict: Verdict, state: str | None = None) -> Entry:
    """What the judge says at second `t`, and the state that the rollout entered after that, if it did. Each metric's
    own evidence, for people, with four digits."""
    doc: dict[str, Any] = {"t": t, "kind": verdict.kind, "evidence": verdict.evidence}
    if verdict.brake:
        doc["brake"] = True
    if verdict.fault is not None:
        doc["fault"] = verdict.fault
    if verdict.bound is not None:
        doc["bound"] = verdict.bound
    if state is not None:
        doc["state"] = state
    doc["own"] = {name: float(f"{value:.4g}") for name, value in verdict.worst.items()}
    return ["said", doc]


def arm_to_json(arm: Arm) -> dict[str, Any]:
    """What of an arm is not its default. Latencies as text, see `latency_text`."""
    doc = _brief(arm, ("latency", "instances"))
    if len(arm.latency):
        doc["latency"] = latency_text(arm.latency)
    if arm.instances:
        doc["instances"] = {name: arm_to_json(arm.instances[name]) for name in sorted(arm.instances)}
    return doc


def arm_from_json(doc: Mapping[str, Any]) -> Arm:
    known = dict(doc)
    if "latency" in known:
        known["latency"] = latency_of(known["latency"])
    if "endpoints" in known:
        known["endpoints"] = {name: (pair[0], pair[1]) for name, pair in known["endpoints"].items()}
    if "instances" in known:
        known["instances"] = {name: arm_from_json(part) for name, part in known["instances"].items()}
    return Arm(**known)


def _brief(value: Any, apart: Sequence[str]) -> dict[str, Any]:
    doc = {}
    for part in fields(value):
        found = getattr(value, part.name)
        default = part.default if part.default_factory is MISSING else part.default_factory()
        if part.name not in apart and found != default:
            doc[part.name] = dict(found) if isinstance(found, Mapping) else found
    return doc


def latency_text(counts: Sequence[int]) -> str:
    """The buckets that are not empty, as `bucket:count`, by blanks.

    >>> latency_text([0, 3, 0, 1])
    '1:3 3:1'
    """
    return " ".join(f"{bucket}:{int(count)}" for bucket, count in enumerate(counts) if count)


def latency_of(text: str) -> tuple[int, ...]:
    """Counts by bucket from `latency_text`. Raises: ValueError when it is no such text."""
    counts = [0] * LATENCY_BUCKETS
    for pair in text.split():
        bucket, _, count = pair.partition(":")
        counts[min(max(int(bucket), 0), LATENCY_BUCKETS - 1)] += int(count)
    return tuple(counts)


# Parts


def line_of(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def pack(text: str) -> str:
    """Text small enough to be kept in a document."""
    return base64.b85encode(zlib.compress(text.encode(), 6)).decode()


def unpack(packed: str) -> str:
    """Raises: ValueError for what `pack` did not make."""
    try:
        return zlib.decompress(base64.b85decode(packed)).decode()
    except zlib.error as error:
        raise ValueError(f"a part of a tape cannot be read: {error}") from error


def entries_of(parts: Iterable[str]) -> Iterator[list[Any]]:
    """Every entry of the packed parts, in order."""
    for part in parts:
        for line in unpack(part).splitlines():
            yield json.loads(line)


def play(judge: Judge, entries: Iterable[Entry]) -> Iterator[tuple[Tick, Verdict]]:
    """Feed a judge what was fed to another one; each tick with the verdict after it."""
    for entry in entries:
        if entry[0] == "tick":
            tick = tick_of(entry[1])
            yield tick, judge.update(tick)
        elif entry[0] == "step":
            judge.begin_step()
        elif entry[0] == "heard":
            hear(judge, entry[1])
