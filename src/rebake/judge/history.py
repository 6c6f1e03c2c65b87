"""The hour before: what each fleet's users met, by the minute, so that a judge knows what is usual. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rebake.judge.metrics import THRESHOLD_SAMPLES
from rebake.judge.samples import LATENCY_BUCKETS, Arm, Joint, Pairs

HOUR_SECONDS = 3600
_PART_SECONDS = 60


@dataclass(slots=True)
class Sum:
    """Arms added up."""

    n: int = 0
    errors: int = 0
    shielded: int = 0
    refused: int = 0
    unanswered: int = 0
    redirected: int = 0
    unfinished: int = 0
    endpoints: dict[str, tuple[int, int]] = field(default_factory=dict)
    latency: list[int] = field(default_factory=list)
    instances: dict[str, Sum] = field(default_factory=dict)

    def add(self, arm: Arm) -> None:
        self.n += arm.n
        self.errors += arm.errors
        self.shielded += arm.shielded
        self.refused += arm.refused
        self.unanswered += arm.unanswered
        self.redirected += arm.redirected
        self.unfinished += arm.unfinished
        for name, (n, errors) in arm.endpoints.items():
            before = self.endpoints.get(name, (0, 0))
            self.endpoints[name] = (before[0] + n, before[1] + errors)
        if len(arm.latency):
            self.latency = self.latency or [0] * LATENCY_BUCKETS
            self.latency = [a + b for a, b in zip(self.latency, arm.latency, strict=True)]
        for name, part in arm.instances.items():
            self.instances.setdefault(name, Sum()).add(part)

    def arm(self) -> Arm:
        instances = {name: part.arm() for name, part in self.instances.items()}
        counted = dict(self.endpoints), tuple(self.latency), instances
        return Arm(
            self.n,
            self.errors,
            *counted,
            shielded=self.shielded,
            refused=self.refused,
            unanswered=self.unanswered,
            redirected=self.redirected,
            unfinished=self.unfinished,
        )


def paired(parts: Iterable[Pairs]) -> Pairs:
    """Several readings of pairs as one."""
    total, instances = Pairs(), set[str]()
    for part in parts:
        endpoints = dict(total.endpoints)
        for name, (n, both, ours, theirs) in part.endpoints.items():
            before = endpoints.get(name, (0, 0, 0, 0))
            endpoints[name] = (before[0] + n, before[1] + both, before[2] + ours, before[3] + theirs)
        total = Pairs(
            total.n + part.n,
            _sum(total.failed, part.failed),
            _sum(total.refused, part.refused),
            _sum(total.unanswered, part.unanswered),
            _sum(total.redirected, part.redirected),
            _sum(total.unfinished, part.unfinished),
            endpoints,
        )
        instances.update(part.instances)
    return replace(total, instances=tuple(sorted(instances)))


def _sum(one: Joint, other: Joint) -> Joint:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def together(arms: Iterable[Arm]) -> Arm:
    """Several arms as one."""
    total = Sum()
    for arm in arms:
        total.add(arm)
    return total.arm()


class Hour:
    """What each fleet's users met in the last hour. Memory: sixty arms for each fleet that had users in it."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, Sum]] = {}

    def add(self, second: int, fleet: str, arm: Arm) -> None:
        """Take in what finished in one second, since the epoch."""
        part = second // _PART_SECONDS
        if part not in self._parts:
            newest = max(part, *self._parts) if self._parts else part
            self._parts = {p: s for p, s in self._parts.items() if p > newest - HOUR_SECONDS // _PART_SECONDS}
            self._parts[part] = {}
        self._parts[part].setdefault(fleet, Sum()).add(arm)

    def of(self, fleet: str, now: float) -> Arm | None:
        """One fleet's last hour; None when it had no users.

        Fewer answers than place a latency threshold well are left out: the judge learns its thresholds then.
        """
        first = (now - HOUR_SECONDS) // _PART_SECONDS
        arm = together(f[fleet].arm() for p, f in self._parts.items() if p >= first and fleet in f)
        if arm.n == 0:
            return None
        if sum(arm.latency) >= THRESHOLD_SAMPLES:
            return arm
        return replace(arm, latency=())
