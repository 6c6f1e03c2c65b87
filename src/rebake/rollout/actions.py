"""What `decide` may ask for. Each action has an id of its own; doing it twice is doing it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rebake.platforms.model import InstanceSpec
from rebake.rollout.plan import Check
from rebake.rollout.world import Environment, Rollout
from rebake.traffic.ports import EnvironmentRoute


@dataclass(frozen=True, slots=True)
class Prepare:
    """A job: make the release ready on the platform."""

    id: str
    release: str


@dataclass(frozen=True, slots=True)
class RunCheck:
    """A job: run one check against the candidate's instances. Without a route none runs yet, and there is no URL."""

    id: str
    check: Check
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    id: str
    spec: InstanceSpec


@dataclass(frozen=True, slots=True)
class Retire:
    id: str
    instance: str
    grace_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class ApplyRoute:
    id: str
    route: EnvironmentRoute


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    id: str


Action = Prepare | RunCheck | Launch | Retire | ApplyRoute | RemoveRoute


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the ledger: why something changed. `kind` is the ledger's entry kind."""

    kind: str
    body: Mapping[str, Any]
    rollout: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one look.

    Attributes:
        environment: the next remembered state.
        actions: what to do now, in order.
        notes: what to write down with it.
        quarantine: revisions to quarantine, with the reason.
        succeeded, withdrawn: releases that now count (or no longer count) as successful here, for `after` gates.
        ended: rollouts that reached their end in this look.
        refused: by command id, why a person's request cannot be granted.
        wake_at: look again no later than this.
    """

    environment: Environment
    actions: tuple[Action, ...] = ()
    notes: tuple[Note, ...] = ()
    quarantine: Mapping[str, str] = field(default_factory=dict)
    succeeded: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    ended: tuple[Rollout, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    wake_at: float = 0.0
