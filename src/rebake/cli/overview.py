"""`status --watch` over every environment: redrawn on a terminal, one block for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rebake.cli.output import line, reader_left
from rebake.cli.words import View, environment_lines

_EVERY_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def block(views: list[View]) -> str:
    """Every environment, one after the other."""
    return "\n\n".join("\n".join(environment_lines(view)) for view in views)


def watch(look: Callable[[], list[Any]], wait: Callable[[float], None] = time.sleep) -> None:
    """Show what `look` finds whenever it changed, until Ctrl-C or until nobody reads."""
    shown = ""
    try:
        while not reader_left():
            text = block(look())
            if text != shown:
                line((_CLEAR if sys.stdout.isatty() else "") + text)
                shown = text
            wait(_EVERY_SECONDS)
    except KeyboardInterrupt:
        return
