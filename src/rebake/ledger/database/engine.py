"""The connection to the database: SQLite or PostgreSQL, set up so that a commit is on the disk when it returns."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from rebake.errors import UsageError
from rebake.ledger.database.faults import translated

BUSY_SECONDS = 10.0
"""How long a writer waits for another before it is told that the ledger is busy."""

WRITES = {"rebake_writes": True}
"""Execution options of a connection whose transaction writes."""

_PRAGMAS = (
    f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}",  # first: the next line may have to wait
    "PRAGMA journal_mode=WAL",
    # In WAL mode NORMAL loses the last transactions at a power cut. An intent must be on the disk before its action.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA cache_size=-4096",
)


def make_engine(where: Path | str) -> Engine:
    """An engine for a file (a path) or a database (a URL such as `postgresql://user@host/name`).

    Raises: UsageError `database-url`, `database-driver-missing`; Permanent when the file's folder cannot be made.
    """
    url = _url(where)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    try:
        return create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=8, isolation_level="READ COMMITTED")
    except ImportError as error:
        raise UsageError(
            "database-driver-missing",
            f"no driver for {url.render_as_string()}: {error}",
            where="REBAKE_DATABASE",
            remedy="pip install 'psycopg[binary]'",
        ) from error


def _url(where: Path | str) -> URL:
    if isinstance(where, Path) or "://" not in where:
        return URL.create("sqlite+pysqlite", database=str(Path(where).absolute()))
    try:
        url = make_url(where)
        drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
        name = drivers.get(url.drivername.partition("+")[0])
    except (ArgumentError, ValueError):
        name = None
    if name is None:
        raise UsageError(
            "database-url",
            "expected a path, or a URL that begins with sqlite:/// or postgresql://",
            where="REBAKE_DATABASE",
            remedy="for example postgresql://rebake@db.example.com/rebake",
        )
    return url.set(drivername=name)


def _sqlite(url: URL) -> Engine:
    path = Path(url.database or "")
    with translated(str(path)):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Settings of environments are in there: the owner's alone. SQLite gives its side files the same mode.
        os.close(_open_private(path))
    engine = create_engine(url, pool_size=8, max_overflow=-1, pool_timeout=BUSY_SECONDS)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _open_private(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # A file that may only be read can still be read: the first write will say what is wrong.
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _set_up(connection: Any, _record: object) -> None:
    # The driver's own BEGIN comes late and never IMMEDIATE: we begin ourselves.
    # Source: SQLAlchemy manual, dialects/sqlite, "Enabling Non-Legacy SQLite Transactional Modes".
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    # A reader that turns writer half way may be refused at once; so a writer queues for the lock from the start.
    writes = connection.get_execution_options().get("rebake_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
