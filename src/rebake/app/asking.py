"""What is asked for twice is done once: who names a request may ask again when the answer was lost with an agent.

The name, and what the answer needs, are written down in the very transaction that writes the request. Whoever asks
again by that name gets the answer to what was asked for first, from any agent of the ledger. Names are kept for a day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rebake.app.answers import Answers
from rebake.core.ids import timed_id
from rebake.errors import UsageError
from rebake.ledger.ports import Draft, Put

KEPT_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request by its name, and what was kept of it when it was asked for before; None the first time."""

    name: str
    kept: Mapping[str, Any] | None


class Asking(Answers):
    """The part of the desk that knows requests by their names."""

    def _asked(self, doc: Mapping[str, Any], prefix: str = "q") -> Asked:
        """The name that whoever asks has chosen, or a new one."""
        chosen = doc.get("id")
        if chosen is None:
            return Asked(timed_id(prefix, self._clock.now()), None)
        if re.fullmatch(prefix + r"-[0-9a-z]{12}", str(chosen)) is None:
            problem = f"expected an id such as {prefix}-01k9zq3m2hxr, found {chosen!r}"
            raise UsageError("plan-not-understood", problem, where="id")
        return Asked(str(chosen), self._ledger.get("asked", str(chosen)))

    def _write_down(
        self,
        asked: Asked,
        memo: Mapping[str, Any],
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        commands: Mapping[str, str] | None = None,
    ) -> Mapping[str, Any]:
        """Write a request down, with its name and what its answer needs. Returns: what is kept.

        Args:
            commands: by environment, what an engine must take up.
        """
        now = self._clock.now()
        kept = {**memo, "at": now, "commands": dict(commands or {})}
        self._ledger.commit(entries, [*puts, *self._forgotten(now), Put("asked", asked.name, kept)], at=now)
        return kept

    def _forgotten(self, now: float) -> list[Put]:
        """Names that are old, and what was refused under them."""
        over = [(name, doc) for name, doc in self._ledger.list("asked") if now - doc["at"] >= KEPT_SECONDS]
        refused = [Put("refusal", f"{key}/{one}", None) for _, doc in over for key, one in doc["commands"].items()]
        return [Put("asked", name, None) for name, _ in over] + refused
