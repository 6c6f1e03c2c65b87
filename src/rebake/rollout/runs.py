"""Scheduled jobs: which slots are run, by which fleet, and how each run ends. Pure.

A job has no instance between its runs. Rules:
- Each slot is decided on once, by its name: it is run, or left out, and the ledger says which and why. What is decided
  is remembered before anything is started.
- While two fleets share the runs, each slot is drawn by lot, with the candidate's share: so a run is dealt as a request
  is. The lot hangs on the rollout's id and the slot alone; a restart of the engine draws the same.
- A run is one instance, started once, ever. Exit code 0 is well; another one or a signal is a failure; one that takes
  longer than the schedule's timeout is told to finish, and failed. An end that nobody saw is neither.
- No run begins while another one is under way, unless the file allows it.
- After a time without an engine the latest slot is run late, or left out, as the file says; those before it are left
  out.
- A run of a fleet that loses its place is told to finish, like every instance (`decide`, leaving fleets).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rebake.core.clock import iso
from rebake.core.units import FULL, format_duration
from rebake.platforms.model import Instance, InstanceSpec
from rebake.rollout.actions import Launch, Retire
from rebake.rollout.draft import Draft
from rebake.rollout.fleets import CLEAN_EXIT, instance_spec
from rebake.rollout.plan import Plan
from rebake.rollout.schedule import following, latest
from rebake.rollout.shares import runs_share
from rebake.rollout.world import Environment, Failure, Fleet, Run, with_failure

SLOT_VARIABLE = "REBAKE_SLOT"
"""In the environment of a run: the time it was due, RFC 3339 in UTC."""
LATE_SECONDS = 30.0
"""A slot that is found this late was missed."""
LOST_SECONDS = 10.0
"""A run that is not seen for this long is not waited for any more."""
AHEAD_SECONDS = 86_400.0
"""A slot that was decided on and lies this far ahead is of a clock that was wrong: counting begins anew."""
KEPT = 20
"""Runs that are over and still remembered: for people, and for a judge that has not heard of them."""
_SEEN_ENDS = ("exit ", "killed by ", "could not run")
"""How the end of an instance is told whose exit code was seen."""
Outcome = Literal["done", "failed", "cut", "unknown"]


def tend(draft: Draft) -> None:
    """One look at the runs of an environment: follow those under way, and begin what is due."""
    plan = _governing(draft.environment)
    if plan is None and not draft.environment.runs:
        if draft.environment.slot is not None:
            draft.update(slot=None)  # what is scheduled after this begins to count anew
        return
    if draft.world.instances_known:
        known = {i.id: i for i in draft.world.instances}
        draft.update(runs=tuple(_followed(draft, run, known.get(run.instance)) for run in draft.environment.runs))
        _clear(draft)
    if plan is None:
        draft.update(slot=None)
    elif draft.world.instances_known:
        _begin_due(draft, plan)
    draft.update(runs=_kept(draft.environment.runs))


def _governing(environment: Environment) -> Plan | None:
    """Whose schedule counts: stable's; without one, that of a candidate which has a share of the runs."""
    stable, rollout = environment.stable, environment.rollout
    if stable is not None:
        return stable.plan if stable.plan.schedule is not None else None
    if rollout is not None and environment.candidate is not None and runs_share(environment):
        return rollout.plan if rollout.plan.schedule is not None else None
    return None


def _kept(runs: Sequence[Run]) -> tuple[Run, ...]:
    """All under way, and the latest that are over, in the order of their beginning."""
    over = [run.instance for run in runs if run.ended is not None][-KEPT:]
    return tuple(run for run in runs if run.ended is None or run.instance in over)


# Runs under way


def _followed(draft: Draft, run: Run, instance: Instance | None) -> Run:
    """What became of one run."""
    if run.ended is not None:
        return run
    if instance is None:
        return _missing(draft, run)
    if run.missing is not None or not run.seen:
        run = replace(run, seen=True, missing=None)
    if instance.state == "exited":
        return _ended(draft, run, instance.exit or "exit unknown")
    fleet = _fleet(draft.environment, run.fleet)
    limit = fleet.plan.schedule.timeout_ms if fleet is not None and fleet.plan.schedule is not None else None
    if limit is not None and draft.now - run.began >= limit / 1000:
        return _over(draft, run, "failed", f"it ran for longer than {format_duration(limit)}, and was told to finish")
    if limit is not None:
        draft.wake(run.began + limit / 1000)
    return run


def _missing(draft: Draft, run: Run) -> Run:
    """A run that is not in sight: asked for again until it was seen once, and given up after a while."""
    fleet = _fleet(draft.environment, run.fleet)
    since = run.began if not run.seen else draft.now if run.missing is None else run.missing
    if fleet is None:
        return _over(draft, run, "cut", "told to finish, and gone" if run.seen else "its fleet went before it began")
    if not 0 <= draft.now - since < LOST_SECONDS:
        why = "it was not seen again" if run.seen else "it could not be started"
        return _over(draft, run, "unknown", why)
    draft.wake(min(since + LOST_SECONDS, draft.now + 1.0))
    stable = draft.environment.stable
    if not run.seen and (runs_share(draft.environment) or (stable is not None and stable.id == fleet.id)):
        spec = _spec(fleet, int(run.instance.rpartition("-")[2]), run.slot)
        draft.actions.append(Launch(f"launch:{run.instance}", spec))
    return replace(run, missing=since) if run.seen and run.missing is None else run


def _ended(draft: Draft, run: Run, how: str) -> Run:
    if _fleet(draft.environment, run.fleet) is None:
        return _over(draft, run, "cut", f"told to finish: {how}")
    if how == CLEAN_EXIT:
        return _over(draft, run, "done", how)
    return _over(draft, run, "failed" if how.startswith(_SEEN_ENDS) else "unknown", how)


def _over(draft: Draft, run: Run, outcome: Outcome, why: str) -> Run:
    """A run ended: the ledger says how, and its fleet remembers failures in a row."""
    over = replace(run, ended=draft.now, outcome=outcome, why=why)
    took_ms = round(max(0.0, draft.now - run.began) * 1000)
    told = {"run": run.instance, "slot": iso(run.slot), "outcome": outcome, "why": why, "took_ms": took_ms}
    draft.note("note", told, run.fleet)
    for cohort in ("stable", "candidate"):
        fleet: Fleet | None = getattr(draft.environment, cohort)
        if fleet is None or fleet.id != run.fleet:
            continue
        if outcome == "failed":
            fleet = with_failure(fleet, Failure(run.instance, draft.now, f"run {run.instance} failed: {why}"))
        elif outcome == "done":
            fleet = replace(fleet, good_at=draft.now)
        draft.update(**{cohort: fleet})
    return over


def _clear(draft: Draft) -> None:
    """Instances of fleets in place whose run is over, or of which no run is known, are told to finish."""
    open_runs = {run.instance for run in draft.environment.runs if run.ended is None}
    for fleet in (draft.environment.stable, draft.environment.candidate):
        if fleet is None or fleet.plan.schedule is None:
            continue
        for instance in draft.world.of(fleet.id):
            if instance.id not in open_runs:
                grace = 0 if instance.state == "exited" else fleet.plan.run.drain_ms
                draft.actions.append(Retire(f"retire:{instance.id}", instance.id, grace, "its run is over"))
                draft.wake(draft.now + 0.5)


# Slots


def _begin_due(draft: Draft, plan: Plan) -> None:
    schedule, slot = plan.schedule, draft.environment.slot
    assert schedule is not None
    if slot is None or slot > draft.now + AHEAD_SECONDS:
        slot = draft.now
        draft.update(slot=slot)
    due = latest(schedule, draft.now)
    if due is not None and due > slot:
        draft.update(slot=due)
        before = latest(schedule, due - 0.001)
        if before is not None and before > slot:
            draft.note("note", {"slots": "missed", "after": iso(slot), "to": iso(before), "why": "nobody looked"})
        why = _why_not(draft, plan, due)
        if why is None:
            _begin(draft, due)
        else:
            draft.note("note", {"slot": iso(due), "left_out": why})
    coming = following(schedule, max(draft.now, draft.environment.slot or 0.0))
    if coming is not None:
        draft.wake(coming)


def _why_not(draft: Draft, plan: Plan, due: float) -> str | None:
    """Why this slot is left out; None when it is run."""
    schedule = plan.schedule
    assert schedule is not None
    late = draft.now - due
    if late >= LATE_SECONDS and schedule.missed == "skip":
        return f"it was found {late:.0f}s late"
    under_way = [run.instance for run in draft.environment.runs if run.ended is None]
    under_way += [i.id for i in draft.world.instances if i.state != "exited"]  # such as one that is told to finish
    if under_way and schedule.overlap == "skip":
        return f"{under_way[0]} still runs"
    return None


def _begin(draft: Draft, due: float) -> None:
    environment, rollout = draft.environment, draft.environment.rollout
    share = runs_share(environment)
    chosen = "candidate" if rollout is not None and drawn(rollout.id, due) < share else "stable"
    fleet: Fleet | None = getattr(environment, chosen)
    if fleet is None:
        draft.note("note", {"slot": iso(due), "left_out": "no fleet is in service"})
        return
    spec = _spec(fleet, fleet.next, due)
    run = Run(spec.id, due, fleet.id, rollout.id if rollout is not None else None, share, draft.now)
    draft.update(**{chosen: replace(fleet, next=fleet.next + 1), "runs": (*environment.runs, run)})
    draft.note("note", {"slot": iso(due), "run": run.instance, "fleet": chosen}, fleet.id)
    draft.actions.append(Launch(f"launch:{spec.id}", spec))
    draft.wake(draft.now + 1.0)


def _spec(fleet: Fleet, number: int, slot: float) -> InstanceSpec:
    """The instance of a run. It is told its slot: a run that is made up for, or late, works on the time it was due."""
    spec = instance_spec(fleet, number)
    return replace(spec, run=replace(spec.run, env={**spec.run.env, SLOT_VARIABLE: iso(slot)}))


def drawn(rollout: str, slot: float) -> int:
    """The lot of a slot in a rollout: 0 to 9999, each as likely. The candidate runs it where it is below its share.

    >>> all(0 <= drawn("r-1", 60.0 * n) < 10_000 for n in range(100))
    True
    """
    found = hashlib.sha256(f"{rollout}/{slot:.3f}".encode()).digest()
    return int.from_bytes(found[:8]) % FULL


def _fleet(environment: Environment, name: str) -> Fleet | None:
    """The job's fleet of this name; a fleet of anything else has no runs."""
    fleets = (f for f in (environment.stable, environment.candidate) if f is not None and f.plan.schedule is not None)
    return next((f for f in fleets if f.id == name), None)
