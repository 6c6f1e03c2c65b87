"""Following a rollout to its end: live on a terminal, in lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from rebake.cli.output import line, notice, shows_blocks
from rebake.cli.story import chapter, progress_line
from rebake.cli.words import View


class Teller(Protocol):
    """Tells a person what the views say."""

    def show(self, view: View) -> None: ...


class Lines:
    """One line for each change of state, step, share or check."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last: tuple[Any, ...] | None = None

    def show(self, view: View) -> None:
        now = chapter(view)
        if now != self._last:
            self._last = now
            self._say(progress_line(view))


def is_live(as_json: bool) -> bool:
    """Whether standard output is a terminal that can be redrawn, and a person's rather than a CI's."""
    return not as_json and sys.stdout.isatty() and not os.environ.get("CI") and shows_blocks()


def teller(as_json: bool) -> AbstractContextManager[Teller]:
    """Who tells: the live view, or lines (with `--json` on standard error)."""
    if is_live(as_json):
        from rebake.cli.live import Live

        return Live()
    return nullcontext(Lines(notice if as_json else line))


def follow(views: Iterable[View], as_json: bool) -> View:
    """Show every view; the last one. Ctrl-C passes through as KeyboardInterrupt: the caller lets go."""
    last: View = {}
    with teller(as_json) as tell:
        for view in views:
            tell.show(view)
            last = view
    return last
