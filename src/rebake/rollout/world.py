"""What `decide` reads: the remembered state of one environment, and the world as observed. Frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rebake.core.clock import Boot
from rebake.judge.samples import Verdict
from rebake.platforms.model import Instance
from rebake.release.manifest import Revision
from rebake.rollout.plan import Plan
from rebake.rollout.states import FINAL, State
from rebake.traffic.ports import RouteObservation
from rebake.traffic.ramp import RampState

HEDGED_MS = 1000
"""A second try begins a moment after `answer_within`, and the engine looks now and then."""
MOST_FAILURES = 100
"""More than a fleet has instances on one machine: each is remembered until it is gone."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One instance that ended by itself, or never became healthy.

    Attributes:
        decisive: another try would show nothing more (it used its whole start time).
        served: it had been healthy once, or ended with its machine: nothing is told by it against the next one.
        clean: a worker that ended with exit code 0, too soon to have done its stint.
    """

    instance: str
    at: float
    why: str
    decisive: bool = False
    served: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """N identical instances of one revision.

    Attributes:
        id: named after the rollout that raised it, so that a revision raised twice is two fleets.
        next: number of the next instance; makes instance names unique without chance.
        failures: the last failures, newest last, at most `MOST_FAILURES`.
        good_at: when an instance last proved that it stays up.
        leaving: instances taken out of the route, and since when; retired once they had time to finish.
        sick: instances that run without being healthy, and since when.
        noted: instances whose drift is in the ledger already.
        pending: instances asked for and not observed yet, and since when.
        starting: instances seen starting, and since when.
        start_seconds: how long it took until all of it was healthy; None when that was not seen.
    """

    id: str
    revision: Revision
    plan: Plan
    next: int = 1
    failures: tuple[Failure, ...] = ()
    good_at: float = 0.0
    leaving: Mapping[str, float] = field(default_factory=dict)
    sick: Mapping[str, float] = field(default_factory=dict)
    noted: tuple[str, ...] = ()
    pending: Mapping[str, float] = field(default_factory=dict)
    starting: Mapping[str, float] = field(default_factory=dict)
    start_seconds: float | None = None

    @property
    def streak(self) -> tuple[Failure, ...]:
        """Failures since an instance of this fleet last proved that it stays up.

        Instances that served and fell together (a reboot, a machine out of memory) failed once: that they fell says
        nothing against their starting again.
        """
        if not self.failures:
            return ()
        found = [f for f in self.failures if f.at > self.good_at]
        fell = {f.at: f for f in found if f.served}
        return tuple(f for f in found if not f.served or fell[f.at] is f)


@dataclass(frozen=True, slots=True)
class Membership:
    """One rollout's place in a release group.

    Attributes:
        id: made once, where the group is asked for.
        members: `SERVICE/ENV` of each, in order.
        me: this one's number among them.
    """

    id: str
    name: str
    order: Literal["lockstep", "ordered"]
    members: tuple[str, ...]
    me: int


@dataclass(frozen=True, slots=True)
class Mate:
    """What another member of the group wrote down last. `back`: why it goes back; None while it does not."""

    member: int
    mark: int
    back: str | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The journey of one revision into one environment.

    Attributes:
        weight: the candidate's share as last intended, basis points.
        step: index into the strategy's stages; -1 before the first.
        step_at: when the present step's weights were read back.
        users_at: when the candidate's first share was read back.
        ramp, ramped_at: the judge's own ramp, and when it was last advanced.
        ending: the final state that RETURNING leads to.
        asking: what a person is asked, in ASKING.
        promoted_at: when the last step was read back.
        undone: the revision that an undo takes out of service.
        held: why a gate in time holds it now; None when none does.
        held_until: until when, where that is known.
        group: its place in a release group, and of it: `mark`, what it reached (see `groups`); `agreed`, a person said
            yes to its next step; `hurried`, a newer request waits for the end of its soak; `taken_along`, it goes
            back because another member does.
        let_through, let_through_at: who let it pass gates in time, and when.
    """

    id: str
    kind: Literal["deploy", "undo"]
    revision: Revision
    plan: Plan
    requested_by: str
    requested_at: float
    state: State = State.WAITING
    entered_at: float = 0.0
    weight: int = 0
    step: int = -1
    step_at: float | None = None
    users_at: float | None = None
    ramp: RampState | None = None
    ramped_at: float | None = None
    ending: State | None = None
    asking: str | None = None
    reason: str = "accepted"
    remedy: str | None = None
    log_tail: tuple[str, ...] = ()
    promoted_at: float | None = None
    ended_at: float | None = None
    undone: str | None = None
    held: str | None = None
    held_until: float | None = None
    let_through: str | None = None
    let_through_at: float | None = None
    group: Membership | None = None
    mark: int = -1
    agreed: bool = False
    hurried: bool = False
    taken_along: bool = False

    @property
    def over(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scheduled job. Times: seconds since the epoch.

    Attributes:
        instance: which ran it, and it alone.
        slot: the moment of the schedule that it is for.
        rollout, share: the rollout under way when it was drawn, and the candidate's share of the runs then (in basis
            points).
        began: when it was asked for.
        seen, missing: it was observed once; and since when it is not any more.
        outcome: `done`, `failed`; `cut`: its fleet had lost its place; `unknown`: nobody saw how it ended.
    """

    instance: str
    slot: float
    fleet: str
    rollout: str | None
    share: int
    began: float
    seen: bool = False
    missing: float | None = None
    ended: float | None = None
    outcome: Literal["done", "failed", "cut", "unknown"] | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A fleet that lost its place: it drains, then its instances are retired.

    Attributes:
        idle_since: when the balancer first reported it without weight; None until then.
        shielded: it was a candidate that stable shields: what it has not answered yet may still need a second try.
    """

    fleet: Fleet
    why: str
    idle_since: float | None = None
    shielded: bool = False

    @property
    def drain_seconds(self) -> float:
        """How long its requests may take: of a shielded fleet until those it never answers had their second try."""
        plan = self.fleet.plan
        least_ms = plan.judge.answer_within_ms + HEDGED_MS if self.shielded else 0
        return max(plan.run.drain_ms, least_ms) / 1000


@dataclass(frozen=True, slots=True)
class Place:
    """The home that has an environment.

    Attributes:
        id: made once for each home and kept in it.
        host, folder: for people: the machine and the home's folder, as they were when it was recorded.
    """

    id: str
    host: str
    folder: str


@dataclass(frozen=True, slots=True)
class Environment:
    """All that is remembered of one environment. The ledger keeps it; nothing else does.

    Attributes:
        previous: fleets that were stable before, newest first: what undo goes back to.
        queue: rollouts that wait for their turn, oldest first.
        stable_lost_at, candidate_lost_at: since when no instance of the cohort is healthy.
        fell_at: when both cohorts were lost at once, by a reboot, say; None once both are whole again.
        served: version of the route last read back as served; a later difference is drift.
        down: a person took the environment down.
        platform: where its instances were asked for last: a late one may still come when no fleet is left.
        place: the home that has it, where instances and edge are on one machine; see `places`.
        slot: of a scheduled job, the latest moment of its schedule that was decided on.
        runs: of a scheduled job, its runs under way and the latest that are over, oldest first.
        boot: of the machine on which this was decided, by the clock that its times are told by; see `present`.
    """

    service: str
    environment: str
    stable: Fleet | None = None
    candidate: Fleet | None = None
    rollout: Rollout | None = None
    queue: tuple[Rollout, ...] = ()
    previous: tuple[Fleet, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    stable_lost_at: float | None = None
    candidate_lost_at: float | None = None
    fell_at: float | None = None
    served: str | None = None
    down: bool = False
    platform: str | None = None
    place: Place | None = None
    slot: float | None = None
    runs: tuple[Run, ...] = ()
    boot: Boot | None = None

    @property
    def key(self) -> str:
        return f"{self.service}/{self.environment}"


@dataclass(frozen=True, slots=True)
class Command:
    """A person's request, waiting to be decided on.

    Attributes:
        rollout: what to begin, for `begin`; the id to give an undo that must raise the previous revision again.
    """

    id: str
    verb: Literal["begin", "stop", "undo", "approve", "down", "resize"]
    by: str
    at: float
    rollout: Rollout | None = None
    rollout_id: str | None = None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """A person's word that users are not moved on. Times: seconds since the epoch.

    Attributes:
        scope: `SERVICE/ENV`, or `*` for every environment.
    """

    scope: str
    by: str
    at: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """A long effect (preparing, a check) by its latest known state."""

    state: Literal["running", "done", "failed"]
    detail: str = ""
    evidence: tuple[str, ...] = ()
    remedy: str | None = None
    permanent: bool = True


@dataclass(frozen=True, slots=True)
class World:
    """One observation of everything around one environment.

    Attributes:
        route: as read back; None when the balancer knows nothing of the environment.
        unheard: why the balancer could not be asked: then `route` says nothing; empty when it could.
        unseen: the same for the platform.
        jobs: by action id.
        blocked: by action id, permanent failures of effects, as (sentence, remedy).
        quarantined: revision digests that must not be deployed.
        succeeded: `environment/release` of every release of this service that succeeded somewhere.
        verdict: the judge's latest word on the rollout under way.
        requests_per_second: of the whole environment, roughly; 0 when unknown.
        unread: why the route's records could not be read; empty when they could.
        freezes: people's freezes that concern this environment.
        mates: what the other members of the rollout's group wrote down.
        looked_away: the look before this one is longer ago than a lease, or unknown: what was seen then may have
            changed and changed back.
        boot: of this machine, by the clock that `now` is read from.
    """

    instances: tuple[Instance, ...] = ()
    route: RouteObservation | None = None
    unheard: str = ""
    unseen: str = ""
    jobs: Mapping[str, Job] = field(default_factory=dict)
    blocked: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    succeeded: frozenset[str] = frozenset()
    verdict: Verdict | None = None
    requests_per_second: float = 0.0
    unread: str = ""
    commands: tuple[Command, ...] = ()
    log_tails: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    looked_away: bool = False
    freezes: tuple[Freeze, ...] = ()
    mates: tuple[Mate, ...] = ()
    boot: Boot | None = None

    @property
    def route_known(self) -> bool:
        return not self.unheard

    @property
    def instances_known(self) -> bool:
        return not self.unseen

    def of(self, fleet: str) -> tuple[Instance, ...]:
        return tuple(i for i in self.instances if i.fleet == fleet)


def differs(environment: Environment, changes: Mapping[str, object]) -> bool:
    """Whether a part of what is remembered would be another. Mostly each part is the very same, which needs no look
    into it."""
    for name, value in changes.items():
        known = getattr(environment, name)
        if known is not value and known != value:
            return True
    return False


def fleet_for(rollout: Rollout) -> Fleet:
    """The candidate fleet of a rollout, named after it."""
    return Fleet(id=rollout.id, revision=rollout.revision, plan=rollout.plan)


def with_failure(fleet: Fleet, failure: Failure) -> Fleet:
    """Remember one failure, once per instance."""
    if any(f.instance == failure.instance for f in fleet.failures):
        return fleet
    return replace(fleet, failures=(*fleet.failures, failure)[-MOST_FAILURES:])
