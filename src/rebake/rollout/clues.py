"""What a program's last words tell about the remedy, for the mistakes that a sealed release makes likely. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CLUES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"Read-only file system|PermissionError|EACCES|EROFS|[Pp]ermission denied|readonly database"),
        "a release is read-only: write below $REBAKE_DATA (kept) or $TMPDIR, or name the folder in {platform}.writable",
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
_NO_SUCH_PATH = re.compile(r"GET (\S+) answered 404")


def clue(tail: Iterable[str], failure: str = "", platform: str = "local") -> str | None:
    """The remedy that the last lines of a log suggest; None when they suggest none.

    Args:
        failure: what its health check met; a program that runs and refuses connections listens elsewhere.
        platform: whose block of the file may name writable folders.

    >>> clue(["ModuleNotFoundError: No module named 'flask'"])
    'add the package that holds flask to the dependencies, or correct the name'
    """
    for line in reversed(tuple(tail)):
        for pattern, remedy in _CLUES:
            if found := pattern.search(line):
                return remedy.format(*found.groups(), platform=platform)
    if _SILENT.search(failure):
        return "let the program listen on $HOST:$PORT: nothing answers there"
    if found := _NO_SUCH_PATH.search(failure):
        return f"name a path under run.health.path that it answers with 200: it runs, and has no {found[1]}"
    return None
