"""YAML text to plain values, with the line and column of every key and value.

Reads YAML's events and builds the tree itself, so that no tag is ever executed, aliases are counted before they are
expanded, and every fault is collected. Plain words are read as YAML 1.2 does (`0644`, `1:30` and dates are text), but
`yes`, `no`, `on` and `off` are booleans as in YAML 1.1: many tools read them so, and a file that means different things
to different tools is a trap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from rebake.errors import Mistake
from rebake.spec.fields import SourceFloat, SourceInt

MOST_NODES = 20_000
"""Values in a file after its aliases are expanded."""
DEEPEST = 32
"""Mappings and lists within each other."""

Path = tuple[str | int, ...]
Kind = Literal["scalar", "mapping", "list"]

_CORE = "tag:yaml.org,2002:"
_BOOLEANS = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,18}([eE][-+]?[0-9]{1,2})?")
_KNOWN_TAGS = {_CORE + name for name in ("str", "int", "float", "bool", "null", "map", "seq")}


@dataclass
class Node:
    """One value of the file as it is written.

    Attributes:
        source: the text of a scalar, without quotes.
        plain: a scalar without quotes, so that it may be a number, a boolean or nothing.
        entries: keys and values of a mapping, duplicates removed, merges not yet applied.
        items: values of a list.
        weight: how many values it and everything below it hold, aliases expanded.
        depth: how many mappings and lists lie within each other here, itself included.
    """

    kind: Kind
    line: int
    column: int
    source: str = ""
    plain: bool = True
    entries: dict[str, tuple[Node, Node]] = field(default_factory=dict)
    items: list[Node] = field(default_factory=list)
    merges: list[Node] = field(default_factory=list)
    weight: int = 1
    depth: int = 0

    def value(self) -> Any:
        """The plain value: dict, list, str, bool, None, or a number that remembers its spelling."""
        if self.kind == "mapping":
            return {key: node.value() for key, (_, node) in self.resolved().items()}
        if self.kind == "list":
            return [item.value() for item in self.items]
        return scalar(self.source) if self.plain else self.source

    def hold(self, inner: Node) -> None:
        """Count what now lies within."""
        self.weight += inner.weight
        self.depth = max(self.depth, 1 + inner.depth)

    def resolved(self) -> dict[str, tuple[Node, Node]]:
        """The entries with `<<` applied: what is written here wins, then the first of the merged mappings."""
        result: dict[str, tuple[Node, Node]] = {}
        for merged in reversed(self.merges):
            result.update(merged.resolved())
        return {**result, **self.entries}


def scalar(text: str) -> Any:
    """What a plain word means.

    >>> scalar("8080"), scalar("yes"), scalar("0644"), scalar("~"), scalar("2h")
    (8080, True, '0644', None, '2h')
    """
    if text in ("", "~") or text.lower() == "null":
        return None
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    for pattern, kind in ((_INTEGER, SourceInt), (_FLOAT, SourceFloat)):
        if pattern.fullmatch(text):
            number = kind(text)
            number.text = text
            return number
    return text


class Halt(Exception):
    """Reading cannot go on after this mistake."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake.problem)
        self.mistake = mistake


def dotted(path: Path) -> str:
    """A key path as people write it.

    >>> dotted(("checks", 0, "http"))
    'checks[0].http'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


class Builder:
    """Builds one tree from events. `mistakes` holds what was wrong and did not end the reading."""

    def __init__(self, text: str) -> None:
        self.mistakes: list[Mistake] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        """The one document; None when the file holds nothing. Raises: Halt, yaml.YAMLError."""
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    problem = "expected one document, found a second one after ---"
                    raise Halt(_at(event, "several-documents", (), problem, "keep one service in one file"))
                root = self._node(next(self._events), ())
                self._anchors.clear()
        return root

    def _node(self, event: Any, path: Path) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        self._check_depth(len(path), event)
        self._count(1, event, path)
        self._check_tag(event, path)
        if event.anchor:
            self._anchors[event.anchor] = None
        node = self._build(event, path)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _build(self, event: Any, path: Path) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None and event.tag != _CORE + "str"
            return Node("scalar", line, column, event.value, plain)
        if isinstance(event, yaml.SequenceStartEvent):
            node = Node("list", line, column)
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                item = self._node(inner, (*path, len(node.items)))
                node.items.append(item)
                node.hold(item)
            return node
        return self._mapping(Node("mapping", line, column), path)

    def _mapping(self, node: Node, path: Path) -> Node:
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, path if isinstance(event, yaml.AliasEvent) else (*path, "?"))
            name = key.source if key.kind == "scalar" else "?"
            value = self._node(next(self._events), (*path, name))
            node.hold(key)
            node.hold(value)
            if key.kind != "scalar":
                self.mistakes.append(_at(event, "yaml-key", path, f"expected a word as a key, found a {key.kind}"))
            elif name == "<<" and key.plain:
                self._merge(node, value, path)
            elif name in node.entries:
                self._duplicate(node.entries[name][0], key, (*path, name))
            else:
                node.entries[name] = (key, value)
        return node

    def _merge(self, node: Node, value: Node, path: Path) -> None:
        sources = value.items if value.kind == "list" else [value]
        for source in sources:
            if source.kind == "mapping":
                node.merges.append(source)
            else:
                problem = "expected mappings to merge with <<, found something else"
                self.mistakes.append(Mistake("yaml-key", dotted((*path, "<<")), problem, value.line, value.column))

    def _duplicate(self, first: Node, second: Node, path: Path) -> None:
        problem = f"expected each key once, found {path[-1]} on line {first.line} and again on line {second.line}"
        remedy = "keep one of the two"
        self.mistakes.append(Mistake("duplicate-key", dotted(path), problem, second.line, second.column, remedy))

    def _alias(self, event: Any, path: Path) -> Node:
        if event.anchor not in self._anchors:
            known = ", ".join(sorted(self._anchors)) or "none"
            problem = f"expected the name of an anchor above (there is {known}), found *{event.anchor}"
            raise Halt(_at(event, "yaml-anchor", path, problem))
        node = self._anchors[event.anchor]
        if node is None:
            problem = f"expected an anchor that is complete, found *{event.anchor} within &{event.anchor}"
            raise Halt(_at(event, "yaml-anchor", path, problem, "an anchor cannot hold itself"))
        self._check_depth(len(path) + node.depth, event)
        self._count(node.weight, event, path)
        return node

    def _check_depth(self, depth: int, event: Any) -> None:
        if depth > DEEPEST:
            problem = f"expected at most {DEEPEST} mappings and lists within each other, found more"
            raise Halt(_at(event, "nesting-too-deep", (), problem))

    def _count(self, more: int, event: Any, path: Path) -> None:
        self._nodes += more
        if self._nodes > MOST_NODES:
            problem = f"expected at most {MOST_NODES} values once anchors are expanded, found more"
            raise Halt(_at(event, "anchor-expands", path, problem, "write the values out, or fewer of them"))

    def _check_tag(self, event: Any, path: Path) -> None:
        if event.tag is None or event.tag == "!" or event.tag in _KNOWN_TAGS:
            return
        shown = event.tag.replace(_CORE, "!!")
        problem = f"expected a plain value, found the tag {shown[:70]}"
        self.mistakes.append(_at(event, "yaml-tag", path, problem, "remove the tag"))


def _at(event: Any, code: str, path: Path, problem: str, remedy: str | None = None) -> Mistake:
    mark = event.start_mark
    return Mistake(code, dotted(path), problem, mark.line + 1, mark.column + 1, remedy)
