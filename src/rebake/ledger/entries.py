"""An entry as it is stored: flat columns, the body as its canonical text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from rebake.core.canonical import canonical
from rebake.errors import BrokenInvariant
from rebake.ledger.ports import Draft, Entry, EntryKind


class Record(NamedTuple):
    """One stored row. The order of the fields is the order of the columns.

    Attributes:
        body: canonical JSON text; hashed as it stands, so that verifying never parses it.
    """

    seq: int
    at_ms: int
    kind: str
    service: str
    environment: str
    rollout: str | None
    body: str
    previous: str
    hash: str


def body_text(body: Mapping[str, Any]) -> str:
    """The canonical text of a body.

    Raises: BrokenInvariant for what has no canonical form: floats, keys that are no strings, values that are no JSON,
        text that is no Unicode.
    """
    try:
        return canonical(dict(body)).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BrokenInvariant(f"an entry's body must be plain JSON: {error}", where="$") from error


def document_text(doc: Mapping[str, Any]) -> str:
    """The stored text of a document: JSON in which floats are allowed, but neither NaN nor infinity.

    Raises: BrokenInvariant for what is no JSON.
    """
    try:
        text = json.dumps(doc, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BrokenInvariant(f"a document must be plain JSON: {error}", where="$") from error
    return text


def entry_of(record: Record) -> Entry:
    """The entry that a stored row holds. Raises: ValueError when its body is no JSON (it was changed)."""
    fields = record._asdict()
    return Entry(**fields | {"kind": cast(EntryKind, record.kind), "body": json.loads(record.body)})


def record_of(entry: Entry) -> Record:
    """The stored row of an entry, for instance of one that was read from an export."""
    return Record(
        entry.seq,
        entry.at_ms,
        entry.kind,
        entry.service,
        entry.environment,
        entry.rollout,
        body_text(entry.body),
        entry.previous,
        entry.hash,
    )


def unhashed(draft: Draft, *, seq: int, at_ms: int, previous: str) -> Record:
    """A draft with its place in the chain, still without a hash."""
    body = body_text(draft.body)
    return Record(seq, at_ms, draft.kind, draft.service, draft.environment, draft.rollout, body, previous, "")
