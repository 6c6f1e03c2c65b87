"""The page for people."""

from __future__ import annotations

import time
from pathlib import Path
from string import Template

from markupsafe import Markup, escape

from guestbook.store import Note

_PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
_NOTE = Markup("<li><blockquote>{text}</blockquote><footer>{author}<time>{at}</time></footer></li>")
_EMPTY = Markup('<li class="empty">The first page is still empty. Be the first to sign it.</li>')


def render(greeting: str, notes: list[Note], revision: str, instance: str) -> str:
    """The whole page. Whatever people wrote is escaped: `Markup` does it by itself."""
    items = [_NOTE.format(text=note.text, author=note.author, at=_when(note.at)) for note in notes]
    return _PAGE.substitute(
        greeting=escape(greeting.capitalize()),
        notes=Markup("\n").join(items or [_EMPTY]),
        revision=escape(revision.removeprefix("sha256:")[:12]),
        instance=escape(instance),
    )


def _when(at: float) -> str:
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(at))
