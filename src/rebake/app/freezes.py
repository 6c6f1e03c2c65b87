"""Stopping the line: a person's freezes, asked for, lifted and listed.

A freeze is a document of the ledger that every engine of the database reads before a look does anything, so it needs no
engine to be taken in: it counts from the moment it is written down, also for environments of other homes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rebake.app.asking import Asked, Asking
from rebake.core.clock import iso
from rebake.core.codec import dump, load
from rebake.errors import Refused, UsageError
from rebake.ledger.ports import Draft, Put
from rebake.rollout.view import Doc, freeze_view
from rebake.rollout.world import Freeze

EVERYWHERE = "*"


class Freezes(Asking):
    """See `rebake.server.ports.Application` for every method's contract."""

    def freezes(self) -> Doc:
        return {"freezes": [freeze_view(freeze) for freeze in self._in_force()]}

    def freeze(self, doc: Mapping[str, Any]) -> Doc:
        asked = self._asked(doc)
        if asked.kept is not None:
            return self.freezes()
        now, scope = self._clock.now(), self._scope(doc)
        until, reason = doc.get("until"), str(doc.get("reason") or "").strip()
        if not isinstance(until, int | float) or until <= now:
            raise UsageError(
                "freeze-over", "expected an end that lies ahead", where="until", remedy="rebake freeze --help"
            )
        if not reason:
            raise UsageError("freeze-without-reason", "expected a reason: whoever waits reads it", where="reason")
        by = str(doc.get("requested_by") or "unknown")
        freeze = Freeze(scope, by, now, float(until), reason)
        body = {"freeze": scope, "by": by, "until": iso(freeze.until), "reason": reason}
        self._write(asked, scope, body, dump(freeze))
        return self.freezes()

    def lift(self, doc: Mapping[str, Any]) -> Doc:
        asked, scope = self._asked(doc), self._scope(doc)
        if asked.kept is not None:
            return self.freezes()
        if not any(freeze.scope == scope for freeze in self._in_force()):
            what = "every environment" if scope == EVERYWHERE else scope
            raise Refused(
                "not-frozen", f"no freeze of {what} is in force", where=scope, remedy="rebake freeze lists them"
            )
        self._write(asked, scope, {"lifted": scope, "by": str(doc.get("requested_by") or "unknown")}, None)
        return self.freezes()

    def _scope(self, doc: Mapping[str, Any]) -> str:
        service, environment = doc.get("service"), doc.get("environment")
        if service is None and environment is None:
            return EVERYWHERE
        return self._known(str(service), str(environment))

    def _in_force(self) -> list[Freeze]:
        now = self._clock.now()
        found = [load(Freeze, doc) for _, doc in self._ledger.list("freeze")]
        return [freeze for freeze in found if now < freeze.until]

    def _write(self, asked: Asked, scope: str, body: Doc, doc: Doc | None) -> None:
        """Write it down, forget those that are over, and have every environment looked at that it concerns."""
        force = {freeze.scope for freeze in self._in_force()}
        over = [Put("freeze", key, None) for key, _ in self._ledger.list("freeze") if key not in force]
        service, _, name = scope.partition("/")
        draft = Draft("decision", service, name or EVERYWHERE, None, body)
        self._write_down(asked, {}, [draft], [*over, Put("freeze", scope, doc)])
        for key in self._engine.known():
            if scope in (EVERYWHERE, key):
                self._wake(key)
