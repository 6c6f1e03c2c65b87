"""How metrics are named in the user's file: selectors of series, and placeholders in queries. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SELECTOR = re.compile(rf"\s*({NAME})\s*(?:\{{(.*)\}}\s*)?", re.DOTALL)
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}

Operator = Literal["=", "!=", "=~", "!~"]


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label. A regular expression must match the whole value, as in Prometheus."""

    label: str
    operator: Operator
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.label, "")
        if self.operator in ("=", "!="):
            return (found == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, found) is not None) == (self.operator == "=~")


@dataclass(frozen=True, slots=True)
class Selector:
    """The series of one name whose labels fulfil every condition."""

    name: str
    matchers: tuple[Matcher, ...] = ()

    def holds(self, name: str, labels: Mapping[str, str]) -> bool:
        return name == self.name and all(matcher.holds(labels) for matcher in self.matchers)


def parse_selector(text: str) -> Selector:
    """A selector as PromQL writes it. Raises: ValueError with what is wrong.

    >>> parse_selector('jobs_total{state="failed", queue=~"mail|sms"}').matchers[1]
    Matcher(label='queue', operator='=~', value='mail|sms')
    """
    whole = _SELECTOR.fullmatch(text)
    if whole is None:
        raise ValueError('a metric\'s name, with conditions if any, such as jobs_total{state="failed"}')
    found, rest = [], whole[2] or ""
    while rest.strip():
        match = _MATCHER.match(rest)
        if match is None:
            raise ValueError(f'conditions such as {{state="failed"}}, at {rest.strip()[:40]!r}')
        label, operator, value = match[1], match[2], re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), match[3])
        if operator in ("=~", "!~"):
            _check_pattern(value)
        found.append(Matcher(label, operator, value))  # type: ignore[arg-type]
        rest = rest[match.end() :]
    return Selector(whole[1], tuple(found))


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a regular expression ({error}), at {pattern[:40]!r}") from None


PLACEHOLDERS: Mapping[str, str] = {
    "cohort": "stable or candidate",
    "fleet": "the cohort's fleet, which is the name of its rollout too",
    "revision": "digest of the cohort's revision",
    "release": "digest of the cohort's release",
    "instances": "addresses of its healthy instances, as alternatives of a regular expression",
    "names": "the instances' names, in the same way",
    "service": "the service",
    "environment": "the environment",
    "interval": "the metric's interval, such as 10s",
}
"""What may stand in a query as `$NAME`. `$$` is a dollar sign."""
_PLACEHOLDER = re.compile(r"\$(\$|[a-zA-Z_]+|\{[a-zA-Z_]+\})?")


def placeholders_in(query: str) -> list[str]:
    """The names that a query uses, in order; "" for a dollar sign that begins none."""
    found = (match[1] or "" for match in _PLACEHOLDER.finditer(query))
    return [name.strip("{}") for name in found if name != "$"]


def filled(query: str, values: Mapping[str, str]) -> str:
    """The query with its placeholders filled in.

    >>> filled('up{fleet="$fleet", path=~"/x$$"}', {"fleet": "r-1"})
    'up{fleet="r-1", path=~"/x$"}'
    """

    def value(match: re.Match[str]) -> str:
        name = (match[1] or "").strip("{}")
        return "$" if name == "$" else values.get(name, match[0])

    fill: Callable[[re.Match[str]], str] = value
    return _PLACEHOLDER.sub(fill, query)


def alternatives(words: list[str]) -> str:
    """Words as alternatives of a regular expression that needs no backslash, so that it fits into any quotes.

    >>> alternatives(["127.0.0.1:8001", "127.0.0.1:8002"])
    '127[.]0[.]0[.]1:8001|127[.]0[.]0[.]1:8002'
    """
    escaped = (re.sub(r"[.+*?^$(){}|\[\]]", lambda m: f"[{m[0]}]" if m[0] not in "[]^" else ".", w) for w in words)
    return "|".join(escaped) or "none"
