"""Leases say why and since when they are held; entries are found by their time.

Expand only, as every migration here: an engine of the version before goes on reading and writing meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what may be missing in rows that the version before writes."""
    op.add_column("leases", sa.Column("reason", sa.Text))
    op.add_column("leases", sa.Column("since_ms", _LONG))
    op.create_index("entries_by_time", "entries", ["at_ms", "seq"])
