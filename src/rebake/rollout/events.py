"""What has happened to the rollout under way: ordered rules from the observed world to one event. Pure.

The first rule that speaks wins, so harm is always seen before progress. Each rule returns the event with one sentence
of reason, which is what people read in `status`, on the terminal and in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps

from rebake.core.digest import short
from rebake.core.units import FULL, format_duration, format_share
from rebake.rollout import groups
from rebake.rollout.clues import clue
from rebake.rollout.fleets import healthy, serving
from rebake.rollout.gates import Closed, closed
from rebake.rollout.plan import Plan
from rebake.rollout.route import at_last_step, desired_route, mirroring, served, stages
from rebake.rollout.shares import candidate_size, realised
from rebake.rollout.states import Event, State
from rebake.rollout.world import Environment, Job, Rollout, World
from rebake.traffic.ports import EnvironmentRoute

START_ATTEMPTS = 3
"""Failures in a row after which a candidate cannot start."""
LOST_SECONDS = 2.0
"""A cohort without one healthy instance for this long is lost."""
LATE_SECONDS = 60.0
"""The balancer gets this long to see a healthy candidate before that is a failure of the edge."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An event with what people are told about it. `until`: when what holds a rollout ends by itself; `mark`:
    what it reached in its group."""

    event: Event
    reason: str
    remedy: str | None = None
    log_tail: tuple[str, ...] = ()
    until: float | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Everything a rule may read."""

    environment: Environment
    rollout: Rollout
    world: World
    now: float

    @property
    def plan(self) -> Plan:
        return self.rollout.plan

    @property
    def in_state_seconds(self) -> float:
        return max(0.0, self.now - self.rollout.entered_at)

    @property
    def wanted(self) -> EnvironmentRoute | None:
        return desired_route(self.environment, self.world, self.now)


Rule = Callable[[Look], Seen | None]


_TRIALS = {"http": "request", "worker": "instance-second", "job": "run"}
"""What is counted, by the kind of a plan."""

ONWARD = frozenset(
    {
        Event.GATE_OPEN,
        Event.CHECKS_PASSED,
        Event.STEP_OVER,
        Event.RAMPED,
        Event.UNDECIDED_PROMOTE,
        Event.SOAKED,
    }
)
"""Events that move users on, or begin to: what a window or a freeze holds."""


def shut(look: Look) -> Closed | None:
    """The gate in time that holds this rollout now; None when it may go on.

    An undo passes, and so does what a person let through, until somebody freezes after that. A window protects those
    who are served well: it does not hold the fix of a stable of which nothing is healthy. A freeze is a person's word,
    so only a person's word lifts it.
    """
    rollout, freezes, plan = look.rollout, look.world.freezes, look.plan
    if rollout.kind == "undo":
        return None
    if rollout.let_through_at is not None:
        freezes = tuple(f for f in freezes if f.at > rollout.let_through_at)
        plan = replace(plan, window=(), freeze=())
    gate = closed(plan, freezes, look.now)
    return None if gate is not None and not gate.frozen and stable_broken(look) else gate


def _gated(look: Look, seen: Seen | None) -> Seen | None:
    """What moves users on, unless a gate in time is shut: then that the rollout is held, once for each reason."""
    gate = shut(look) if seen is not None and seen.event in ONWARD else None
    if seen is None or gate is None:
        return seen
    if look.rollout.held == gate.why:
        return None
    environment = look.plan.environment
    remedy = f"to go on now: rebake approve {environment}; to end it: rebake stop {environment}"
    return Seen(Event.HELD, gate.why, remedy, until=gate.until)


def _behind_gates(rule: Rule) -> Rule:
    """The rule, with the gates in time, and then the group, before what it lets happen."""

    @wraps(rule)
    def behind_gates(look: Look) -> Seen | None:
        return _together(look, _gated(look, rule(look)))

    return behind_gates


STEPS = frozenset({Event.CHECKS_PASSED, Event.STEP_OVER, Event.UNDECIDED_PROMOTE})
"""Events with which a step begins: what a group in lockstep does together."""


def _together(look: Look, seen: Seen | None) -> Seen | None:
    """What moves users on, once the others of the group are as far; before that, that this one is."""
    group = look.rollout.group
    if group is None or seen is None:
        return seen
    if seen.event is Event.GATE_OPEN and group.order == "ordered":
        return _wait(look, seen, 0, groups.PROMOTED, before=group.me)
    if seen.event in STEPS and group.order == "lockstep" and not stable_broken(look):
        mark = groups.next_mark(look.rollout)
        return _wait(look, seen, mark, mark)
    return seen


def _wait(look: Look, seen: Seen, mine: int, theirs: int, before: int | None = None) -> Seen | None:
    """Say what this member reached, then wait until the others have reached theirs."""
    rollout, mates = look.rollout, look.world.mates
    if rollout.mark < mine:
        others = groups.behind(rollout, mates, theirs, before) or "nobody"
        return Seen(Event.REACHED, f"{seen.reason}; in its group it waits for {others}", mark=mine)
    return seen if groups.reached(rollout, mates, theirs, before) else None


def _group_returns(look: Look) -> Seen | None:
    rollout = look.rollout
    mate = groups.gone_back(rollout, look.world.mates)
    if mate is None or rollout.group is None or _all_gave_their_word(look):
        return None
    name = rollout.group.members[mate.member] if mate.member < len(rollout.group.members) else "a member"
    return Seen(
        Event.GROUP_RETURNS,
        f"taken back with its group {rollout.group.name}, because {name} goes back: {mate.back}",
        f"rebake status --group {rollout.group.name}",
    )


def _all_gave_their_word(look: Look) -> bool:
    return look.rollout.mark >= groups.WORD and groups.reached(look.rollout, look.world.mates, groups.WORD)


def _agreed(look: Look) -> Seen | None:
    """A person said yes to the next step of a member; it waits for the others all the same."""
    if not look.rollout.agreed:
        return None
    return _together(look, Seen(Event.STEP_OVER, "approved, and its group is there"))


def _takes_over(look: Look) -> Seen | None:
    """In a group the soak goes on after a broken stable was replaced: nobody gives its stable up before all may."""
    seen = None if look.rollout.group is None else _stable_broken(look)
    return None if seen is None else replace(seen, event=Event.TAKES_OVER)


def _resumed(look: Look) -> Seen | None:
    """Nothing holds it any more: `reason` says so until the next step."""
    if look.rollout.held is None or shut(look) is not None:
        return None
    return Seen(Event.RESUMED, _passes(look) or "nothing holds it any more")


def _passes(look: Look) -> str | None:
    """Why a rollout passes a gate in time that is shut for others; None when none is."""
    if look.rollout.kind == "undo" or closed(look.plan, look.world.freezes, look.now) is None:
        return None
    if look.rollout.let_through is not None:
        return f"let through by {look.rollout.let_through}"
    return "no instance of stable is healthy, and a window does not hold its fix"


def check_id(rollout: Rollout, name: str) -> str:
    return f"check:{rollout.id}:{name}"


def prepare_id(rollout: Rollout) -> str:
    return f"prepare:{rollout.id}"


def _quarantined(look: Look) -> Seen | None:
    revision = look.rollout.revision.digest
    if revision not in look.world.quarantined:
        return None
    return Seen(
        Event.QUARANTINED,
        f"revision {short(revision)} is in quarantine: it was taken back here before",
        f"change the code or a setting, or let it go: rebake quarantine release {short(revision)}",
    )


def _gate_shut(look: Look) -> Seen | None:
    after, release = look.plan.after, look.rollout.revision.release
    if after is None or f"{after}/{release}" in look.world.succeeded:
        return None
    release = short(release)
    return Seen(
        Event.GATE_SHUT,
        f"release {release} has not succeeded in {after} yet",
        f"rebake deploy {after}, then rebake deploy {look.plan.environment}",
    )


@_behind_gates
def _gate_open(look: Look) -> Seen | None:
    return Seen(Event.GATE_OPEN, f"{_passes(look) or 'the gates are open'}: making the release ready")


def _blocked(look: Look) -> Seen | None:
    """A permanent failure of an effect that this rollout cannot go on without."""
    if not look.world.blocked:
        return None
    wanted = look.wanted
    ids = [i for i in look.world.blocked if i.startswith(f"launch:{look.rollout.id}-")]
    if wanted is not None:
        ids.append(f"route:{wanted.version}")
    for action in ids:
        if action in look.world.blocked:
            problem, remedy = look.world.blocked[action]
            return Seen(Event.BLOCKED, problem, remedy)
    return None


def _prepared(look: Look) -> Seen | None:
    job = look.world.jobs.get(prepare_id(look.rollout))
    if job is None or job.state == "running":
        return None
    if job.state == "failed":
        return Seen(Event.BLOCKED, f"the release cannot be made ready: {job.detail}", job.remedy, job.evidence)
    if not look.plan.routed:
        return Seen(Event.PREPARED, "nothing of it is run before the checks passed: who runs, works")
    return Seen(Event.PREPARED, f"raising {look.plan.instances} instances beside the running fleet")


def _cannot_start(look: Look) -> Seen | None:
    fleet = look.environment.candidate
    if fleet is None:
        return None
    streak = fleet.streak
    decisive = [f for f in streak if f.decisive]
    if not decisive and len(streak) < START_ATTEMPTS:
        return None
    failure = decisive[-1] if decisive else streak[-1]
    tail = look.world.log_tails.get(failure.instance, ())
    logs = f"rebake logs {look.plan.environment} --instance {failure.instance}"
    told = _told(look, tail, failure.why, logs)
    return Seen(Event.CANNOT_START, f"the candidate cannot start: {failure.why}", told, tail)


def _told(look: Look, tail: tuple[str, ...], why: str, logs: str) -> str:
    """The remedy that the log itself suggests, before the command that shows the rest of the log."""
    found = clue(tail, why, look.plan.platform)
    return logs if found is None else f"{found}; see {logs}"


def candidate_ready(look: Look) -> bool:
    """All wanted instances are healthy and as released; the balancer, where there is one, found them healthy too."""
    fleet = look.environment.candidate
    if fleet is None:
        return False
    if not look.plan.routed:
        return len(healthy(fleet, look.world)) >= candidate_size(look.environment)
    if not look.world.route_known or look.world.route is None:
        return False
    good = {i.id for i in healthy(fleet, look.world)}
    seen = look.world.route.healthy.get(fleet.id, frozenset())
    return len(good & seen) >= look.plan.instances


def _ready(look: Look) -> Seen | None:
    if candidate_ready(look):
        count = len(look.plan.checks)
        if not look.plan.routed:
            return Seen(Event.READY, f"{count} checks run before any instance works")
        return Seen(Event.READY, f"all {look.plan.instances} instances are healthy; {count} checks run")
    fleet = look.environment.candidate
    enough = fleet is not None and len(healthy(fleet, look.world)) >= look.plan.instances
    if enough and look.in_state_seconds > LATE_SECONDS + look.plan.run.health.start_timeout_ms / 1000:
        return Seen(
            Event.BLOCKED,
            "the instances are healthy, but the edge does not find them healthy",
            f"rebake doctor; rebake logs {look.plan.environment}",
        )
    return None


def _not_served(look: Look) -> Seen | None:
    """The balancer itself says why it does not serve the route, and has said so for long."""
    route = look.world.route
    if route is None or not route.problem or look.in_state_seconds <= LATE_SECONDS:
        return None
    said = f"the route is written, and not served after {LATE_SECONDS:g}s: {route.problem}"
    return Seen(Event.BLOCKED, said, "correct what the sentence names, then deploy again")


def _check_failed(look: Look) -> Seen | None:
    for check in look.plan.checks:
        job = look.world.jobs.get(check_id(look.rollout, check.name))
        if job is not None and job.state == "failed":
            remedy = job.remedy or f"rebake logs {look.plan.environment}; correct the change and deploy again"
            tail = _tail_behind(look, job.detail)
            return Seen(Event.CHECK_FAILED, f"check {check.name} failed: {job.detail}", remedy, tail)
    return None


def _tail_behind(look: Look, detail: str) -> tuple[str, ...]:
    """The log of the instance that a failed check names by its address; else of the first that wrote anything."""
    tails = look.world.log_tails
    named = [i.id for i in look.world.instances if i.id in tails and i.address and i.address in detail]
    return next((tails[i] for i in (*named, *sorted(tails)) if tails[i]), ())


@_behind_gates
def _checks_passed(look: Look) -> Seen | None:
    jobs: list[Job | None] = [look.world.jobs.get(check_id(look.rollout, c.name)) for c in look.plan.checks]
    if any(job is None or job.state != "done" for job in jobs) or not candidate_ready(look):
        return None
    if look.plan.approval:
        return Seen(
            Event.NEEDS_APPROVAL,
            "the candidate is healthy and passed its checks; a person must approve its first user"
            if look.plan.routed
            else "the candidate passed its checks; a person must approve its first instance at work",
            f"rebake approve {look.plan.environment}, or rebake stop {look.plan.environment}",
        )
    if not look.plan.routed:
        return Seen(Event.CHECKS_PASSED, "every check passed: the candidate may work")
    return Seen(Event.CHECKS_PASSED, "healthy, and every check passed: users may meet the candidate")


def stable_broken(look: Look) -> bool:
    stable, lost = look.environment.stable, look.environment.stable_lost_at
    if stable is None or lost is None or look.now - lost < LOST_SECONDS:
        return False
    return not any(i.healthy for i in serving(stable, look.world))  # it may be back since the look that noted it


def _harmful(look: Look) -> Seen | None:
    verdict = look.world.verdict
    if verdict is None or verdict.kind != "harmful" or stable_broken(look) or look.rollout.mark >= groups.WORD:
        return None
    return Seen(
        Event.HARMFUL,
        f"taken back after {verdict.reason}",
        f"rebake logs {look.plan.environment}; correct the change and deploy again",
    )


def _candidate_lost(look: Look) -> Seen | None:
    fleet, lost = look.environment.candidate, look.environment.candidate_lost_at
    alone = stable_broken(look)
    if alone and not look.plan.routed and lost is not None:
        alone = False  # neither works: nothing is lost by going back, and the rollout must end
    met = look.rollout.weight > 0 or mirroring(look.rollout)
    if fleet is None or not met or alone or look.rollout.mark >= groups.WORD:
        return None
    if look.plan.schedule is not None and look.environment.stable is not None and look.environment.stable.streak:
        return None  # stable's own runs fail too: the judge compares them
    gone = lost is not None and look.now - lost >= LOST_SECONDS and not _coming_back(look)
    if not look.plan.routed:  # nobody waits for it while it starts: stable does all of the work
        gone = (gone and bool(fleet.sick)) or any(f.decisive for f in fleet.streak)
    if not gone and len(fleet.streak) < START_ATTEMPTS:
        return None
    why = fleet.streak[-1].why if fleet.streak else "no instance answers its health check"
    tail = look.world.log_tails.get(fleet.streak[-1].instance, ()) if fleet.streak else ()
    said = "the candidate does not stay up" if look.plan.schedule is None else "the candidate's runs fail"
    return Seen(
        Event.CANDIDATE_LOST,
        f"{said}: {why}",
        _told(look, tail, why, f"rebake logs {look.plan.environment}"),
        tail,
    )


def _coming_back(look: Look) -> bool:
    """Whether the candidate is on its way back from what took all of stable at the same time: a reboot, say; or there
    is no stable that could serve instead. That it fell says nothing against it then, so it has the time that it has at
    every start; if it uses it up, or falls again, it is lost."""
    fleet = look.environment.candidate
    together = look.environment.fell_at is not None or look.environment.stable is None
    if fleet is None or not together:
        return False
    return bool(fleet.starting or fleet.pending) and not any(f.decisive for f in fleet.streak)


def _stable_broken(look: Look) -> Seen | None:
    """A broken stable never blocks its fix: a candidate that is ready takes over at once."""
    if look.rollout.weight == FULL or not stable_broken(look) or not candidate_ready(look):
        return None
    if look.rollout.state is State.ASKING and look.rollout.asking == "approval":
        return None
    return Seen(Event.STABLE_BROKEN, "no instance of stable is healthy: the healthy candidate takes over at once")


def _shifted(look: Look) -> Seen | None:
    rollout = look.rollout
    if not served(look.environment, look.world, look.wanted):
        return None
    if not look.plan.routed and rollout.state is State.SHIFTING and not look.in_state_seconds:
        return None  # a step is seen at work in a later look than the one that asked for it
    if rollout.state is State.FINISHING:
        return Seen(Event.SHIFTED_LAST, "the candidate is stable now")
    if not rollout.plan.routed:
        return _shifted_at_work(look)
    share = format_share(rollout.weight)
    if at_last_step(rollout):
        served_text = f"promoted: the candidate serves {share}, read back from the edge"
        return Seen(Event.SHIFTED_LAST, served_text + _left(look))
    if mirroring(rollout):
        mirrored = format_share(rollout.plan.strategy.mirror_basis_points)
        return Seen(Event.SHIFTED, f"a copy of {mirrored} of the safe requests goes to the candidate")
    return Seen(Event.SHIFTED, f"the candidate serves {share}, read back from the edge")


def _shifted_at_work(look: Look) -> Seen:
    """The same for a fleet without a route: the share that was asked for is at work, and what it came to."""
    if look.plan.schedule is not None:
        told = f"the candidate gets {format_share(look.rollout.weight)} of the runs"
        return (
            Seen(Event.SHIFTED_LAST, f"promoted: {told}") if at_last_step(look.rollout) else Seen(Event.SHIFTED, told)
        )
    count, full = candidate_size(look.environment), look.plan.instances
    share = realised(look.environment, look.world)["candidate"]
    told = f"{count} of {full} instances of the candidate work, {format_share(round(share * FULL))} of all that do"
    if at_last_step(look.rollout):
        return Seen(Event.SHIFTED_LAST, f"promoted: {told}")
    return Seen(Event.SHIFTED, told)


def _left(look: Look) -> str:
    """What harm is still possible, where the candidate was compared with stable at all."""
    verdict = look.world.verdict
    return f"; {verdict.left}" if verdict is not None and verdict.candidate[0] and verdict.left else ""


def _undecided(look: Look, waited_ms: float, hold_ms: int) -> Seen | None:
    """What the file says about too little evidence at the end of a hold."""
    plan, verdict = look.plan, look.world.verdict
    nothing = f"no {_TRIALS[plan.kind]} was counted yet"
    numbers = verdict.reason if verdict is not None else nothing
    braked = _gone(look) or (verdict is not None and (verdict.brake or verdict.fault is not None))
    if plan.undecided == "promote" and not braked:
        return Seen(Event.UNDECIDED_PROMOTE, f"undecided at the end of the hold, and the file says promote: {numbers}")
    if plan.undecided == "roll-back":
        remedy = "deploy again when there is traffic, or hold longer"
        text = f"undecided at the end of the hold, and the file says roll back: {numbers}"
        return Seen(Event.UNDECIDED_ROLL_BACK, text, remedy)
    if waited_ms < hold_ms + plan.undecided_limit_ms:
        return None
    return Seen(
        Event.UNDECIDED_LIMIT,
        f"still undecided after {format_duration(plan.undecided_limit_ms)}: {numbers}",
        f"rebake approve {plan.environment}, or rebake stop {plan.environment}",
    )


def _proved(look: Look) -> bool:
    verdict = look.world.verdict
    if verdict is None or verdict.kind != "healthy" or _gone(look):
        return False
    return not verdict.brake and verdict.fault is None


def _gone(look: Look) -> bool:
    """No instance of the candidate is healthy: whatever the judge said of it is of another time."""
    return look.environment.candidate_lost_at is not None


@_behind_gates
def _hold(look: Look) -> Seen | None:
    rollout, strategy = look.rollout, look.plan.strategy
    if rollout.step_at is None:
        return None
    waited_ms = (look.now - rollout.step_at) * 1000
    if mirroring(rollout):
        return _mirrored(look, waited_ms)
    hold_ms = strategy.hold_ms
    if strategy.profile is not None:
        return _ramp_stands(look) if _proved(look) else _undecided_ramp(look, waited_ms)
    if waited_ms < hold_ms:
        return None
    if _proved(look):
        assert look.world.verdict is not None
        return Seen(Event.STEP_OVER, f"step {rollout.step + 1} of {stages(strategy)}: {look.world.verdict.reason}")
    return _undecided(look, waited_ms, hold_ms)


def _mirrored(look: Look, waited_ms: float) -> Seen | None:
    """Copies have been answered for long enough. Where users come in steps after them, too few copies hold nothing up:
    the first step is as small as without them. Doubt does."""
    strategy, verdict = look.plan.strategy, look.world.verdict
    if waited_ms < strategy.mirror_ms:
        return None
    if _proved(look):
        assert verdict is not None
        return Seen(Event.STEP_OVER, f"step 1 of {stages(strategy)}, with copies alone: {verdict.reason}")
    doubt = _gone(look) or (verdict is not None and (verdict.brake or verdict.fault is not None))
    if strategy.kind == "shadow" or doubt:
        return _undecided(look, waited_ms, strategy.mirror_ms)
    why = "nothing was copied" if verdict is None else verdict.reason
    return Seen(Event.STEP_OVER, f"step 1 of {stages(strategy)}, with copies alone, shows too little: {why}")


def _ramp_stands(look: Look) -> Seen | None:
    """The judge's own ramp goes on by itself (see `journey`), unless a gate in time holds it."""
    return None if shut(look) is None else Seen(Event.RAMPED, "the ramp would go on")


def _undecided_ramp(look: Look, waited_ms: float) -> Seen | None:
    """The judge's own ramp decides by itself when to grow; a person is asked only when it stands still too long."""
    if look.plan.undecided == "hold-on" or waited_ms >= look.plan.undecided_limit_ms:
        return _undecided(look, waited_ms, 0) if waited_ms >= look.plan.undecided_limit_ms else None
    return None


@_behind_gates
def _evidence_came(look: Look) -> Seen | None:
    if look.rollout.asking != "undecided" or not _proved(look):
        return None
    assert look.world.verdict is not None
    return Seen(Event.STEP_OVER, f"the evidence came: {look.world.verdict.reason}")


def _soaked(look: Look) -> Seen | None:
    """The end of the soak. Where it moves the users that were held back, gates in time hold it."""
    rollout = look.rollout
    if rollout.group is not None and rollout.mark >= groups.SOAKED:
        return _vote(look)
    seen = _soaked_long_enough(look)
    seen = seen if rollout.weight == FULL else _gated(look, seen)
    if rollout.group is None or seen is None or seen.event is not Event.SOAKED:
        return seen
    return _wait(look, seen, groups.SOAKED, groups.SOAKED)


def _vote(look: Look) -> Seen | None:
    """All have soaked: each gives its word that it does not go back by itself; once all have, each gives stable up."""
    rollout, mates = look.rollout, look.world.mates
    if rollout.mark >= groups.WORD:
        return Seen(Event.SOAKED, "its whole group has soaked without harm") if _all_gave_their_word(look) else None
    if not groups.reached(rollout, mates, groups.SOAKED):
        return None
    return Seen(Event.REACHED, "its whole group has soaked without harm: it stays", mark=groups.WORD)


def _soaked_long_enough(look: Look) -> Seen | None:
    rollout = look.rollout
    soak_ms = look.plan.soak_ms if look.environment.stable is not None and not rollout.hurried else 0
    if rollout.promoted_at is None or (look.now - rollout.promoted_at) * 1000 < soak_ms:
        return None
    if soak_ms == 0:
        return Seen(Event.SOAKED, "nothing to soak for")
    return Seen(Event.SOAKED, f"soaked for {format_duration(soak_ms)} without harm{_left(look)}")


def _returned(look: Look) -> Seen | None:
    if not served(look.environment, look.world, look.wanted):
        return None
    return Seen(Event.RETURNED, look.rollout.reason, look.rollout.remedy, look.rollout.log_tail)


RULES: Mapping[State, Sequence[Rule]] = {
    State.WAITING: (_group_returns, _quarantined, _gate_shut, _gate_open),
    State.PREPARING: (_group_returns, _prepared),
    State.LAUNCHING: (_blocked, _cannot_start, _group_returns, _ready),
    State.CHECKING: (_blocked, _cannot_start, _check_failed, _group_returns, _resumed, _checks_passed),
    State.SHIFTING: (_blocked, _harmful, _candidate_lost, _group_returns, _stable_broken, _shifted, _not_served),
    State.HOLDING: (
        *(_blocked, _harmful, _candidate_lost, _group_returns),
        *(_stable_broken, _resumed, _agreed, _hold),
    ),
    State.ASKING: (
        *(_blocked, _cannot_start, _harmful, _candidate_lost, _group_returns),
        *(_stable_broken, _resumed, _agreed, _evidence_came),
    ),
    State.SOAKING: (_harmful, _candidate_lost, _group_returns, _takes_over, _stable_broken, _resumed, _soaked),
    State.FINISHING: (_harmful, _candidate_lost, _shifted),
    State.RETURNING: (_returned,),
}


def classify(look: Look) -> Seen | None:
    """The most important event that the world shows for this rollout now, or None."""
    for rule in RULES.get(look.rollout.state, ()):
        seen = rule(look)
        if seen is not None:
            return seen
    return None
