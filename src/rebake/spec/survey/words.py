"""A line that was written for a shell, as the list of words that needs none."""

from __future__ import annotations

import re
import shlex

_OPERATORS = set("();<>|&")


def words_of(line: str) -> list[str] | None:
    """The words; None when only a shell can read the line: operators, globs, substitutions, unbalanced quotes.

    >>> words_of("gunicorn 'shop:make()' -w 2"), words_of("a && b"), words_of("rm *")
    (['gunicorn', 'shop:make()', '-w', '2'], None, None)
    """
    if re.search(r"[`*?\n]|\$\(", line):
        return None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        return None
    return None if any(set(word) <= _OPERATORS for word in words if word) else words
