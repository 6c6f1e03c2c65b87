"""A decision while it is being made: what the steps of `decide` write on, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rebake.rollout.actions import Action, Note
from rebake.rollout.world import Environment, Rollout, World, differs


@dataclass(slots=True)
class Draft:
    """The decision while it is being made. Local to one call of `decide`."""

    environment: Environment
    world: World
    now: float
    actions: list[Action] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    quarantine: dict[str, str] = field(default_factory=dict)
    succeeded: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    ended: list[Rollout] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    wake_at: float = float("inf")
    moved: bool = False

    def update(self, **changes: Any) -> None:
        """Change what is remembered; an equal value is no change, so that a quiet look writes nothing."""
        if differs(self.environment, changes):
            self.environment = replace(self.environment, **changes)

    def note(self, kind: str, body: Mapping[str, Any], rollout: str | None = None) -> None:
        self.notes.append(Note(kind, body, rollout))

    def put_in_quarantine(self, revision: str, reason: str) -> None:
        """It counts at once: the next in the queue may be the same revision."""
        self.quarantine[revision] = reason
        self.world = replace(self.world, quarantined=self.world.quarantined | {revision})

    def wake(self, at: float) -> None:
        self.wake_at = min(self.wake_at, at)
