"""What the database or the disk says, as errors that say what to do. Most specific first."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, TimeoutError

from rebake.errors import Permanent, RebakeError, Transient


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy, its drivers and the file system into rebake's.

    Args:
        where: the file, or the URL without its password.
    """
    try:
        yield
    except DBAPIError as error:
        raise translate(error.orig or error, where) from error
    except (sqlite3.Error, TimeoutError, OSError) as error:
        raise translate(error, where) from error


def translate(error: BaseException, where: str) -> RebakeError:
    """The error as a person reads it."""
    kind = _kind(error)
    return _ERRORS[kind](error, where)


def _kind(error: BaseException) -> str:
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, "unavailable")
    if isinstance(error, TimeoutError):
        return "busy"
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _BY_EXTENDED.get(code) or _BY_SQLITE.get(code & 0xFF, "unavailable")
    state = getattr(error, "sqlstate", None)
    if state:
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2], "unavailable")
    for sentence, kind in _BY_SENTENCE.items():  # the driver gives a refused connection no state
        if sentence in str(error):
            return kind
    if "decode to UTF-8" in str(error):  # the driver gives this one no code
        return "damaged"
    return "unreachable" if not isinstance(error, sqlite3.Error) else "unavailable"


_BY_ERRNO = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
}
_BY_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE: "full"}
"""The memory of the write-ahead log's index cannot grow: the disk is full."""
# Source: https://sqlite.org/rescode.html
_BY_SQLITE = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
# Source: PostgreSQL manual, appendix A, error codes
_BY_SQLSTATE = {
    "53100": "server-full",
    "25006": "server-read-only",
    "42501": "no-right",
    "25P03": "unreachable",
    "28": "refused",
    "3D": "absent",
    "3F": "no-right",  # no schema that this user may use
    "40": "busy",
    "55": "busy",
    "57": "unreachable",
    "53": "busy",
    "08": "unreachable",
    "XX": "damaged",
}
_BY_SENTENCE = {
    "authentication failed": "refused",
    "no password supplied": "refused",
    "no pg_hba.conf entry": "refused",
    "is not permitted to log in": "refused",
    'database "': "absent",
    "too many connections": "busy",
    "too many clients": "busy",
}
"""In the server's English. In another language such an error is still told, as one of a server that does not answer."""


def _said(error: BaseException) -> str:
    """The sentence that matters, on one line: the server's own last word, where there is one."""
    text = str(error)
    return (text.rpartition("FATAL:")[2] if "FATAL:" in text else text).strip().partition("\n")[0]


def _full(error: BaseException, where: str) -> RebakeError:
    said = _said(error)
    return Permanent(
        "disk-full",
        f"the ledger cannot be written: {said if 'full' in said else 'the disk is full, ' + said}",
        where=where,
        remedy="free space on that disk; while the agent runs, `rebake gc` removes releases that nothing needs",
    )


def _server_full(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "disk-full",
        f"the ledger cannot be written: {_said(error)}",
        where=where,
        remedy="free space on the disk of the database server; what serves goes on, and so does the agent then",
    )


def _read_only(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "store-read-only",
        f"the ledger cannot be written: {_said(error)}",
        where=where,
        remedy="make the file and its folder writable for the user who runs rebake, or set REBAKE_HOME elsewhere",
    )


def _server_read_only(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "store-read-only",
        f"the ledger cannot be written: {_said(error)}",
        where=where,
        remedy="name the server that takes writes, not a replica, and see that default_transaction_read_only is off",
    )


def _no_right(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "store-read-only",
        f"the ledger cannot be written: {_said(error)}",
        where=where,
        remedy="let the user of REBAKE_DATABASE own the database: ALTER DATABASE … OWNER TO …",
    )


def _refused(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "database-refused",
        f"the database lets this user not in: {_said(error)}",
        where=where,
        remedy="correct user and password in REBAKE_DATABASE (the password may also stand in ~/.pgpass)",
    )


def _absent(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "database-absent",
        f"the server has no such database: {_said(error)}",
        where=where,
        remedy="make it on the server (CREATE DATABASE … OWNER …), or correct its name in REBAKE_DATABASE",
    )


def _busy(error: BaseException, where: str) -> RebakeError:
    return Transient(
        "ledger-busy",
        f"the ledger is kept busy by others: {_said(error)}",
        where=where,
        remedy="try again; `rebake ledger leases` names who leads what",
        retry_after_seconds=1.0,
    )


def _damaged(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "ledger-damaged",
        f"the file is not a whole database: {_said(error)}",
        where=where,
        remedy=f"what serves keeps serving; restore {where} from a backup, or move it away to begin a new ledger",
    )


def _unreachable(error: BaseException, where: str) -> RebakeError:
    return Transient(
        "ledger-unreachable",
        f"the database does not answer: {_said(error)}",
        where=where,
        remedy="check that the database runs and that REBAKE_DATABASE names it",
        retry_after_seconds=2.0,
    )


def _unavailable(error: BaseException, where: str) -> RebakeError:
    return Permanent(
        "ledger-unavailable",
        f"the ledger cannot be used: {_said(error)}",
        where=where,
        remedy="check the path, its folder and the disk (`rebake doctor`)",
    )


_ERRORS: dict[str, Callable[[BaseException, str], RebakeError]] = {
    "full": _full,
    "server-full": _server_full,
    "read-only": _read_only,
    "server-read-only": _server_read_only,
    "no-right": _no_right,
    "refused": _refused,
    "absent": _absent,
    "busy": _busy,
    "damaged": _damaged,
    "unreachable": _unreachable,
    "unavailable": _unavailable,
}
