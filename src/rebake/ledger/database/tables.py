"""The tables as the code reads and writes them. How a database gets them is told by the migrations."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text

METADATA = MetaData()

# SQLite makes a column its row number only if the type is spelled INTEGER; elsewhere 32 bits would be too few.
_Long = BigInteger().with_variant(Integer(), "sqlite")
# PostgreSQL would sort keys by the rules of a language; prefixes need the order of code points, as SQLite has it.
_Key = Text().with_variant(Text(collation="C"), "postgresql")

ENTRIES = Table(
    "entries",
    METADATA,
    Column("seq", _Long, primary_key=True, autoincrement=False),
    Column("at_ms", _Long, nullable=False),
    Column("kind", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("rollout", Text),
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("entries_by_environment", "service", "environment", "seq"),
    Index("entries_by_rollout", "rollout", "seq"),
    Index("entries_by_time", "at_ms", "seq"),
)

HEAD = Table(
    "head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", _Long, nullable=False),
    Column("hash", Text, nullable=False),
)
"""One row, id 1. Whoever extends the chain locks it first, so that writers queue up."""

DOCUMENTS = Table(
    "documents",
    METADATA,
    Column("kind", _Key, primary_key=True),
    Column("key", _Key, primary_key=True),
    Column("doc", Text, nullable=False),
    sqlite_with_rowid=False,
)

LEASES = Table(
    "leases",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("token", _Long, nullable=False),
    Column("expires_ms", _Long, nullable=False),
    Column("reason", Text),
    Column("since_ms", _Long),
)
"""A released lease keeps its row, without an owner, so that tokens never start again."""
