"""The user's file to a `Spec`, or every mistake in it at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rebake.errors import Mistake, SpecError, UsageError
from rebake.spec.group import Group
from rebake.spec.model import Part, Spec
from rebake.spec.report import Finding, Locator, findings, mistakes
from rebake.spec.rules import RULES, Rule
from rebake.spec.tree import Builder, Halt, Node
from rebake.spec.tree import Path as KeyPath

LARGEST = 256 * 1024
"""Bytes of a file. A longer one is not a rebake.yaml."""

_CONTROL = "a character that YAML does not allow"


def load(path: Path) -> Spec:
    """Read and check a rebake.yaml.

    Raises: as `read`; SpecError with every mistake.
    """
    return parse(read(path), path.name)


def load_group(path: Path) -> Group:
    """Read and check the file of a release group.

    Raises: as `read`; SpecError with every mistake.
    """
    root, early = _root(read(path), path.name)
    group = _check(root, early, path.name, Group, ())
    assert isinstance(group, Group)
    return group


def read(path: Path) -> str:
    """The text of a file.

    Raises: UsageError `no-rebake-yaml` when there is none, `file-unreadable` when it cannot be read; SpecError with
        every mistake.
    """
    name = path.name
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "no-rebake-yaml",
            f"expected a file {name}, found none in {path.absolute().parent}",
            where=str(path),
            remedy="run `rebake init` to write one, or name another with --file",
        ) from None
    except OSError as error:
        problem = f"expected a file that can be read, found: {error.strerror}"
        raise UsageError("file-unreadable", problem, where=str(path), remedy="correct its permissions") from error
    return _decode(data, name)


def _decode(data: bytes, name: str) -> str:
    if len(data) > LARGEST:
        problem = f"expected at most {LARGEST // 1024} KiB, found more"
        raise SpecError(name, [Mistake("file-too-large", "", problem)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        problem = f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}"
        remedy = "save the file as UTF-8"
        raise SpecError(name, [Mistake("not-utf8", "", problem, line, column, remedy)]) from None


def parse(text: str, name: str = "rebake.yaml") -> Spec:
    """Check a text.

    Args:
        name: what the mistakes call the file.
    Raises: SpecError with every mistake, in the order of the file.
    """
    root, early = _root(text, name)
    spec = _check(root, early, name, Spec, RULES)
    assert isinstance(spec, Spec)
    return spec


def _root(text: str, name: str) -> tuple[Node, list[Mistake]]:
    """The keys and values of a text, and what was wrong on the way. Raises: SpecError when there are none."""
    if len(text) > LARGEST:
        raise SpecError(name, [Mistake("file-too-large", "", f"expected at most {LARGEST // 1024} KiB, found more")])
    root, early = _tree(text)
    if root is None or (root.kind == "scalar" and root.value() is None):
        raise SpecError(name, early or [_empty(text)])
    if root.kind != "mapping":
        problem = f"expected keys and values such as service: guestbook, found a {root.kind.replace('scalar', 'word')}"
        raise SpecError(name, [*early, Mistake("not-a-mapping", "", problem, root.line, root.column)])
    return root, early


def _empty(text: str) -> Mistake:
    found = "comments only" if text.strip() else "an empty file"
    remedy = "remove the file and run `rebake init` to write one"
    return Mistake("file-empty", "", f"expected keys and values, found {found}", 1, 1, remedy)


def _tree(text: str) -> tuple[Node | None, list[Mistake]]:
    """The tree as far as it can be read, and what was wrong on the way."""
    builder: Builder | None = None
    try:
        builder = Builder(text)
        return builder.document(), builder.mistakes
    except Halt as halt:
        fatal = [halt.mistake]
    except yaml.reader.ReaderError as error:
        fatal = [_control_character(text, error)]
    except yaml.MarkedYAMLError as error:
        fatal = _tabs(text, error) or [_syntax(error)]
    return None, [*(builder.mistakes if builder else ()), *fatal]


def _control_character(text: str, error: yaml.reader.ReaderError) -> Mistake:
    before = text[: error.position]
    column = len(before) - before.rfind("\n")
    problem = f"expected text, found {_CONTROL} (U+{ord(text[error.position]):04X})"
    return Mistake("yaml-syntax", "", problem, before.count("\n") + 1, column, "remove the character")


def _tabs(text: str, error: yaml.MarkedYAMLError) -> list[Mistake]:
    """Every line that is indented with a tab, when that is why the text cannot be read."""
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    at_fault = lines[mark.line] if mark and mark.line < len(lines) else ""
    indented = re.match(r"[ -]*\t", at_fault)
    if not indented and "'\\t'" not in str(error.problem):
        return []
    remedy = "replace the tab with spaces"
    problem = "expected spaces, found a tab"
    found = [
        Mistake("yaml-tab", "", problem, number, match.end(), remedy)
        for number, line in enumerate(lines, 1)
        if (match := re.match(r"[ -]*\t", line)) and line.strip()
    ]
    return found or [
        Mistake("yaml-tab", "", problem, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0, remedy)
    ]


_SENTENCES = (
    ("mapping values are not allowed", "expected one key on a line, found a second colon", "put the value in quotes"),
    ("could not find expected ':'", "expected a colon after a key, found none", "write key: value"),
    (
        "expected <block end>",
        "expected the indentation of the lines above, found another",
        "align it with its neighbours",
    ),
    ("expected ',' or ']'", "expected a comma or ] in a list, found something else", "close the list with ]"),
    ("expected ',' or '}'", "expected a comma or } in a mapping, found something else", "close the mapping with }"),
    ("unexpected end of stream", "expected the closing quote, found the end of the file", "close the quote"),
    ("found undefined tag handle", "expected a plain value, found a tag", "remove the tag"),
    ("unknown escape character", "expected a known escape after \\, found another", "use single quotes"),
    (
        "cannot start any token",
        "expected a value, found a character that no value starts with",
        "put the value in quotes",
    ),
)


def _syntax(error: yaml.MarkedYAMLError) -> Mistake:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    said = str(error.problem or error.context or "")
    for marker, problem, remedy in _SENTENCES:
        if marker in said:
            return Mistake("yaml-syntax", "", problem, line, column, remedy)
    return Mistake("yaml-syntax", "", f"expected YAML, found a fault in it: {said}", line, column)


# --- values ----------------------------------------------------------------------------------------------------------


def _check(root: Node, early: list[Mistake], name: str, kind: type[Part], rules: Sequence[Rule]) -> Part:
    locator = Locator(root)
    found: list[Finding] = []
    data = _without_nothing(root.value(), (), found)
    empty = [item.path for item in found]
    spec: Part | None = None
    try:
        spec = kind.model_validate(data)
    except ValidationError as error:
        found += [item for item in findings(error, locator) if not _follows(item, empty)]
    for rule in rules:
        found += rule(data, locator.line)
    every = sorted([*early, *mistakes(found, locator)], key=lambda mistake: (mistake.line, mistake.column))
    if every or spec is None:
        raise SpecError(name, every)
    return spec


def _without_nothing(value: Any, path: KeyPath, found: list[Finding]) -> Any:
    """The mapping without keys that have no value; each is a mistake, lest a gate written without its value be lost."""
    if not isinstance(value, dict) or (path[:1] == ("environments",) and path[2:] == ("local",)):
        return (
            [_without_nothing(v, (*path, i), found) for i, v in enumerate(value)] if isinstance(value, list) else value
        )
    found += [_nothing((*path, key)) for key, inner in value.items() if inner is None]
    return {key: _without_nothing(v, (*path, key), found) for key, v in value.items() if v is not None}


def _nothing(path: KeyPath) -> Finding:
    remedy = 'write "" for empty text' if "env" in path[:-1] else "write a value, or remove the line"
    return Finding("key-without-value", path, "expected a value, found nothing", remedy, True)


def _follows(item: Finding, empty: list[KeyPath]) -> bool:
    """The finding only says again that a key has no value."""
    if item.code == "missing-key":
        return item.path in empty
    return item.code == "out-of-range" and any(path[: len(item.path)] == item.path for path in empty)
