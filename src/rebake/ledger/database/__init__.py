"""The ledger in SQLite or PostgreSQL. Only the composition root imports it: SQLAlchemy takes its time to load."""

from __future__ import annotations

from pathlib import Path

from rebake.ledger.database.engine import make_engine, place
from rebake.ledger.database.ledger import DatabaseLedger

__all__ = ["DatabaseLedger", "open_ledger", "place"]


def open_ledger(where: Path | str) -> DatabaseLedger:
    """Open the ledger, making or migrating it when needed. Close it with `close()`.

    Args:
        where: path of an SQLite file, or a URL (`sqlite:///…`, `postgresql://…`).
    Raises: Permanent `database-newer`, `ledger-damaged`, `disk-full`, `store-read-only`, `ledger-unavailable`,
        `database-refused`, `database-absent`, `database-too-old`; Transient `ledger-busy`, `ledger-unreachable`;
        UsageError `database-url`, `database-driver-missing`.
    """
    engine = make_engine(where)
    try:
        return DatabaseLedger(engine)
    except BaseException:
        engine.dispose()
        raise
