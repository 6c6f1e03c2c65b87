"""The command of a run contract as one instance is told it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expand(command: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Expand references in each word; there is no shell, so a value is never split.

    >>> expand(["serve", "--port=$PORT", "$$HOME", "$OTHER"], {"PORT": "1"})
    ('serve', '--port=1', '$HOME', '$OTHER')
    """

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        return names.get(match[2] or match[3], match[0])

    return tuple(_REFERENCE.sub(value, word) for word in command)
