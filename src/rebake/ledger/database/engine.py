"""The connection to the database: SQLite or PostgreSQL, set up so that a commit is on the disk when it returns."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from rebake.errors import Permanent, UsageError
from rebake.ledger.database.faults import translated

BUSY_SECONDS = 10.0
"""How long a writer waits for another before it is told that the ledger is busy."""
PROVEN_SECONDS = 2.0
"""A connection to a server that was used so lately is used again unasked: to ask takes as long as to read."""

WRITES = {"rebake_writes": True}
"""Execution options of a connection whose transaction writes."""
WRITES_LATER = WRITES | {"rebake_later": True}
"""The same, for what a power cut may take back: nothing waits for the disk, the next durable commit takes it there."""
READS_ONCE = {"rebake_reads_once": True}
"""Of a connection that reads with one statement: it sees one state of the database, also without a transaction."""

_AGAIN_SECONDS = 0.005

_PRAGMAS = (
    f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}",
    # In WAL mode NORMAL loses the last transactions at a power cut. An intent must be on the disk before its action.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA cache_size=-4096",
)

_CONNECT = {
    "application_name": "rebake",
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A server that is gone is noticed within seconds. Source: PostgreSQL manual, libpq, parameter key words."""

OLDEST_SERVER = 12_00_00
"""As libpq counts versions. Source: PostgreSQL manual, libpq, PQserverVersion."""

_PATIENCE = {
    "lock_timeout": BUSY_SECONDS,
    # An engine that was stopped (SIGSTOP, a frozen machine) inside a transaction must not keep the others from writing:
    # the server ends its transaction, and the engine reads again when it goes on.
    "idle_in_transaction_session_timeout": BUSY_SECONDS / 2,
}


def make_engine(where: Path | str) -> Engine:
    """An engine for a file (a path) or a database (a URL such as `postgresql://user@host/name`).

    Raises: UsageError `database-url`, `database-driver-missing`; Permanent when the file's folder cannot be made.
    """
    url = _url(where)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    return _postgresql(url)


def shown(url: URL) -> str:
    """The URL as it may be printed: without a password, wherever one stands in it, and without the driver.

    >>> shown(make_url("postgresql+psycopg://ada:secret@/rebake?host=/run/postgresql&password=secret"))
    'postgresql://ada@/rebake?host=/run/postgresql'
    """
    if url.get_backend_name() == "sqlite":
        return url.database or ""
    open_to_all = url.difference_update_query([name for name in url.query if "password" in name])
    return unquote(open_to_all._replace(drivername="postgresql", password=None).render_as_string())


def place(where: Path | str) -> str:
    """How a person calls the place of a ledger: a path, or a URL without its password. Raises: UsageError."""
    return shown(_url(where))


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            pool_size=8,
            max_overflow=8,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args={name: value for name, value in _CONNECT.items() if name not in url.query},
        )
    except ImportError as error:
        raise UsageError(
            "database-driver-missing",
            f"no driver for {shown(url)}: {error}",
            where="REBAKE_DATABASE",
            remedy="pip install 'psycopg[binary]'",
        ) from error
    event.listen(engine, "connect", _greet)
    event.listen(engine, "begin", _begin_on_server)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", partial(_prove, engine.dialect))
    return engine


def _note_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _prove(dialect: Dialect, connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Ask whether a connection still stands that was not used for a while: one that a restarted server forgot is made
    anew before it is used. Source: SQLAlchemy manual, "Custom / Legacy Pessimistic Ping"."""
    used_at = record.info.get("used_at")
    if used_at is None or time.monotonic() - used_at < PROVEN_SECONDS:
        return
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _greet(connection: Any, _record: object) -> None:
    """What is asked of a server before it is used. Raises: Permanent `database-too-old`."""
    found = connection.info.server_version
    if found < OLDEST_SERVER:
        raise Permanent(
            "database-too-old",
            f"expected PostgreSQL {OLDEST_SERVER // 10_000} or newer, found {found // 10_000}.{found % 10_000}",
            where="REBAKE_DATABASE",
            remedy="upgrade the server, or name another one",
        )
    for setting, seconds in _PATIENCE.items():
        connection.execute(f"SET SESSION {setting} = '{seconds:g}s'")
    connection.commit()


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
    engine = create_engine(url, pool_size=8, max_overflow=-1, pool_timeout=BUSY_SECONDS, hide_parameters=True)
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
    _log_ahead(connection)


def _log_ahead(connection: Any) -> None:
    """Put the file into WAL mode, in which it stays.

    Of several that do so at once all but one are refused on the spot, whatever `busy_timeout` says: they would wait for
    each other. Source: SQLite, sqlite3_busy_handler, "might not be invoked".
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)
        else:
            return


def _begin(connection: Connection) -> None:
    # A reader that turns writer half way may be refused at once; so a writer queues for the lock from the start.
    options = connection.get_execution_options()
    if options.get("rebake_reads_once"):
        return
    if not options.get("rebake_writes"):
        connection.exec_driver_sql("BEGIN")
        return
    # NORMAL: the log is written and not synced. Commits follow each other in it, so a later sync takes all.
    mode = "NORMAL" if options.get("rebake_later") else "FULL"
    if connection.info.get("synchronous") != mode:
        connection.exec_driver_sql(f"PRAGMA synchronous={mode}")
        connection.info["synchronous"] = mode
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_on_server(connection: Connection) -> None:
    if connection.get_execution_options().get("rebake_later"):
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
