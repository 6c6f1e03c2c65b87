"""Where people's requests come in: the API and the command line call the same methods here.

Implements the server's `Application` port over the engine's ports; it names no adapter. A request is written down as a
command in the ledger, decided on by the next tick, and answered with a view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError

from rebake.app.addresses import addresses, told
from rebake.app.afar import refuse_of_this_machine
from rebake.app.answers import Changes
from rebake.app.asking import Asked
from rebake.app.freezes import Freezes
from rebake.app.platforms import refuse_base
from rebake.app.pod_shares import refuse_shares
from rebake.app.secret_values import Vault, secret_versions
from rebake.core.codec import dump, load
from rebake.core.digest import short
from rebake.core.ids import timed_id
from rebake.errors import Refused, Transient, UsageError
from rebake.ledger.ports import Draft, Put
from rebake.release.manifest import Release, Revision, Settings, contract_in
from rebake.rollout.commands import passed_over, undo_target
from rebake.rollout.engine import Engine
from rebake.rollout.places import is_vacant, plans_of, platform_of
from rebake.rollout.plan import Plan
from rebake.rollout.states import State
from rebake.rollout.view import Doc, rollout_view
from rebake.rollout.world import Command, Environment, Fleet, Rollout, World

UNDO_SECONDS = 15.0
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks of one environment."""

    key: str
    verb: Any
    by: str
    rollout: Rollout | None = None
    rollout_id: str | None = None
    plan: Plan | None = None


class ReleaseSource(Protocol):
    """Where releases are found. See `rebake.app.releases.Releases`."""

    def release(self, digest: str, /) -> Release: ...

    def fetch(self, digest: str, repository: str, at: float, /) -> None: ...


class Desk(Freezes):
    """See `rebake.server.ports.Application` for every method's contract."""

    def __init__(
        self,
        engine: Engine,
        changes: Changes,
        releases: ReleaseSource,
        vault: Vault,
        wake: Callable[[str], None],
    ) -> None:
        super().__init__(engine, changes, wake)
        self._releases = releases
        self._vault = vault

    # Requests

    def begin(self, doc: Mapping[str, Any]) -> Doc:
        asked = self._asked(doc, "r")
        kept = asked.kept or self._begin(asked, doc)
        return self._begun(str(kept["key"]), str(kept["rollout"]))

    def _begin(self, asked: Asked, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        rollout = self.prepare({**doc, "id": asked.name})
        key = f"{rollout.plan.service}/{rollout.plan.environment}"
        environment, memo = self._engine.environment(key), {"key": key, "rollout": rollout.id}
        if not doc.get("again"):
            under_way = self._joined(environment, rollout.revision)
            if under_way is not None:
                return self._write_down(asked, {"key": key, "rollout": under_way}, [])
            if self.serves_already(rollout) and environment.stable is not None:
                return self._already_stable(asked, key, environment.stable, rollout)
        return self.request(asked, memo, [Request(key, "begin", rollout.requested_by, rollout=rollout)])

    def _begun(self, key: str, rollout: str) -> Doc:
        view: Doc = self._until(lambda: self._engine.rollout_view(key, rollout), STOP_SECONDS, key)
        return view

    def prepare(self, doc: Mapping[str, Any]) -> Rollout:
        """The rollout that a request asks for, checked, in an environment that is here; nothing is asked for yet."""
        plan = self._plan_of(doc)
        refuse_of_this_machine(doc, plan)
        if doc.get("repository"):
            self._releases.fetch(str(doc["release"]), str(doc["repository"]), self._clock.now())
        release = self._releases.release(str(doc["release"]))
        if release.service != plan.service:
            raise UsageError(
                "release-of-another-service",
                f"expected a release of {plan.service}, found one of {release.service}",
                where=release.digest,
                remedy=f"rebake history {plan.environment}",
            )
        self._refuse_shared_address(plan)
        refuse_base(plan.platform, release)
        self._refuse_another_platform(plan)
        self._refuse_another_kind(plan)
        settings = Settings(dict(doc.get("env") or {}), secret_versions(doc, self._vault))
        plan = replace(plan, run=contract_in(release.run, settings))
        key = f"{plan.service}/{plan.environment}"
        self._until(lambda: self._engine.settle(key, plan.platform), STOP_SECONDS, key)
        rollout = Rollout(
            id=str(doc.get("id") or timed_id("r", self._clock.now())),
            kind="deploy",
            revision=Revision(plan.service, plan.environment, release.digest, settings),
            plan=plan,
            requested_by=str(doc.get("requested_by") or "unknown"),
            requested_at=self._clock.now(),
        )
        if not self.serves_already(rollout):
            refuse_shares(plan, self._engine.environment(key).stable)
        return rollout

    def serves_already(self, rollout: Rollout) -> bool:
        """Whether its revision serves, and nothing is under way."""
        environment = self._engine.environment(f"{rollout.plan.service}/{rollout.plan.environment}")
        stable = environment.stable if environment.rollout is None else None
        return stable is not None and stable.revision.digest == rollout.revision.digest

    def _plan_of(self, doc: Mapping[str, Any]) -> Plan:
        try:
            plan = load(Plan, doc["plan"])
        except (KeyError, ValidationError) as error:
            raise UsageError(
                "plan-not-understood",
                f"the agent does not understand this plan: {error}",
                remedy="the command line and the agent must be of one version: rebake agent stop, then try again",
            ) from error
        if plan.platform not in self._engine.ports.platforms:
            known = ", ".join(sorted(self._engine.ports.platforms))
            raise UsageError(
                "platform-not-available", f"expected one of {known}, found {plan.platform}", where="platform"
            )
        return plan

    def _refuse_another_platform(self, plan: Plan) -> None:
        """A fleet and its successor stand side by side; each platform sees its own instances only."""
        key = f"{plan.service}/{plan.environment}"
        environment = self._engine.environment(key)
        before = platform_of(environment)
        if not is_vacant(environment) and before != plan.platform:
            raise UsageError(
                "platform-changed",
                f"{key} runs on platform {before}, and the file now says {plan.platform}",
                where=f"environments.{plan.environment}.platform",
                remedy=f"deploy to another environment, or take this one down: rebake down {plan.environment}",
            )

    def _refuse_shared_address(self, plan: Plan) -> None:
        key, ours = f"{plan.service}/{plan.environment}", addresses(plan)
        for other in self._engine.known():
            environment = self._engine.environment(other)
            stable = environment.stable if self._engine.elsewhere(environment) is None else None
            shared = addresses(stable.plan) & ours if stable is not None and other != key else None
            if shared:
                raise UsageError(
                    "address-taken",
                    f"{told(min(shared, key=str))} is where {other} listens already",
                    where=f"environments.{plan.environment}",
                    remedy="choose another address in rebake.yaml, or take the other down: rebake down",
                )

    def _refuse_another_kind(self, plan: Plan) -> None:
        """A worker cannot take the place of what users call, step by step, nor of a job, nor the other way round."""
        environment = self._engine.environment(f"{plan.service}/{plan.environment}")
        before = next((other.kind for other in plans_of(environment) if other.kind != plan.kind), None)
        if before is not None:
            kinds = {"worker": "a worker", "http": "a service with a route", "job": "a scheduled job"}
            raise UsageError(
                "kind-changed",
                f"expected {kinds[before]} as before, found {kinds[plan.kind]}",
                where=f"environments.{plan.environment}",
                remedy=f"name another environment in rebake.yaml, or first: rebake down {plan.environment}",
            )

    @staticmethod
    def _joined(environment: Environment, revision: Revision) -> str | None:
        """A request for what is under way joins it, instead of superseding it with itself."""
        under_way = [r for r in (environment.rollout, *environment.queue) if r is not None]
        for rollout in under_way:
            if rollout.revision.digest == revision.digest and rollout.state is not State.RETURNING:
                return rollout.id
        return None

    def _already_stable(self, name: Asked, key: str, stable: Fleet, asked: Rollout) -> Mapping[str, Any]:
        """The same revision serves already: only how many instances and where they are reached may change."""
        plan, by, now = asked.plan, asked.requested_by, self._clock.now()
        changed = stable.plan != plan
        reason = "this revision serves already"
        if changed and stable.plan.instances != plan.instances:
            reason += f"; instances {stable.plan.instances} to {plan.instances}"
        rollout = Rollout(
            id=asked.id,
            kind="deploy",
            revision=stable.revision,
            plan=plan,
            requested_by=by,
            requested_at=now,
            state=State.PROMOTED,
            reason=reason,
            promoted_at=now,
            ended_at=now,
        )
        view = rollout_view(self._engine.environment(key), World(), rollout, None, now)
        body = {"from": None, "to": rollout.state, "reason": reason, "kind": "deploy"}
        entry = Draft("transition", plan.service, plan.environment, rollout.id, body)
        resized = [Request(key, "resize", by, plan=plan)] if changed else []
        puts = [Put("rollout", f"{key}/{rollout.id}", view)]
        return self.request(name, {"key": key, "rollout": rollout.id}, resized, puts, [entry])

    def undo(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        key, asked = self._known(service, environment), self._asked(doc)
        kept = asked.kept or self._undo(asked, key, doc)
        view: Doc = dict(kept["view"])
        if doc.get("dry_run"):
            return view
        self._take_up(kept, UNDO_SECONDS)
        if view["warm"]:
            gone = str(view["rollout"])
            self._until(lambda: self._over(key, gone), UNDO_SECONDS, key)
        return {**view, "seconds": round(self._clock.now() - kept["at"], 3)}

    def _undo(self, asked: Asked, key: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for an undo, and say what it will come to."""
        before = self._engine.environment(key)
        service, _, environment = key.partition("/")
        restored, undone, warm, over = self._undo_plan(key, before)
        view = {
            "service": service,
            "environment": environment,
            "restored": restored.revision.digest,
            "release": restored.revision.release,
            "undone": None if undone is None else undone.digest,
            "warm": warm,
            "rollout": None if before.rollout is None else before.rollout.id,
            "changes": _changes(undone, restored.revision),
            "passed_over": list(over),
            "expected_seconds": None if warm else restored.start_seconds,
            "seconds": 0.0,
        }
        if doc.get("dry_run"):
            return {"view": view}
        rollout_id = timed_id("r", self._clock.now())
        by = str(doc.get("requested_by") or "unknown")
        view["rollout"] = view["rollout"] if warm else rollout_id
        return self.request(asked, {"view": view}, [Request(key, "undo", by, rollout_id=rollout_id)])

    def _undo_plan(self, key: str, environment: Environment) -> tuple[Fleet, Revision | None, bool, tuple[str, ...]]:
        """What undo restores, what it takes out of service, whether the restored fleet still runs, and the revisions
        in quarantine that it passes over."""
        rollout, stable = environment.rollout, environment.stable
        if rollout is not None and stable is not None:
            return stable, rollout.revision, True, ()
        quarantined = frozenset(str(d["revision"]) for _, d in self._ledger.list("quarantine", f"{key}/"))
        target = undo_target(environment, quarantined)
        if target is None:
            raise Refused(
                "nothing-to-undo",
                "expected an earlier revision that is not in quarantine, found none",
                where=key,
                remedy=f"rebake history {environment.environment}; rebake quarantine",
            )
        serving = None if stable is None else stable.revision
        return target, serving, False, passed_over(environment, quarantined)

    def stop(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        key = self._known(service, environment)
        before = self._engine.environment(key).rollout
        kept = self._obeyed(key, "stop", doc, {"stopped": None if before is None else before.id})
        if kept["stopped"] is not None:
            self._until(lambda: self._over(key, str(kept["stopped"])), STOP_SECONDS, key)
        return self._engine.view(key)

    def approve(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        key = self._known(service, environment)
        self._obeyed(key, "approve", doc, {})
        return self._engine.view(key)

    def down(self, service: str, environment: str, doc: Mapping[str, Any]) -> Doc:
        key = self._known(service, environment)
        self._obeyed(key, "down", doc, {})
        self._until(lambda: self._empty(key), STOP_SECONDS, key)
        return self._engine.view(key)

    def _obeyed(self, key: str, verb: Any, doc: Mapping[str, Any], memo: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for something, unless it was asked for before, and wait until an engine took it up."""
        asked, by = self._asked(doc), str(doc.get("requested_by") or "unknown")
        kept = asked.kept or self.request(asked, memo, [Request(key, verb, by)])
        self._take_up(kept, STOP_SECONDS)
        return kept

    def _take_up(self, kept: Mapping[str, Any], seconds: float) -> None:
        """Wait until an engine took up all that was asked for."""
        for key, command in kept["commands"].items():
            self._until(partial(self._decided, key, command), seconds, key)

    def _empty(self, key: str) -> bool:
        memory = self._engine.memory(key)
        return not memory.environment.leaving and not memory.world.instances and memory.world.route is None

    def _over(self, key: str, rollout: str) -> bool:
        environment = self._engine.environment(key)
        return environment.rollout is None or environment.rollout.id != rollout

    def quarantine_release(self, doc: Mapping[str, Any]) -> Doc:
        asked = self._asked(doc)
        if asked.kept is not None:
            return self.quarantine()
        prefix = str(doc["revision"]).removeprefix("sha256:")
        rows = [
            (key, row)
            for key, row in self._ledger.list("quarantine")
            if str(row["revision"]).removeprefix("sha256:").startswith(prefix)
            and doc.get("service") in (None, row["service"])
            and doc.get("environment") in (None, row["environment"])
        ]
        if not rows:
            raise UsageError(
                "unknown-revision", f"no revision in quarantine begins with {prefix}", remedy="rebake quarantine"
            )
        entries = [
            Draft(
                "decision",
                str(row["service"]),
                str(row["environment"]),
                None,
                {"released-from-quarantine": row["revision"], "by": str(doc.get("requested_by") or "unknown")},
            )
            for _, row in rows
        ]
        self._write_down(asked, {}, entries, [Put("quarantine", key, None) for key, _ in rows])
        return self.quarantine()

    def request(
        self,
        asked: Asked,
        memo: Mapping[str, Any],
        requests: Sequence[Request],
        puts: Sequence[Put] = (),
        notes: Sequence[Draft] = (),
    ) -> Mapping[str, Any]:
        """Write requests down, all of them or none, and wake the engine. Returns what is kept under their name.

        Args:
            memo: what the answer needs.
            notes: what else is written down with them.
        """
        now, entries, written, commands = self._clock.now(), list(notes), list(puts), {}
        for one in requests:
            command = Command(timed_id("c", now), one.verb, one.by, now, one.rollout, one.rollout_id, one.plan)
            service, _, name = one.key.partition("/")
            body: dict[str, Any] = {"request": command.id, "verb": one.verb, "by": one.by}
            written.append(Put("command", f"{one.key}/{command.id}", dump(command)))
            rollout = one.rollout
            if rollout is not None:
                revision = rollout.revision
                body |= {"rollout": rollout.id, "revision": revision.digest, "release": revision.release}
                body |= {"group": rollout.group.id} if rollout.group is not None else {}
                written.append(Put("revision", revision.digest, dump(revision)))
            entries.append(Draft("request", service, name, rollout.id if rollout else one.rollout_id, body))
            commands[one.key] = command.id
        kept = self._write_down(asked, memo, entries, written, commands)
        for one in requests:
            self._wake(one.key)
        return kept

    def _decided(self, key: str, command: str) -> bool:
        """Whether the engine took the command up. Raises: Refused when it could not be granted."""
        refusal = self._ledger.get("refusal", f"{key}/{command}")
        if refusal is not None:
            environment = key.partition("/")[2]
            raise Refused("not-now", str(refusal["reason"]), where=key, remedy=f"rebake status {environment}")
        return self._ledger.get("command", f"{key}/{command}") is None

    def _until(self, condition: Callable[[], Any], seconds: float, key: str) -> Any:
        """Wait for a condition that the engine brings about. Raises: Transient when it takes too long."""
        deadline, since = self._clock.now() + seconds, 0
        while not (result := condition()):
            if self._clock.now() > deadline:
                raise Transient(
                    "not-done-yet",
                    f"asked for, written down, but not done within {seconds:g}s; the agent goes on with it",
                    where=key,
                    remedy=f"rebake status {key.partition('/')[2]}; rebake doctor",
                )
            since = self._changes.wait(since, 0.25)
        return result


def _changes(undone: Revision | None, restored: Revision) -> list[str]:
    """What going back changes besides the code, as sentences."""
    if undone is None:
        return []
    found = []
    if undone.release != restored.release:
        found.append(f"release {short(undone.release)} to {short(restored.release)}")
    before, after = undone.settings.env, restored.settings.env
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            found.append(f"env {name}: {before.get(name, 'unset')} to {after.get(name, 'unset')}")
    ours, theirs = undone.settings.secrets, restored.settings.secrets
    found += [
        f"secret {name}: its earlier version"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    return found
