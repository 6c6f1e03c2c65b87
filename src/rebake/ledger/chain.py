"""The hash chain: what makes a changed, missing, reordered, duplicated or cut off entry visible. Pure.

It decides the hash of an entry and what is wrong with a stream of them; where they are stored is left to the adapter.

Rules:
- An entry's hash is the SHA-256 of the canonical JSON of every other field, the previous entry's hash included.
- The first entry's `previous` is GENESIS. Sequence numbers start at 1 and have no gaps.
- The stored head (sequence number and hash of the last entry) shows a chain that was cut off at its end. Somebody who
  may write everything can rewrite chain and head alike: only a hash kept elsewhere (`expect_head`) shows that.

To edit it safely: a changed hash breaks every ledger there is, and the golden hash in the tests says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring

from rebake.core.digest import digest_bytes
from rebake.ledger.entries import Record, unhashed
from rebake.ledger.ports import Draft, Fault, Verification

GENESIS = digest_bytes(b"rebake ledger, version 1")
"""What the first entry follows."""

MOST_FAULTS = 1000
"""Faults that a verification lists at most; the rest is counted."""

FORM = '{"at_ms":%s,"body":%s,"environment":%s,"kind":%s,"previous":%s,"rollout":%s,"seq":%s,"service":%s}'
"""What is hashed of an entry, as canonical JSON; body and numbers as they are stored, everything else quoted."""


def hash_of(record: Record) -> str:
    """The hash of a stored entry: of every field but `hash`.

    The body's text is taken as it is stored. That is safe: every other value is quoted or a number, so two different
    rows never give one text.

    Raises: TypeError, UnicodeEncodeError when a column holds what no entry has.
    """
    seq, at_ms, kind, service, environment, rollout, body, previous, _ = record
    if type(seq) is not int or type(at_ms) is not int:
        raise TypeError("a number of an entry is none")
    quote = encode_basestring
    rollout = "null" if rollout is None else quote(rollout)
    text = FORM % (at_ms, body, quote(environment), quote(kind), quote(previous), rollout, seq, quote(service))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def extend(head: tuple[int, str], drafts: Sequence[Draft], at_ms: int) -> list[Record]:
    """Give the drafts their places after the head.

    Raises: BrokenInvariant when a body has no canonical form.
    """
    seq, previous = head
    records = []
    for draft in drafts:
        seq += 1
        record = unhashed(draft, seq=seq, at_ms=at_ms, previous=previous)
        record = record._replace(hash=hash_of(record))
        previous = record.hash
        records.append(record)
    return records


def verify(records: Iterable[Record], *, head: tuple[int, str] | None, expect_head: str | None = None) -> Verification:
    """Recompute a chain.

    Args:
        records: every entry in stored order.
        head: the stored head; None when it is gone.
        expect_head: a hash that some entry had at an earlier time (from an export).
    Returns: number of entries, hash of the last one, and the faults in stored order; none when the chain is whole.
    """
    reader = Reader(expect_head)
    reader.read(records)
    return reader.conclude(head)


class Reader:
    """The place reached in a chain, and what was wrong on the way. Entries come in stored order.

    Args:
        expect_head: see `verify`.
        after: number and hash of the entry before the first; those of the beginning, unless a span of it is read.
    """

    def __init__(self, expect_head: str | None = None, *, after: tuple[int, str] = (0, GENESIS)) -> None:
        self.seq, self.hash = after
        self.entries = 0
        self.expected = expect_head
        self.met_expected = expect_head in (None, GENESIS)
        self._faults: list[Fault] = []
        self._gaps: list[range] = []
        self._changed: list[Record] = []

    def step_over(self, proofs: Sequence[tuple[int, str, str, bytes | None]]) -> bool:
        """Go on over the next entries if all of them are whole; else stay, and they are to be given to `read`.

        Args:
            proofs: of each entry its number, its predecessor's hash, its own hash, and its text by `FORM`, put together
                by the database: nothing is left to do but to hash it. None where it has no such text.
        """
        seq, last, expected = self.seq, self.hash, self.met_expected
        for number, previous, stored, text in proofs:
            seq += 1
            if text is None or number != seq or previous != last:
                return False
            if "sha256:" + hashlib.sha256(text).hexdigest() != stored:
                return False
            last = stored
            if stored == self.expected:
                expected = True
        self.entries += len(proofs)
        self.seq, self.hash, self.met_expected = seq, last, expected
        return True

    def stand(self, seq: int, last: str, *, entries: int, met_expected: bool) -> None:
        """Go on over entries that others read and found whole, up to the one of this number and hash."""
        self.entries += entries
        self.seq, self.hash = seq, last
        self.met_expected = self.met_expected or met_expected

    def read(self, records: Iterable[Record]) -> None:
        """Go on over the next entries, and find what is wrong with them."""
        for record in records:
            recomputed = _safe_hash(record)
            if recomputed == record[8] and record[0] == self.seq + 1 and record[7] == self.hash:
                self._accept(record[0], recomputed)
            else:
                self._examine(record if isinstance(record, Record) else Record(*record), recomputed)

    def _accept(self, seq: int, found: str) -> None:
        """Step over an entry that is whole and follows the one before."""
        self.entries += 1
        self.seq = seq
        self.hash = found
        if found == self.expected:
            self.met_expected = True

    def _examine(self, record: Record, recomputed: str | None) -> None:
        """Say what is wrong with an entry, then go on from it."""
        self.entries += 1
        if recomputed != record.hash:
            self._changed.append(record)
        elif recomputed == self.expected:
            self.met_expected = True
        if not isinstance(record.seq, int):
            return
        if record.seq <= self.seq:
            self._late(record.seq)
            return
        if record.seq > self.seq + 1:
            self._gaps.append(range(self.seq + 1, record.seq))
        elif record.previous != self.hash:
            self._fault(record.seq, f"does not follow entry {self.seq}: one of them was changed, or it was moved here")
        self.seq = record.seq
        self.hash = record.hash

    def _late(self, seq: int) -> None:
        for index, gap in enumerate(self._gaps):
            if seq in gap:
                self._fault(seq, f"reordered: it stands after entry {self.seq}")
                parts = (range(gap.start, seq), range(seq + 1, gap.stop))
                self._gaps[index : index + 1] = [part for part in parts if part]
                return
        self._fault(seq, "duplicated: an entry with this number came before")

    def _fault(self, seq: int, problem: str) -> None:
        self._faults.append(Fault(seq, problem))

    def conclude(self, head: tuple[int, str] | None) -> Verification:
        """Everything that is wrong, in order of the entries."""
        for record in self._changed:
            self._fault(record.seq if isinstance(record.seq, int) else 0, self._how_changed(record))
        for gap in self._gaps:
            self._fault(gap.start, f"missing: {_span(gap.start, gap.stop - 1)}")
        self._check_head(head)
        if not self.met_expected:
            self._fault(self.seq, f"cut short or rewritten: no entry has the expected hash {self.expected}")
        faults = sorted(self._faults, key=lambda fault: fault.seq)
        if len(faults) > MOST_FAULTS:
            rest = len(faults) - MOST_FAULTS
            faults = [*faults[:MOST_FAULTS], Fault(faults[MOST_FAULTS].seq, f"and {rest} more faults from here on")]
        return Verification(self.entries, self.hash, tuple(faults))

    def _how_changed(self, record: Record) -> str:
        """An entry whose content does not give its hash: moved from another place, or changed."""
        # Looking for the right place costs the square of their number; with many changed, nothing was merely moved.
        for other in self._changed if len(self._changed) <= 64 else ():
            moved = record._replace(seq=other.seq)
            if other.seq != record.seq and _safe_hash(moved) == record.hash:
                return f"reordered: entry {other.seq} stands in this place"
        return f"changed: its content does not give its hash {record.hash}"

    def _check_head(self, head: tuple[int, str] | None) -> None:
        if head is None:
            self._fault(self.seq, "the stored head is missing")
        elif head[0] > self.seq:
            self._fault(self.seq + 1, f"cut off at the end: {_span(self.seq + 1, head[0])}")
        elif head[0] < self.seq:
            self._fault(head[0] + 1, f"not written by rebake: the stored head ends at entry {head[0]}")
        elif head[1] != self.hash:
            self._fault(self.seq, f"the stored head has the hash {head[1]}, the last entry {self.hash}")


def _safe_hash(record: Record) -> str | None:
    try:
        return hash_of(record)
    except (TypeError, ValueError):
        return None


def _span(first: int, last: int) -> str:
    return f"entry {first} is gone" if first == last else f"entries {first} to {last} are gone"
