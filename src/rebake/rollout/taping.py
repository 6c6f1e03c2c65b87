"""Keeping the judge's tape in the ledger's documents, beside the evidence it led to and in the same transaction.

A tick is on the tape if and only if it is in the evidence: both are written together, and after a kill both go on from
what was written. The documents:

- `tape`, by environment and rollout: when it began, what the judge began with (packed), and at the end how long it is;
- `tape-part`, by rollout, life and number of its first entry: packed entries. Each save writes what is new as a part of
  its own; after `PARTS_TOGETHER` of them they become one, so that neither rows nor writing grow with the rollout.

A judge that begins anew, because another version of rebake wrote its evidence, begins a new life of the tape.

Bounded: no more than `MOST_BYTES` for one rollout (what comes later is judged and not kept, and the tape says so), the
newest `KEPT_TAPES` of an environment, and no more than `MOST_BYTES_TOGETHER` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rebake.core.codec import dump
from rebake.judge.custom import Split
from rebake.judge.metric_readings import Reading
from rebake.judge.samples import Tick, Verdict
from rebake.judge.tape import STEP, Beginning, Entry, heard_entry, line_of, pack, said_entry, tick_entry
from rebake.ledger.ports import Ledger, Put
from rebake.rollout.world import Rollout

TAPE, PART = "tape", "tape-part"
PARTS_TOGETHER = 32
MOST_BYTES = 8 << 20
KEPT_TAPES = 20
MOST_BYTES_TOGETHER = 16 << 20


class Taping:
    """Writes the tape of one rollout.

    Args:
        begun_at: seconds since the epoch; names this life of the tape.
        beginning: of the judge; None when the tape goes on from `state`.
        state: what an earlier `state()` said.
    """

    def __init__(
        self,
        rollout: Rollout,
        begun_at: float,
        beginning: Beginning | None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._rollout = rollout
        self._beginning = beginning
        self._zero_at = begun_at
        self._fresh: list[str] = []
        self._parts: list[tuple[str, str, int]] = []  # key, text and size of those not put together yet
        known = state or {"begun_at": begun_at, "entries": 0, "ticks": 0, "bytes": 0, "full": False}
        self._begun_at, self._entries, self._ticks = known["begun_at"], known["entries"], known["ticks"]
        self._bytes, self._full = known["bytes"], known["full"]

    def state(self) -> dict[str, Any]:
        return {
            "begun_at": self._begun_at,
            "entries": self._entries,
            "ticks": self._ticks,
            "bytes": self._bytes,
            "full": self._full,
        }

    @property
    def _prefix(self) -> str:
        return f"{self._rollout.id}/{round(self._begun_at * 1000)}/"

    # What happens

    def tick(self, tick: Tick, zero_at: float) -> None:
        """One tick. Args: zero_at: when second 0 of the ticks was, since the epoch."""
        self._zero_at = zero_at
        self._add(tick_entry(tick))
        self._ticks += 0 if self._full else 1

    def step(self) -> None:
        self._add(STEP)

    def heard(self, now: float, readings: Sequence[Reading], split: Split | None) -> None:
        self._add(heard_entry(now, readings, split))

    def said(self, t: float, verdict: Verdict, state: str | None = None) -> None:
        self._add(said_entry(t, verdict, state))

    def _add(self, entry: Entry) -> None:
        if not self._full:
            self._fresh.append(line_of(entry))

    # What is written

    def puts(self) -> list[Put]:
        """Documents that bring what is kept up to now. They must be committed with the judge's state, or not at all."""
        puts = [] if self._beginning is None else [self._header(self._beginning)]
        self._beginning = None
        if self._fresh:
            text = "\n".join(self._fresh) + "\n"
            puts.append(self._part(f"{self._prefix}{self._entries:08d}", text))
            self._entries += len(self._fresh)
            self._fresh = []
        if len(self._parts) >= PARTS_TOGETHER:
            puts += self._together()
        self._full = self._full or self._bytes >= MOST_BYTES
        return puts

    def _part(self, key: str, text: str) -> Put:
        packed = pack(text)
        self._parts.append((key, text, len(packed)))
        self._bytes += len(packed)
        return Put(PART, key, {"packed": packed})

    def _together(self) -> list[Put]:
        """The small parts as one, under the name of the first."""
        parts, self._parts = self._parts, []
        whole = pack("".join(text for _, text, _ in parts))
        self._bytes += len(whole) - sum(size for _, _, size in parts)
        dropped = [Put(PART, key, None) for key, _, _ in parts[1:]]
        return [*dropped, Put(PART, parts[0][0], {"packed": whole})]

    def _header(self, beginning: Beginning) -> Put:
        plan = self._rollout.plan
        doc = {
            "rollout": self._rollout.id,
            "zero_at": self._zero_at,
            "prefix": self._prefix,
            "strategy": dump(plan.strategy),
            "rules": dump(plan.judge),
            "began": pack(line_of(["began", beginning.to_json()])),
            "bytes": 0,
        }
        return Put(TAPE, f"{plan.service}/{plan.environment}/{self._rollout.id}", doc)

    def end(self, ledger: Ledger) -> list[Put]:
        """At the rollout's end: the rest of the tape, its length, and what the environment keeps no longer."""
        puts = self.puts()
        key = f"{self._rollout.plan.service}/{self._rollout.plan.environment}/{self._rollout.id}"
        header = next((p.doc for p in puts if p.kind == TAPE), None) or ledger.get(TAPE, key)
        if header is None:
            return puts
        size = {"bytes": self._bytes, "ticks": self._ticks, "full": self._full}
        puts = [p for p in puts if p.kind != TAPE]
        return [*puts, Put(TAPE, key, {**header, **size}), *expired(ledger, key, self._bytes)]


def expired(ledger: Ledger, newest: str, size: int) -> list[Put]:
    """Removes the tapes that an environment keeps no longer once `newest` (of `size` bytes) has come."""
    puts: list[Put] = []
    kept, together = 1, size
    for key, header in ledger.newest(TAPE, f"{newest.rpartition('/')[0]}/", 4 * KEPT_TAPES):
        if key == newest:
            continue
        kept, together = kept + 1, together + int(header["bytes"])
        if kept > KEPT_TAPES or together > MOST_BYTES_TOGETHER:
            puts.append(Put(TAPE, key, None))
            puts += [Put(PART, part, None) for part, _ in ledger.list(PART, f"{header['rollout']}/")]
    return puts


def read_tape(ledger: Ledger, environment: str, rollout: str) -> dict[str, Any] | None:
    """The header of a tape and its packed `parts`; None when none is kept."""
    header = ledger.get(TAPE, f"{environment}/{rollout}")
    if header is None:
        return None
    parts = [str(doc["packed"]) for _, doc in ledger.list(PART, str(header["prefix"]))]
    return {**header, "parts": parts}
