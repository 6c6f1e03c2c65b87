"""A line that was written for a shell, as the list of words that needs none."""

from __future__ import annotations

import re
import shlex

_OPERATORS = set("();<>|&")


def words_of(line: str) -> list[str] | None:
    """The words; None when only a shell can read the line: operators, globs, substitutions, unbalanced quotes.

    None also when a word is blank: `run.command` has none.

    >>> words_of("gunicorn 'shop:make()' -w 2"), words_of("a && b"), words_of("rm *"), words_of("a ''")
    (['gunicorn', 'shop:make()', '-w', '2'], None, None, None)
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
    return None if any(not word.strip() or set(word) <= _OPERATORS for word in words) else words
