"""What can be asked without changing anything: the reading half of the desk.

Answers come from the ledger and the engine's latest look; nothing here is remembered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from rebake.app.afar import refuse_commands
from rebake.app.keeper import kept_things
from rebake.app.metric_answers import answers, rules_in
from rebake.core.clock import Clock, iso
from rebake.errors import UsageError
from rebake.judge.course import Course, course_of, explanation
from rebake.judge.picture import picture
from rebake.judge.tape import entries_of
from rebake.ledger.ports import Entry, Ledger, unheard
from rebake.platforms.ports import Platform
from rebake.rollout.engine import Engine
from rebake.rollout.places import is_vacant, refusal
from rebake.rollout.plan import Plan
from rebake.rollout.taping import read_tape
from rebake.rollout.view import Doc
from rebake.traffic.ports import TrafficRouter

MOST_ROLLOUTS = 10_000
"""In one answer."""
MOST_MOVES = 5000
FIRST_LOOK_SECONDS = 5.0
"""So long after its start views wait for the agent's first look: before that it knows no instances. Later nobody waits:
what it has not looked at by then is another home's, or another engine's."""
_TOLD_BY_WEIGHTS = frozenset({"ramped", "shifted"})
_BEFORE_USERS = frozenset({"waiting", "preparing", "launching", "checking"})


class Changes:
    """A count of changes that threads can wait on."""

    def __init__(self) -> None:
        self._count = 1
        self._changed = threading.Condition()

    def add(self, _key: str = "") -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, since: int, timeout_seconds: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._count != since, timeout_seconds)
            return self._count


class Answers:
    """See `rebake.server.ports.Application` for every method's contract."""

    def __init__(self, engine: Engine, changes: Changes, wake: Callable[[str], None]) -> None:
        self._engine = engine
        self._changes = changes
        self._wake = wake
        self._began = time.monotonic()

    @property
    def _ledger(self) -> Ledger:
        return self._engine.ports.ledger

    @property
    def _clock(self) -> Clock:
        return self._engine.ports.clock

    def changes(self, since: int, timeout_seconds: float) -> int:
        return self._changes.wait(since, timeout_seconds)

    def plan_of(self, key: str) -> Plan | None:
        """The plan under way, else the one in service."""
        environment = self._engine.environment(key)
        held = environment.rollout or environment.stable
        return held.plan if held is not None else None

    def serves(self, router: TrafficRouter) -> bool:
        """Whether any environment behind this route has, or is about to have, something to serve, and may be led
        here."""
        known = [self._engine.environment(key) for key in self._engine.known()]
        known = [e for e in known if self._engine.elsewhere(e) is None and self._engine.ports.router_of(e) is router]
        return not all(is_vacant(environment) for environment in known)

    def _known(self, service: str, environment: str) -> str:
        key = f"{service}/{environment}"
        if self._ledger.get("environment", key) is None:
            known = self._engine.known()
            near = get_close_matches(key, known, 1)
            meant = f"did you mean {near[0].partition('/')[2]}? Else: " if near else ""
            raise UsageError(
                "unknown-environment",
                f"nothing was deployed to {environment} of {service}; known: {', '.join(known) or 'none yet'}",
                where=key,
                remedy=f"{meant}rebake deploy {environment}",
            )
        return key

    def _here(self, service: str, environment: str) -> str:
        """As `_known`, for what can be seen only where it runs. Raises: UsageError `environment-elsewhere`."""
        key = self._known(service, environment)
        remembered = self._engine.environment(key)
        place = self._engine.elsewhere(remembered)
        if place is not None:
            raise refusal(remembered, place)
        return key

    def rollout(self, rollout: str) -> Doc:
        for entry in self._ledger.entries(rollout=rollout, limit=1):
            view = self._engine.rollout_view(f"{entry.service}/{entry.environment}", rollout)
            if view is not None:
                return view
        raise UsageError("unknown-rollout", f"no rollout is called {rollout}", remedy="rebake history")

    def tape(self, rollout: str) -> Doc:
        """What `GET /v1/rollouts/ID/tape` answers. Raises: UsageError `no-tape`, `unknown-rollout`."""
        view = self.rollout(rollout)
        tape = read_tape(self._ledger, f"{view['service']}/{view['environment']}", rollout)
        if tape is None:
            raise UsageError(
                "no-tape",
                f"what the judge was fed in rollout {rollout} is not kept: nothing was judged, it was let go for newer "
                "ones, or it began under an earlier version",
                where=rollout,
                remedy=f"rebake history {view['environment']} shows newer ones",
            )
        return {**tape, "view": view}

    def explain(self, rollout: str) -> Doc:
        view = self.rollout(rollout)
        tape = read_tape(self._ledger, f"{view['service']}/{view['environment']}", rollout)
        needed = float(view["verdict"]["needed"]) if view.get("verdict") else 100.0
        course = Course([], []) if tape is None else course_of(entries_of(tape["parts"]), needed=needed)
        return explanation(view, tape, course, self._moves(rollout))

    def explain_picture(self, rollout: str) -> str:
        return picture(self.explain(rollout))

    def _moves(self, rollout: str) -> list[tuple[float, str]]:
        """The rollout's transitions once users met the candidate. Those of a ramp that merely goes on are told by the
        weights; a reason is told once."""
        entries = self._ledger.entries(rollout=rollout, kinds=("transition",), limit=MOST_MOVES)
        moves: list[tuple[float, str]] = []
        before = None
        for entry in entries:
            state, reason = str(entry.body["to"]), entry.body.get("reason")
            if entry.body.get("event") not in _TOLD_BY_WEIGHTS and state not in _BEFORE_USERS:
                moves.append((entry.at_ms / 1000, state if reason in (None, before) else f"{state}: {reason}"))
                before = reason
        return moves

    def status(self) -> Doc:
        known = self._engine.known()
        self._await_first_look(known)
        return {"environments": [self._engine.view(key) for key in known]}

    def environment(self, service: str, environment: str) -> Doc:
        key = self._known(service, environment)
        self._await_first_look([key])
        return self._engine.view(key)

    def _await_first_look(self, keys: Sequence[str]) -> None:
        """Wait until each of them was looked at since this agent began, if it only just did."""
        deadline, count = self._began + FIRST_LOOK_SECONDS, 0
        while not all(map(self._engine.seen, keys)) and (left := deadline - time.monotonic()) > 0:
            count = self._changes.wait(count, left)

    def drift(self, service: str, environment: str) -> Doc:
        key = self._here(service, environment)
        memory = self._engine.memory(key)
        platform = self._engine.ports.platform_of(memory.environment)
        instances = () if platform is None else platform.inspect(service, environment)
        found = [(i.id, d) for i in instances for d in i.drift]
        route = self._engine.route_drift(key)
        found += [("route", route)] if route is not None else []
        rows = [
            {"instance": name, "kind": d.kind, "where": d.where, "expected": d.expected, "found": d.found}
            for name, d in found
        ]
        if rows:
            self._wake(key)
        return {"service": service, "environment": environment, "drift": rows, "checked": len(instances)}

    def metrics(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        memory = self._engine.memory(self._here(service, environment))
        rules = rules_in(doc)
        if rules is None:
            plan = self.plan_of(f"{service}/{environment}")
            rules = () if plan is None else plan.judge.metrics
        else:
            refuse_commands(doc, rules)
        rows = answers(self._engine.ports, memory, rules)
        return {"service": service, "environment": environment, "metrics": rows}

    def logs(self, service: str, environment: str, *, instance: str | None, lines: int) -> Doc:
        key = self._here(service, environment)
        memory = self._engine.memory(key)
        platform = self._engine.ports.platform_of(memory.environment)
        asked = (platform,) if platform is not None else tuple(self._engine.ports.platforms.values())
        known = {i.id: i.fleet for i in memory.world.instances}
        wanted = [name for name in known if instance is None or name.startswith(instance)]
        if not wanted and instance is not None:
            wanted = [instance]  # retired: its log may still be kept
        rows = [
            {"instance": name, "fleet": known.get(name, ""), "lines": _first_lines(asked, name, lines)}
            for name in sorted(wanted)
        ]
        if instance is not None and not any(row["lines"] for row in rows) and instance not in known:
            raise UsageError(
                "unknown-instance",
                f"no instance and no kept log is called {instance}",
                where=key,
                remedy=f"known: {', '.join(sorted(known)) or 'none'}",
            )
        return {"logs": rows}

    def history(self, service: str, environment: str, *, limit: int) -> Doc:
        key = self._known(service, environment)
        kept = [dict(doc) for _, doc in self._ledger.newest("rollout", f"{key}/", limit or MOST_ROLLOUTS)]
        live = self._engine.environment(key).rollout
        views = {str(view["rollout"]): view for view in kept}
        if live is not None:
            view = self._engine.rollout_view(key, live.id)
            if view is not None:
                views[live.id] = view
        newest = [views[name] for name in sorted(views, reverse=True)]
        return {"history": newest[:limit] if limit else newest}

    def ledger(
        self, *, after: int, limit: int, service: str | None, environment: str | None, rollout: str | None
    ) -> Doc:
        seq, head = self._ledger.head()
        entries: Sequence[Entry] = ()
        if limit:
            entries = self._ledger.entries(
                service=service, environment=environment, rollout=rollout, after=after, limit=limit
            )
        return {"entries": [_entry(e) for e in entries], "head": {"seq": seq, "hash": head}}

    def verify(self, *, expect_head: str | None, progress: Callable[[int], None] = unheard) -> Doc:
        found = self._ledger.verify(expect_head=expect_head, progress=progress)
        return {
            "entries": found.entries,
            "head": found.head,
            "faults": [{"seq": f.seq, "problem": f.problem} for f in found.faults],
        }

    def leases(self) -> Doc:
        held = self._ledger.held(at=self._clock.now())
        rows = [{**asdict(lease), "since": iso(lease.since), "until": iso(lease.until)} for lease in held]
        return {"leases": [{"environment": row.pop("key"), **row} for row in rows]}

    def quarantine(self) -> Doc:
        rows = [dict(doc) for _, doc in self._ledger.list("quarantine")]
        return {"quarantine": [{**row, "at": iso(row["at"])} for row in rows]}

    def revision(self, prefix: str, *, service: str | None) -> Doc:
        digits = prefix.removeprefix("sha256:")
        found = {
            digest: doc
            for digest, doc in self._ledger.list("revision", f"sha256:{digits}")
            if service in (None, doc["service"])
        }
        if len(found) != 1:
            what = "no revision begins" if not found else f"{len(found)} revisions begin"
            raise UsageError("unknown-revision", f"{what} with {prefix}", remedy="rebake history shows them whole")
        digest, doc = next(iter(found.items()))
        return {**doc, "digest": digest}

    def kept(self) -> Doc:
        return kept_things([self._engine.environment(key) for key in self._engine.known()])


def _first_lines(platforms: Sequence[Platform], instance: str, lines: int) -> list[str]:
    """Of the first platform that knows the instance: one that is retired may have been on any."""
    return next((found for one in platforms if (found := list(one.logs(instance, lines)))), [])


def _entry(entry: Entry) -> Doc:
    return {
        "seq": entry.seq,
        "at_ms": entry.at_ms,
        "kind": entry.kind,
        "service": entry.service,
        "environment": entry.environment,
        "rollout": entry.rollout,
        "body": dict(entry.body),
        "previous": entry.previous,
        "hash": entry.hash,
    }
