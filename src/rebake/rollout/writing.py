"""What an engine writes down: entries for people, and documents for itself and for other engines. Part of the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from rebake.core.codec import dump
from rebake.ledger.ports import Draft, EntryKind, Ledger, Put
from rebake.rollout.actions import Action, ApplyRoute, Decision, Launch, Prepare, Retire, RunCheck
from rebake.rollout.groups import going_back
from rebake.rollout.memory import Memory
from rebake.rollout.view import rollout_view
from rebake.rollout.world import Environment, Mate, Rollout, World

SAVE_JUDGE_SECONDS = 4.0
"""How often the judge's memory is kept while nothing else is written."""


def entry(environment: Environment, kind: str, rollout: str | None, body: Mapping[str, Any]) -> Draft:
    return Draft(cast(EntryKind, kind), environment.service, environment.environment, rollout, dict(body))


def entries_of(memory: Memory, decision: Decision) -> list[Draft]:
    """Why things change, and what is about to be done for the first time."""
    after = decision.environment
    entries = [entry(after, note.kind, note.rollout, note.body) for note in decision.notes]
    new = [action for action in decision.actions if action.id not in memory.attempts]
    return entries + [entry(after, "intent", under_way(after), intent(action)) for action in new]


def puts_of(ledger: Ledger, memory: Memory, world: World, decision: Decision, now: float) -> list[Put]:
    """Documents that change with a decision; that of the environment is not among them."""
    key = memory.environment.key
    environment = decision.environment
    puts = [Put("command", f"{key}/{c.id}", None) for c in world.commands]
    puts += [Put("refusal", f"{key}/{command}", {"reason": reason}) for command, reason in decision.refused.items()]
    for revision, reason in decision.quarantine.items():
        release = _release_of(memory, environment, revision)
        doc = {"service": environment.service, "environment": environment.environment, "revision": revision}
        puts.append(Put("quarantine", f"{key}/{revision}", {**doc, "release": release, "reason": reason, "at": now}))
    name = f"{environment.service}/{environment.environment}"
    puts += [Put("success", f"{name}/{release}", {"at": now}) for release in decision.succeeded]
    puts += [Put("success", f"{name}/{release}", None) for release in decision.withdrawn]
    puts += _rollout_puts(ledger, memory, world, decision, now)
    return puts + _group_puts(memory.environment, decision)


def _release_of(memory: Memory, environment: Environment, revision: str) -> str | None:
    fleets = (environment.stable, environment.candidate, memory.environment.candidate, memory.environment.stable)
    known = [f.revision for f in fleets if f is not None]
    known += [r.revision for r in (environment.rollout, memory.environment.rollout) if r is not None]
    return next((r.release for r in known if r.digest == revision), None)


def _rollout_puts(ledger: Ledger, memory: Memory, world: World, decision: Decision, now: float) -> list[Put]:
    """Keep the views of rollouts that end or changed state, and the judge's memory."""
    environment, judging = decision.environment, memory.judging
    puts = []
    for ended in decision.ended:
        view = rollout_view(memory.environment, world, ended, judging, now)
        puts.append(Put("rollout", f"{environment.key}/{ended.id}", view))
        puts.append(Put("last", environment.key, view))
        puts.append(Put("judging", ended.id, None))
        if judging is not None and judging.rollout == ended.id:
            puts += [*judging.tape(ended.state), *judging.end_tape(ledger)]
    rollout = environment.rollout
    if rollout is None:
        return puts
    moved = rollout.state is not (memory.environment.rollout.state if memory.environment.rollout else None)
    if moved:
        view = rollout_view(environment, world, rollout, judging, now)
        puts.append(Put("rollout", f"{environment.key}/{rollout.id}", view))
    mine = judging is not None and judging.rollout == rollout.id  # never the evidence against the one before it
    if judging is not None and mine and (moved or not 0 <= now - memory.judging_saved_at < SAVE_JUDGE_SECONDS):
        memory.judging_saved_at = now
        puts += judging.tape(rollout.state if moved else None)
        state = judging.state()
        puts += [Put("judging", rollout.id, state)] if state is not None else []
        memory.recording.kept = judging.cursor
    return puts


def _group_puts(before: Environment, decision: Decision) -> list[Put]:
    """What members of groups reached in this look, for the engines of the others."""
    known = {r.id: r for r in (before.rollout, *before.queue) if r is not None}
    puts = []
    for rollout in (*decision.ended, decision.environment.rollout):
        if rollout is None or rollout.group is None:
            continue
        mate, was = _mate(rollout), known.get(rollout.id)
        if was is None or rollout.over or _mate(was) != mate:
            puts.append(Put("reached", f"{rollout.group.id}/{rollout.group.me:03}", dump(mate)))
    return puts


def _mate(rollout: Rollout) -> Mate:
    assert rollout.group is not None
    return Mate(rollout.group.me, rollout.mark, going_back(rollout))


def mates_of(decision: Decision, key: str) -> Sequence[str]:
    """The environments of the group that a written mark belongs to."""
    rollouts = (*decision.ended, decision.environment.rollout)
    found = (r.group for r in rollouts if r is not None and r.group is not None)
    return next((group.members for group in found if key.startswith(f"{group.id}/")), ())


def under_way(environment: Environment) -> str | None:
    """The rollout under way, by name."""
    return environment.rollout.id if environment.rollout is not None else None


def intent(action: Action) -> dict[str, Any]:
    """What the ledger says of an intended action: whole enough to be understood without the code."""
    body: dict[str, Any] = {"action": action.id, "do": type(action).__name__}
    if isinstance(action, Launch):
        body |= {"instance": action.spec.id, "revision": action.spec.revision, "release": action.spec.release}
    elif isinstance(action, Retire):
        body |= {"instance": action.instance, "why": action.why, "grace_ms": action.grace_ms}
    elif isinstance(action, ApplyRoute):
        body |= {
            "listen": action.route.listen,
            "weights": {f.fleet: f.weight_basis_points for f in action.route.fleets},
            "endpoints": {f.fleet: [e.instance for e in f.endpoints] for f in action.route.fleets},
        }
    elif isinstance(action, Prepare):
        body |= {"release": action.release}
    elif isinstance(action, RunCheck):
        body |= {"check": action.check.name, "urls": list(action.urls)}
    return body
