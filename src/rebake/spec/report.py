"""Mistakes as people read them: pydantic's errors in the file's own words, with the place and the nearest spelling."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rebake.errors import Mistake, UsageError
from rebake.spec.keys import homes_of, keys_at
from rebake.spec.model import OTHER_PLATFORMS, TAG
from rebake.spec.tree import Node, Path, dotted

LineOf = Callable[[Path], int]
"""The line of a key path."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake by its key path. `on_key`: the key itself is meant, not its value."""

    code: str
    path: Path
    problem: str
    remedy: str | None = None
    on_key: bool = False


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant.

    >>> nearest("platfrom", ["platform", "listen"])
    'platform'
    """
    by_fold = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower()[:100], by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The remedy that names it."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else None


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    items = list(words)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]


def flow(items: Sequence[str]) -> str:
    """A YAML list on one line, with quotes only where YAML needs them.

    >>> flow(["python", "-m", "app", "8080", "a: b"])
    '[python, -m, app, "8080", "a: b"]'
    """
    return "[" + ", ".join(quoted(item) for item in items) + "]"


def quoted(text: str) -> str:
    """A YAML scalar that is text, whatever YAML thinks of its letters."""
    plain = re.fullmatch(r"[A-Za-z/.$_-][A-Za-z0-9/.$_=:@+-]*", text) and not text.endswith(":")
    reads_as_text = text.lower() not in {"true", "false", "yes", "no", "on", "off", "null", "y", "n", "-", "---", "..."}
    return text if plain and reads_as_text and not re.match(r"[-+.]*\d", text) else _escaped(text)


def _escaped(text: str) -> str:
    """In double quotes, with what YAML does not allow as it is escaped."""
    written = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", written)


class Locator:
    """Finds the place of a key path in the tree."""

    def __init__(self, root: Node) -> None:
        self._root = root

    def find(self, path: Path) -> tuple[Node | None, Node | None]:
        """The node of the key and of its value; the value is None where the path leads nowhere."""
        key: Node | None = None
        node: Node | None = self._root
        for part in path:
            if node is None:
                return None, None
            key, node = _step(node, part)
        return key, node

    def line(self, path: Path) -> int:
        key, node = self.find(path)
        place = key or node
        return place.line if place else 0

    def place(self, finding: Finding) -> tuple[int, int]:
        """Line and column: of the value, of the key, or of the innermost mapping there is."""
        path = finding.path
        key, node = self.find(path)
        place = (key or node) if finding.on_key else node
        while place is None and path:
            path = path[:-1]
            key, node = self.find(path)
            place = key or node
        place = place or self._root
        return place.line, place.column


def _step(node: Node, part: str | int) -> tuple[Node | None, Node | None]:
    if node.kind == "mapping":
        return node.resolved().get(str(part), (None, None))
    if node.kind == "list" and isinstance(part, int) and part < len(node.items):
        return None, node.items[part]
    return None, None


def describe(node: Node | None) -> str:
    """What was found, in a few words."""
    if node is None:
        return "nothing"
    if node.kind != "scalar":
        empty = not (node.entries or node.items or node.merges)
        return f"{'an empty' if empty else 'a'} {node.kind}"
    value = node.value()
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        meaning = "true" if value else "false"
        return node.source if node.source == meaning else f"{node.source}, which YAML reads as {meaning}"
    return json.dumps(node.source[:70], ensure_ascii=False) if isinstance(value, str) else node.source


_PLAIN = {
    "model_type": ("wrong-type", "a mapping of keys and values"),
    "model_attributes_type": ("wrong-type", "a mapping of keys and values"),
    "dict_type": ("wrong-type", "a mapping of names and values"),
    "bool_type": ("wrong-type", "true or false"),
    "string_type": ("wrong-type", "text"),
    "string_pattern_mismatch": ("wrong-type", "1 to 64 letters, digits, - and _"),
    "too_short": ("out-of-range", "at least one value"),
}


def findings(error: ValidationError, locator: Locator) -> Iterator[Finding]:
    """Every error of pydantic in our words; a key that is only misspelled is not also called missing."""
    found: list[Finding] = []
    for item in error.errors(include_url=False, include_input=False):
        on_key = "[key]" in item["loc"][-1:]
        *places, last = item["loc"] or ("",)
        ours = [part for part in places if not str(part).startswith(TAG)]
        is_key = item["type"] == "extra_forbidden" or not str(last).startswith(
            TAG
        )  # a key may begin as a tag does: "\0"
        path = (*ours, last) if item["loc"] and is_key else tuple(ours)
        found += _one(item["type"], path[:-1] if on_key else path, item.get("ctx") or {}, locator, on_key)
    meant = {(*f.path[:-1], nearest(str(f.path[-1]), keys_at(f.path[:-1]))) for f in found if f.code == "unknown-key"}
    yield from (f for f in found if f.code != "missing-key" or f.path not in meant)


def _one(kind: str, path: Path, ctx: dict[str, Any], locator: Locator, on_key: bool) -> Iterator[Finding]:
    found = describe(locator.find(path)[1])
    if kind == "missing":
        problem = f"expected the key {path[-1]}, which has no default, found no such key"
        yield Finding("missing-key", path, problem)
    elif kind == "extra_forbidden":
        yield from _unknown_key(path, locator)
    elif kind == "literal_error":
        known = re.findall(r"'([^']*)'", str(ctx.get("expected")))
        word = getattr(locator.find(path)[1], "source", "")
        yield Finding("unknown-value", path, f"expected {listed(known)}, found {found}", did_you_mean(word, known))
    elif kind in ("tuple_type", "list_type"):
        yield _not_a_list(path, locator, found)
    elif kind in _PLAIN:
        code, expected = _PLAIN[kind]
        yield Finding(code, path, f"expected {expected}, found {found}")
    elif "expected" in ctx and "problem" in ctx:
        problem = ctx["problem"] or f"expected {ctx['expected']}, found {ctx['found'] or found}"
        yield Finding(kind, path, problem, ctx["remedy"], on_key)
    else:
        yield Finding("wrong-type", path, f"expected another kind of value, found {found}", None, on_key)


def _unknown_key(path: Path, locator: Locator) -> Iterator[Finding]:
    name, parent = str(path[-1]), path[:-1]
    if name in OTHER_PLATFORMS and len(path) == 3 and path[0] == "environments":
        platform = getattr(locator.find((*parent, "platform"))[1], "source", "another platform")
        if platform != name:
            problem = f"expected settings of {platform}, on which {path[1]} runs, found settings of {name}"
            yield Finding("platform-block", path, problem, "remove the block", True)
        return
    known = keys_at(parent)
    remedy = did_you_mean(name, known)
    homes = homes_of(name)
    if homes and not remedy:
        nearest_first = sorted(homes, key=lambda home: home.count("."))  # what many files have stands less deep
        remedy = f"{name} belongs to {listed(nearest_first[:4])}"
    yield Finding("unknown-key", path, f"expected one of {', '.join(known)}; found {name[:70]}", remedy, True)


def _not_a_list(path: Path, locator: Locator, found: str) -> Finding:
    node = locator.find(path)[1]
    if node is None or node.kind != "scalar":
        return Finding("wrong-type", path, f"expected a list, found {found}")
    if path[-1] != "command":
        return Finding("wrong-type", path, f"expected a list, found {found}", f"write {path[-1]}: [{node.source[:70]}]")
    try:
        words = shlex.split(node.source)
    except ValueError:
        words = node.source.split()
    problem = f"expected a list of the program and its arguments, since no shell reads it; found {found}"
    return Finding("command-not-list", path, problem, f"write command: {flow(words)[:300]}")


def mistakes(found: Iterable[Finding], locator: Locator) -> list[Mistake]:
    """Findings with their places, in the order of the file, one for each key and code."""
    result: dict[tuple[str, str], Mistake] = {}
    for item in found:
        key = dotted(item.path)
        line, column = locator.place(item)
        result.setdefault((item.code, key), Mistake(item.code, key, item.problem, line, column, item.remedy))
    return sorted(result.values(), key=lambda mistake: (mistake.line, mistake.column, mistake.key))


def unknown_environment(service: str, known: Collection[str], found: str) -> UsageError:
    """An environment that the file does not describe."""
    names = ", ".join(known)
    return UsageError(
        "unknown-environment",
        f"expected an environment of {service} ({names}), found {found}",
        where="environments",
        remedy=did_you_mean(found, known) or f"use one of {names}, or add it to rebake.yaml",
    )
