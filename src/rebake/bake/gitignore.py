"""The patterns of a `.gitignore`, each tried on one path itself. Pure.

Libraries also let a pattern speak for what lies below a matching folder; git does not: it never enters an ignored
folder, and a pattern that takes a folder back (`!lib`) says nothing of what is in it. The walk does as git does, so the
patterns must, too. Compared with git itself in `tests/unit/bake/test_ignore.py`.

Source: git-scm.com, gitignore(5), "Pattern format"; git's wildmatch.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "\\x21-\\x7e",
    "lower": "a-z",
    "print": "\\x20-\\x7e",
    "punct": "\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e",
    "space": " \\t-\\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True, slots=True)
class GitPattern:
    """One line: what it matches, from the folder of its file; whether it takes back; whether it means folders only."""

    regex: re.Pattern[str]
    takes_back: bool
    folders_only: bool


def git_patterns(lines: Iterable[str]) -> tuple[GitPattern, ...]:
    """Parse the lines of a `.gitignore`. A line that git cannot match anything with is left out, as git does."""
    return tuple(pattern for line in lines if (pattern := _parse(line)) is not None)


def git_verdict(patterns: tuple[GitPattern, ...], path: str, is_folder: bool) -> bool | None:
    """True: ignored, False: taken back, None: no pattern speaks. The last that matches decides.

    Args:
        path: from the folder of the patterns' file, without a slash at its end.
    """
    for pattern in reversed(patterns):
        if (is_folder or not pattern.folders_only) and pattern.regex.fullmatch(path):
            return not pattern.takes_back
    return None


def _parse(line: str) -> GitPattern | None:
    line = re.sub(r"(?<!\\)((?:\\\\)*) +$", r"\1", line.rstrip("\r\n"))
    if not line or line.startswith("#"):
        return None
    takes_back = line.startswith("!")
    text = line[1:] if takes_back else line
    folders_only = text.endswith("/")
    text = text.removesuffix("/")
    anchored = "/" in text
    body = _translate(text.removeprefix("/"))
    if not text or body is None:
        return None
    try:
        regex = re.compile(body if anchored else f"(?:.*/)?{body}", re.DOTALL)
    except re.error:
        return None
    return GitPattern(regex, takes_back, folders_only)


def _translate(text: str) -> str | None:
    """One pattern as a regular expression; None when it can match nothing."""
    out, at = "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            stars = re.compile(r"\**").match(text, at - 1)
            assert stars is not None
            out, at = _stars(text, out, at - 1, stars.end())
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            found = _bracket(text, at)
            if found is None:
                return None
            piece, at = found
            out += piece
        elif char == "\\":
            if at >= len(text):
                return None
            out += re.escape(text[at])
            at += 1
        else:
            out += re.escape(char)
    return out


def _stars(text: str, out: str, start: int, end: int) -> tuple[str, int]:
    """`**` between slashes or at an end reaches over folders; every other run of stars stays within one name."""
    alone_before = start == 0 or text[start - 1] == "/"
    if end - start == 2 and alone_before:
        if text[end : end + 1] == "/":
            return out + "(?:.*/)?", end + 1
        if end == len(text):
            return out + ".*" * (start == 0) + ".+" * (start > 0), end
    return out + "[^/]*", end


def _bracket(text: str, at: int) -> tuple[str, int] | None:
    """A set of characters, from behind its `[`; None without its end."""
    negated = text[at : at + 1] in ("!", "^") and at < len(text)
    at += negated
    parts, first = [], at
    while at < len(text) and (text[at] != "]" or at == first):
        if text.startswith("[:", at) and (end := text.find(":]", at)) > 0:
            if text[at + 2 : end] not in _CLASSES:
                return None
            parts.append(_CLASSES[text[at + 2 : end]])
            at = end + 2
            continue
        if text[at] == "\\":
            at += 1
        if at >= len(text):
            return None
        parts.append("-" if text[at] == "-" and text[at + 1 : at + 2] != "]" and at != first else re.escape(text[at]))
        at += 1
    if at >= len(text):
        return None
    return f"(?!/)[{'^' * negated}{''.join(parts)}]", at + 1
