"""Release groups: asked for, stopped, undone and looked at as one. Each request to all members is one transaction.

The group's document names its members' rollouts; how they stand is in their own documents, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rebake.app.asking import Asked
from rebake.app.desk import STOP_SECONDS, Desk, Request
from rebake.core.clock import iso
from rebake.core.ids import timed_id
from rebake.errors import Refused, UsageError
from rebake.ledger.ports import Put
from rebake.rollout.states import EXIT_CODES, State
from rebake.rollout.view import Doc
from rebake.rollout.world import Membership, Rollout

_WORST = (State.ROLLED_BACK, State.FAILED, State.REFUSED, State.STOPPED)
"""Where several members went back by themselves: what the group's outcome is named after."""


class GroupDesk(Desk):
    """See `rebake.server.ports.Application` for every method's contract."""

    def begin_group(self, doc: Mapping[str, Any]) -> Doc:
        named = self._asked(doc)
        kept = named.kept or self._begin_group(named, doc)
        group = self._kept(str(kept["group"]))
        for member in group["members"]:
            key = str(member["key"])
            self._until(partial(self._engine.rollout_view, key, str(member["rollout"])), STOP_SECONDS, key)
        return self._view(group)

    def _begin_group(self, named: Asked, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        by, now = str(doc.get("requested_by") or "unknown"), self._clock.now()
        asked = [
            self.prepare({**member, "requested_by": by, "from_afar": doc.get("from_afar")}) for member in doc["members"]
        ]
        rollouts = [r for r in asked if not self.serves_already(r) or doc.get("again")]
        keys = [_key(r) for r in rollouts]
        if len(set(keys)) < len(keys):
            raise UsageError(
                "member-twice", f"expected each environment once, found {', '.join(keys)}", where="members"
            )
        name, order, group = str(doc["group"]), doc.get("order", "lockstep"), timed_id("g", now)
        rollouts = [
            replace(r, id=f"{r.id}-{n}", group=Membership(group, name, order, tuple(keys), n))
            for n, r in enumerate(rollouts)
        ]
        kept = {"id": group, "group": name, "order": order, "by": by, "at": now}
        kept |= {"members": [{"key": _key(r), "rollout": r.id} for r in rollouts], "serving": _serving(asked, rollouts)}
        begun = [Request(_key(r), "begin", by, rollout=r) for r in rollouts]
        return self.request(named, {"group": group}, begun, [Put("group", group, kept)])

    def group(self, name: str) -> Doc:
        return self._view(self._kept(name))

    def stop_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        group, by, asked = self._kept(name), str(doc.get("requested_by") or "unknown"), self._asked(doc)
        kept = asked.kept
        if kept is None:
            going = [m for m in group["members"] if self._under_way(m)]
            stops = [Request(str(m["key"]), "stop", by) for m in going]
            kept = self.request(asked, {"going": going}, stops, [Put("group", str(group["id"]), group)])
        for member in kept["going"]:
            self._until(partial(self._over_now, member), STOP_SECONDS, str(member["key"]))
        return self._view(group)

    def undo_group(self, name: str, doc: Mapping[str, Any]) -> Doc:
        """Every member goes back: those under way to their stable, those that were promoted to what was before."""
        group, asked = self._kept(name), self._asked(doc)
        kept = asked.kept or self._undo_members(asked, name, group, str(doc.get("requested_by") or "unknown"))
        self._take_up(kept, STOP_SECONDS)
        undone = []
        for member in kept["going"]:
            key = str(member["key"])
            again = self._engine.rollout_view(key, kept["ids"][key])
            self._until(partial(self._over_now, member), STOP_SECONDS, key)
            undone.append({"key": key, "rollout": kept["ids"][key] if again is not None else member["rollout"]})
        return self._view({**group, "members": undone})

    def _undo_members(self, asked: Asked, name: str, group: Mapping[str, Any], by: str) -> Mapping[str, Any]:
        now, members = self._clock.now(), group["members"]
        missing = [str(m["key"]) for m in members if not (self._under_way(m) or self._serves(m))]
        if missing:
            raise Refused(
                "group-moved-on",
                f"expected every member to serve what the group {name} brought, found others in {', '.join(missing)}",
                where=name,
                remedy="rebake undo ENV, member by member",
            )
        for member in members:
            if not self._under_way(member):
                self._undo_plan(str(member["key"]), self._engine.environment(str(member["key"])))
        ids = {str(m["key"]): timed_id("r", now) + f"-{n}" for n, m in enumerate(members)}
        undos = [Request(key, "undo", by, rollout_id=new) for key, new in ids.items()]
        memo = {"going": list(members), "ids": ids}
        return self.request(asked, memo, undos, [Put("group", str(group["id"]), group)])

    def _kept(self, name: str) -> Doc:
        """The newest group of this name, or the one of this id."""
        found = [dict(doc) for key, doc in self._ledger.list("group") if name in (key, doc["group"])]
        if not found:
            known = sorted({str(doc["group"]) for _, doc in self._ledger.list("group")})
            raise UsageError(
                "unknown-group",
                f"no group {name} was deployed; known: {', '.join(known) or 'none yet'}",
                where=name,
                remedy="rebake deploy --group FILE",
            )
        return found[-1]

    def _under_way(self, member: Mapping[str, Any]) -> bool:
        environment = self._engine.environment(str(member["key"]))
        going = [r.id for r in (environment.rollout, *environment.queue) if r is not None]
        return member["rollout"] in going

    def _over_now(self, member: Mapping[str, Any]) -> bool:
        return not self._under_way(member)

    def _serves(self, member: Mapping[str, Any]) -> bool:
        environment = self._engine.environment(str(member["key"]))
        return (
            environment.rollout is None
            and environment.stable is not None
            and environment.stable.id == member["rollout"]
        )

    def _view(self, kept: Mapping[str, Any]) -> Doc:
        found = [self._engine.rollout_view(str(m["key"]), str(m["rollout"])) for m in kept["members"]]
        members = [view for view in found if view is not None]
        outcome, reason = _outcome(members)
        return {
            "group": kept["group"],
            "id": kept["id"],
            "order": kept["order"],
            "requested_by": kept["by"],
            "started": iso(float(kept["at"])),
            "outcome": outcome,
            "reason": reason,
            "exit_code": None if outcome is None else EXIT_CODES[State(outcome)],
            "ended": all(view["ended"] for view in members),
            "members": members,
            "serving": kept["serving"],
        }


def _key(rollout: Rollout) -> str:
    return f"{rollout.plan.service}/{rollout.plan.environment}"


def _serving(asked: Sequence[Rollout], rollouts: Sequence[Rollout]) -> list[str]:
    """Members that serve their revision already: they take no part."""
    begun = {_key(r) for r in rollouts}
    return [_key(r) for r in asked if _key(r) not in begun]


def _outcome(members: Sequence[Doc]) -> tuple[str | None, str]:
    """How the group ended, named after the members that went back by themselves; None while any is under way."""
    if any(view["outcome"] is None for view in members):
        open_ones = [f"{v['service']}/{v['environment']} is {v['state']}" for v in members if v["outcome"] is None]
        return None, "; ".join(open_ones)
    for worst in _WORST:
        causes = [v for v in members if v["outcome"] == worst.value and not v["taken_along"]]
        if causes:
            return worst.value, f"{causes[0]['service']}/{causes[0]['environment']}: {causes[0]['reason']}"
    taken = [v for v in members if v["outcome"] != State.PROMOTED.value]
    return (State.STOPPED.value, taken[0]["reason"]) if taken else (State.PROMOTED.value, "every member is promoted")
