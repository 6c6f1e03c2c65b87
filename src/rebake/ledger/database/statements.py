"""The statements of the ledger, made once: to make one costs more than to run it. Their parameters are named below."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Executable,
    LargeBinary,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from rebake.ledger import chain
from rebake.ledger.database.tables import DOCUMENTS, ENTRIES, HEAD, LEASES

_KIND: BindParameter[str] = bindparam("k")
_KEY: BindParameter[str] = bindparam("i")

HEAD_NOW = select(HEAD.c.seq, HEAD.c.hash).where(HEAD.c.id == 1)
# FOR UPDATE makes PostgreSQL's writers queue; SQLite's have queued since BEGIN IMMEDIATE.
HEAD_LOCKED = HEAD_NOW.with_for_update()
SET_HEAD = update(HEAD).where(HEAD.c.id == 1).values(seq=bindparam("s"), hash=bindparam("h"))
"""s, h: sequence number and hash of the last entry."""
ADD_ENTRIES = insert(ENTRIES)

ENTRIES_BETWEEN = (
    select(ENTRIES)
    .where(ENTRIES.c.seq >= bindparam("first"), ENTRIES.c.seq <= bindparam("last"))
    .order_by(ENTRIES.c.seq)
)

DOCUMENT = select(DOCUMENTS.c.doc).where(DOCUMENTS.c.kind == _KIND, DOCUMENTS.c.key == _KEY)
"""k, i: kind and key."""
DROP_DOCUMENT = delete(DOCUMENTS).where(DOCUMENTS.c.kind == _KIND, DOCUMENTS.c.key == _KEY)

LEASE = select(LEASES.c.owner, LEASES.c.token, LEASES.c.expires_ms).where(LEASES.c.key == bindparam("k"))
ADD_LEASE = insert(LEASES)
_SET_LEASE = update(LEASES).where(LEASES.c.key == bindparam("k"))
_LEASED: dict[str, Any] = {
    "token": bindparam("token"),
    "owner": bindparam("owner"),
    "expires_ms": bindparam("expires_ms"),
    "reason": bindparam("reason"),
}
RENEW_LEASE = _SET_LEASE.values(**_LEASED)
TAKE_LEASE = _SET_LEASE.values(**_LEASED, since_ms=bindparam("since_ms"))


@cache
def put_document(dialect: str) -> Executable:
    """k, i, d: kind, key and text. In the words of `postgresql` or `sqlite`, loaded when it is used."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as upsert
    else:
        from sqlalchemy.dialects.sqlite import insert as upsert  # type: ignore[assignment]
    statement = upsert(DOCUMENTS).values(kind=_KIND, key=_KEY, doc=bindparam("d"))
    keys = [DOCUMENTS.c.kind, DOCUMENTS.c.key]
    return statement.on_conflict_do_update(index_elements=keys, set_={"doc": statement.excluded.doc})


@cache
def proofs(dialect: str) -> Select[Any]:
    """What `chain.Reader.step_over` wants of every entry: the database joins the text, in bytes as they are hashed.

    Where a database quotes a text in another way than JSON's canonical form, or a value is of another kind than is
    written (the text is then NULL), the entry is read once more, slowly.
    """
    words = chain.FORM.split("%s")
    names = (word.rstrip(":").rpartition(",")[2].strip('"{') for word in words[:-1])
    text: ColumnElement[str] = literal("")
    for word, name in zip(words, names, strict=False):
        text = text + literal(word) + _as_hashed(ENTRIES.c[name], dialect)
    text = text + literal(words[-1])
    whole = func.convert_to(text, "UTF8") if dialect == "postgresql" else case((_as_made(), cast(text, LargeBinary)))
    return select(ENTRIES.c.seq, ENTRIES.c.previous, ENTRIES.c.hash, whole).order_by(ENTRIES.c.seq)


def proofs_between(dialect: str, first: int, last: int) -> Select[Any]:
    """The same of a span of entries."""
    return proofs(dialect).where(ENTRIES.c.seq >= first, ENTRIES.c.seq <= last)


HEAD_ALONE = select(
    HEAD.c.seq, HEAD.c.hash, exists().where(or_(ENTRIES.c.seq < 1, ENTRIES.c.seq > HEAD.c.seq)).label("beyond")
).where(HEAD.c.id == 1)
"""The head, and whether an entry has a number that no chain up to it has; of one moment, while writers go on."""


def _as_made() -> ColumnElement[bool]:
    """Whether every value of an entry is of the kind that is written: SQLite keeps any value in any column."""
    kinds = {"seq": ("integer",), "at_ms": ("integer",), "rollout": ("text", "null")}
    return and_(*(func.typeof(column).in_(kinds.get(column.name, ("text",))) for column in ENTRIES.c))


def _as_hashed(column: Column[Any], dialect: str) -> ColumnElement[str]:
    """A value's part of the text. Source: SQLite manual, "JSON Functions"; PostgreSQL manual, "JSON Functions"."""
    if column.name in ("seq", "at_ms", "body"):
        return cast(column, Text)
    if dialect == "postgresql":
        return func.coalesce(cast(func.to_json(column), Text), "null")
    return func.json_quote(column, type_=Text)


def _range(*, start: bool, end: bool, newest: bool, whole: bool) -> Select[Any]:
    columns = (DOCUMENTS.c.key, DOCUMENTS.c.doc) if whole else (DOCUMENTS.c.key,)
    query: Select[Any] = select(*columns).where(DOCUMENTS.c.kind == _KIND)
    if start:
        query = query.where(DOCUMENTS.c.key >= bindparam("start"))
    if end:
        query = query.where(DOCUMENTS.c.key < bindparam("end"))
    if newest:
        return query.order_by(DOCUMENTS.c.key.desc()).limit(bindparam("most"))
    return query.order_by(DOCUMENTS.c.key)


_RANGES = {
    shape: _range(start=shape[0], end=shape[1], newest=shape[2], whole=shape[3])
    for shape in product((False, True), repeat=4)
}


def documents_of(
    kind: str, prefix: str, most: int | None = None, *, whole: bool = True
) -> tuple[Select[Any], dict[str, Any]]:
    """The statement, and its parameters, for the documents of one kind whose key starts with `prefix`.

    Args:
        most: that many from the end, last first; None for all, first one first.
        whole: False for their keys alone.
    """
    values: dict[str, Any] = {"k": kind}
    if prefix:
        values["start"] = prefix
    if prefix and (end := after_prefix(prefix)) is not None:
        values["end"] = end
    if most is not None:
        values["most"] = most
    return _RANGES["start" in values, "end" in values, most is not None, whole], values


def after_prefix(prefix: str) -> str | None:
    """The first text after every text that starts with `prefix`; None when nothing comes after.

    >>> after_prefix("shop/"), after_prefix("\\U0010ffff")
    ('shop0', None)
    """
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if last == 0xD800 else last)  # surrogates are no text
