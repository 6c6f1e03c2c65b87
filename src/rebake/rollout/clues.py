"""What a program's last words tell about the remedy, for the mistakes that a sealed release makes likely. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CLUES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Read-only file system|PermissionError|EACCES|EROFS|[Pp]ermission denied|readonly database"),
        "a release is read-only: let the program write below $REBAKE_DATA (kept) or $TMPDIR (not kept)",
    ),
    (
        re.compile(r"[Aa]ddress already in use|EADDRINUSE"),
        "let the program listen on $HOST:$PORT: each instance has a port of its own",
    ),
    (
        re.compile(r"No module named '?([\w.]+)'?"),
        "add the package that holds {} to the dependencies, or correct the name",
    ),
    (
        re.compile(r"Cannot find (?:module|package) '([^']+)'"),
        "add {} to the dependencies in package.json, or correct the name",
    ),
    (re.compile(r"DisallowedHost|Invalid HTTP_HOST header"), "add 127.0.0.1 to ALLOWED_HOSTS: health is asked there"),
)
_SILENT = re.compile(r"connection refused")


def clue(tail: Iterable[str], failure: str = "") -> str | None:
    """The remedy that the last lines of a log suggest; None when they suggest none.

    Args:
        failure: what its health check met; a program that runs and refuses connections listens elsewhere.

    >>> clue(["ModuleNotFoundError: No module named 'flask'"])
    'add the package that holds flask to the dependencies, or correct the name'
    """
    for line in reversed(tuple(tail)):
        for pattern, remedy in _CLUES:
            if found := pattern.search(line):
                return remedy.format(*found.groups())
    if _SILENT.search(failure):
        return "let the program listen on $HOST:$PORT: nothing answers there"
    return None
