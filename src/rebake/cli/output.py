"""Where words go: documents and lines to standard output, notices to standard error. Colour only where it is seen.

A reader who goes away (`rebake status | head`) is no error: what is left is written nowhere, and `reader_left` lets
endless commands end.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

_SHADES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class _Reader:
    """Whether somebody still reads standard output."""

    left = False


def reader_left() -> bool:
    return _Reader.left


def _write(stream: TextIO, text: str) -> None:
    try:
        _put(stream, text)
        stream.flush()
    except BrokenPipeError:
        _Reader.left = True
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _put(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal or file of ASCII: better a question mark than no answer
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))


def emit_json(doc: Any) -> None:
    """The one document of `--json`."""
    import json  # late: help and plain words never need it

    _write(sys.stdout, json.dumps(doc, ensure_ascii=False, indent=2) + "\n")


def line(text: str = "") -> None:
    _write(sys.stdout, text + "\n")


def notice(text: str) -> None:
    """To standard error: progress and remarks that are not the answer."""
    _write(sys.stderr, text + "\n")


def in_colour(stream: TextIO) -> bool:
    """Source: no-color.org; https://bixense.com/clicolors for the override."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def shows_blocks(stream: TextIO | None = None) -> bool:
    """Whether the stream (standard output) can carry blocks and lines, or plain ASCII only."""
    if os.environ.get("TERM") == "dumb":
        return False
    try:
        "▁█━┄│".encode(getattr(stream or sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def paint(text: str, *shades: str, stream: TextIO | None = None) -> str:
    """The text in shades (`bold`, `red`, …) when the stream (standard output) is a terminal that shows them."""
    if not text or not in_colour(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(_SHADES[shade] for shade in shades)}m{text}\x1b[0m"
