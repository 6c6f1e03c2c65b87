"""An environment as the ledger keeps it, made anew only where it changed. Pure but for its memory of the last one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rebake.core.codec import dump
from rebake.rollout.world import Environment

_PARTS = tuple(part.name for part in fields(Environment))
_PLAIN = (str, int, float, bool, type(None))


class Documents:
    """The documents of one environment, one after the other.

    While a rollout is under way most of what is remembered is the very same value from look to look: fleets, plans,
    what an undo goes back to. Such a part's document is taken over from the one before. Documents are not to be
    changed, and none are kept of an environment in which nothing is under way.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Any]] = {}

    def of(self, environment: Environment) -> dict[str, Any]:
        """What `codec.dump` says of the environment."""
        doc = {name: self._part(name, getattr(environment, name)) for name in _PARTS}
        if environment.rollout is None:
            self._known.clear()
        return doc

    def _part(self, name: str, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        known = self._known.get(name)
        if known is None or known[0] is not value:
            doc = [dump(item) for item in value] if isinstance(value, tuple) else dump(value)
            known = self._known[name] = (value, doc)
        return known[1]
