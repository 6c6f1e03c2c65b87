"""Bring a database to the tables of this code. Alembic is loaded only when there is something to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from rebake.errors import Permanent
from rebake.ledger.database.engine import BUSY_SECONDS, WRITES

REVISIONS = ("0001", "0002")
"""Every migration there is, oldest first. A test holds it against alembic's own list."""

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x7265_6261_6B65  # "rebake"


def ensure(engine: Engine, where: str) -> None:
    """Migrate when the database is older than the code; one cheap query when it is not.

    Migrations and the record of them are one transaction. Of several processes that open a database at once, one
    migrates and the others wait for it. Migrations only ever add (a test says so): engines of the version before go on
    with what they know, and wait for the migration no longer than for any other writer.

    Raises: Permanent `database-newer`; Transient `ledger-busy` when running engines left no gap to migrate in.
    """
    with engine.connect() as connection:
        found = stored_revision(connection)
    if found == REVISIONS[-1]:
        return
    if found is not None and found not in REVISIONS:
        raise Permanent(
            "database-newer",
            f"expected a database of version {REVISIONS[-1]} or earlier, found {found}, made by a newer rebake",
            where=where,
            remedy="upgrade rebake: pip install --upgrade rebake",
        )
    with engine.connect().execution_options(**WRITES) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            # Whoever waits for a table makes everybody behind him wait too: rather give up and be started again.
            connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:g}s'"))
            if stored_revision(connection) is not None:
                connection.execute(text("SELECT seq FROM head FOR UPDATE"))  # queue as every writer does
        migrate(connection)


def stored_revision(connection: Connection) -> str | None:
    """The migration a database is at; None when it has no tables of ours yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def migrate(connection: Connection, revision: str = "head") -> None:
    """Run the missing migrations, up to this one, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
