"""First tables: entries and their head, documents, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from rebake.ledger.chain import GENESIS

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables, and the head of an empty chain."""
    op.create_table(
        "entries",
        sa.Column("seq", _LONG, primary_key=True, autoincrement=False),
        sa.Column("at_ms", _LONG, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("rollout", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_index("entries_by_environment", "entries", ["service", "environment", "seq"])
    op.create_index("entries_by_rollout", "entries", ["rollout", "seq"])
    head = op.create_table(
        "head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", _LONG, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    op.create_table(
        "documents",
        sa.Column("kind", _KEY, primary_key=True),
        sa.Column("key", _KEY, primary_key=True),
        sa.Column("doc", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("token", _LONG, nullable=False),
        sa.Column("expires_ms", _LONG, nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": GENESIS}])
