"""The ledger port: append-only chained entries, and small documents that change in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

EntryKind = Literal["request", "intent", "outcome", "transition", "verdict", "decision", "drift", "note"]


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it has a place in the chain. `body` is JSON without floats."""

    kind: EntryKind
    service: str
    environment: str
    rollout: str | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry in the chain. `hash` covers every other field, and `previous` is the hash of the entry before it."""

    seq: int
    at_ms: int
    kind: EntryKind
    service: str
    environment: str
    rollout: str | None
    body: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of leadership over one environment: a write with a token older than the newest lease is refused."""

    key: str
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads one environment: until when unless it is renewed, since when, and what for. Times: seconds."""

    key: str
    owner: str
    token: int
    reason: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Put:
    """A document to write (or, with None, to delete) together with the entries. Outside the chain; floats allowed."""

    kind: str
    key: str
    doc: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the chain."""

    seq: int
    problem: str


@dataclass(frozen=True, slots=True)
class Verification:
    entries: int
    head: str
    faults: tuple[Fault, ...] = field(default_factory=tuple)


def unheard(_count: int) -> None:
    """Nobody wants to know how far it is."""


class Ledger(Protocol):
    """The only memory. Safe from several threads and processes.

    Raises: LedgerConflict `lease-lost` on a stale fence; Permanent `disk-full`, `store-read-only`; Transient when busy.
    """

    def commit(
        self,
        entries: Sequence[Draft],
        puts: Sequence[Put] = (),
        *,
        at: float,
        fence: Fence | None = None,
        durable: bool = True,
    ) -> Sequence[Entry]:
        """Append the entries in order and write the documents, all in one durable transaction, or nothing.

        With `durable=False` it need not wait for the disk: a power cut may take it back, a kill of the engine never.
        What is committed durably after it is never there without it.
        """
        ...

    def get(self, kind: str, key: str) -> Mapping[str, Any] | None: ...

    def list(self, kind: str, prefix: str = "") -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Documents of one kind whose key starts with `prefix`, in key order."""
        ...

    def keys(self, kind: str, prefix: str = "") -> Sequence[str]:
        """The keys that `list` gives, without reading the documents."""
        ...

    def newest(self, kind: str, prefix: str, limit: int) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The last `limit` of what `list` gives, last first: as much is read as is asked for."""
        ...

    def entries(
        self,
        *,
        service: str | None = None,
        environment: str | None = None,
        rollout: str | None = None,
        kinds: Sequence[EntryKind] = (),
        after: int = 0,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> Sequence[Entry]: ...

    def head(self) -> tuple[int, str]:
        """Sequence number and hash of the last entry; (0, the genesis hash) when empty."""
        ...

    def verify(self, *, expect_head: str | None = None, progress: Callable[[int], None] = unheard) -> Verification:
        """Recompute the whole chain. Finds changed, missing and reordered entries; with `expect_head` (from an
        earlier export) also a chain cut short and rewritten. `progress` is told now and then how many were read."""
        ...

    def lease(self, key: str, owner: str, *, at: float, ttl_seconds: float, reason: str = "") -> Fence | None:
        """Take or renew the lease; None while another owner holds it. A taken-over lease gets a larger token.
        `reason` says in a few words what for."""
        ...

    def release_lease(self, fence: Fence) -> None: ...

    def held(self, *, at: float) -> Sequence[Lease]:
        """Every lease that is held at this time, by key. Those whose engine is gone end by themselves."""
        ...
