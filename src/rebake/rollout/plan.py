"""What a rollout is asked to do: the resolved wish of one environment, made from the user's file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rebake.judge.metric_rules import MetricRule
from rebake.release.manifest import RunContract
from rebake.traffic.ports import Sticky

Profile = Literal["fast", "default", "careful"]


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """Asked of every candidate instance before any user."""

    name: str
    path: str
    method: str = "GET"
    expect_status: int = 200
    expect_body: str | None = None
    timeout_ms: int = 5000


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """Run beside the candidate, told `$REBAKE_URL` (one instance) and `$REBAKE_URLS` (all); exit 0 passes."""

    name: str
    command: tuple[str, ...]
    timeout_ms: int = 300_000
    cwd: str | None = None


Check = HttpCheck | CommandCheck


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the route moves.

    Attributes:
        kind: as in the file.
        steps: candidate weights before the last step, basis points, rising; empty: none (or the profile's ramp).
        hold_ms: how long each step is held at least.
        profile: the judge's own ramp; None when steps are fixed.
        mirror_basis_points, mirror_ms: share of safe requests copied before the candidate gets its first users, and for
            how long; 0: none.
        by_instances: a share is one of the instances behind one address, as nothing deals single requests there; every
            step, and what the hold-back leaves, is one that so many instances have (`traffic.pods`).
    """

    kind: Literal["all-at-once", "blue-green", "canary", "linear", "shadow"] = "blue-green"
    steps: tuple[int, ...] = ()
    hold_ms: int = 0
    profile: Profile | None = None
    mirror_basis_points: int = 0
    mirror_ms: int = 0
    by_instances: bool = False

    @property
    def mirrors(self) -> bool:
        """Whether the first stage is without users: only copies of their requests are answered."""
        return self.mirror_ms > 0


@dataclass(frozen=True, slots=True)
class JudgeRules:
    """`judge:` of the file, in integers: shares in basis points, ratios in thousandths."""

    false_rollbacks_bp: int = 100
    error_ratio_milli: int = 1100
    error_extra_bp: int = 10
    latency_bp: dict[str, int] = field(default_factory=lambda: {"p50": 700, "p90": 1000, "p99": 2000})
    min_requests: int = 20
    refusal_ratio_milli: int = 1500
    refusal_extra_bp: int = 200
    answer_within_ms: int = 10_000
    metrics: tuple[MetricRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """When users may be moved on: days (0 is Monday), and minutes of the day by the clock on the wall of a zone.

    One that closes at or before it opens goes on past midnight.
    """

    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    opens: int = 0
    closes: int = 1440
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Dates:
    """A freeze that the file names. Times: seconds since the epoch."""

    since: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a job is run: `every` so long, or by a `cron` line; one of the two. See `schedule`.

    Attributes:
        zone: whose clock `cron` goes by.
        timeout_ms: a run that takes longer is told to finish, and failed.
        overlap: what happens to a slot that comes while a run is under way.
        missed: what happens to the latest slot that came while no engine was there.
    """

    every_ms: int = 0
    cron: str = ""
    zone: str = "UTC"
    timeout_ms: int = 3_600_000
    overlap: Literal["skip", "allow"] = "skip"
    missed: Literal["run", "skip"] = "run"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the engine needs to know to take one environment to one revision.

    Attributes:
        run: the run contract with the environment's settings merged in.
        listen: the address users call; empty for a fleet without a route, whose instances fetch their work themselves.
        undecided: what happens at the end of a hold without enough evidence; `hold-on` asks a person after
            `undecided_limit_ms`.
        when_busy: what a request does that finds another rollout under way.
        hold_back_basis_points: stable's share while the candidate soaks.
        shield: while both fleets have users, stable answers what the candidate failed and may be sent twice.
        approval: a person must approve before the candidate gets its first user.
        window: users are moved on only in one of these; empty: at any time.
        freeze: dates between which users are not moved on at all.
        platform_settings: the adapter's own block of the file, as it stands.
        schedule: of a job, whose fleet has an instance only while a run is under way; None for what always runs.
    """

    service: str
    environment: str
    platform: str
    run: RunContract
    instances: int
    listen: str
    strategy: Strategy = Strategy()
    checks: tuple[Check, ...] = ()
    judge: JudgeRules = JudgeRules()
    undecided: Literal["hold-on", "promote", "roll-back"] = "hold-on"
    undecided_limit_ms: int = 1_800_000
    soak_ms: int = 600_000
    hold_back_basis_points: int = 0
    shield: bool = False
    keep: int = 3
    when_busy: Literal["supersede", "wait"] = "supersede"
    after: str | None = None
    approval: bool = False
    window: tuple[Window, ...] = ()
    freeze: tuple[Dates, ...] = ()
    sticky: Sticky | None = None
    drift_interval_ms: int = 10_000
    platform_settings: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None

    @property
    def routed(self) -> bool:
        """Whether users reach the fleet through a route; else it takes its work from elsewhere, such as a queue."""
        return bool(self.listen)

    @property
    def kind(self) -> Literal["http", "worker", "job"]:
        """What its instances do, as `run.kind` of the file says."""
        if self.routed:
            return "http"
        return "worker" if self.schedule is None else "job"
