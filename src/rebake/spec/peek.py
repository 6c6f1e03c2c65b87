"""The service's name without reading the whole file: for commands that only need to know whom they ask about."""

from __future__ import annotations

import re
from pathlib import Path

_SERVICE = re.compile(r"""service[ ]*:[ ]+(["']?)([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\1[ ]*(?:#.*)?""")
_MOST = 256 * 1024


def peek_service(path: Path) -> str | None:
    """The value of the top-level key `service`, found by a scan of the lines.

    Returns: the name; None when the file is missing, unreadable or does not say it on one plain line. The full loader
    says what is wrong with such a file.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST).decode("utf-8-sig", "replace")
    except OSError:
        return None
    for line in text.splitlines():
        match = _SERVICE.fullmatch(line.rstrip())
        if match:
            return match[2]
    return None
