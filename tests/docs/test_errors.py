"""docs/errors.md has one entry for every error code of the source, with its family's exit code, and no other."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.errors import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
SOURCE = ROOT / "src" / "rebake"

CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")
RAISED = {"UsageError", "BakeError", "Refused", "Transient", "Permanent", "LedgerConflict", "Interrupted"}
"""What takes an error's code as its first argument."""
ALSO = {"spec": {"Mistake", "Finding", "mistaken", "one_of"}, "bake": {"add"}, "server": {"_refused"}}
"""The same in rooms where a mistake is a value first."""
EXIT_CODES = {family.__name__: family.exit_code for family in FAMILIES.values()} | {"Transient": 5, "Permanent": 5}


def entries() -> list[tuple[str, str]]:
    """Code and text of every entry."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _literals(node: ast.expr) -> Iterator[str]:
    """The text of an argument that is a literal, or one of two by a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _literals(node.body)
        yield from _literals(node.orelse)


def raised() -> Iterator[tuple[str, str, str]]:
    """Code, constructor and place of every error that the source constructs with a literal code."""
    for path in sorted(SOURCE.rglob("*.py")):
        if SOURCE / "testing" in path.parents:
            continue
        takers = RAISED | ALSO.get(path.relative_to(SOURCE).parts[0], set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            if name in takers and not called.startswith("click."):
                for code in _literals(node.args[0]):
                    yield code, name, f"{path.relative_to(ROOT)}:{node.lineno}"


def mentioned() -> set[str]:
    """Every literal in the source that could be a code."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if SOURCE / "testing" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_the_source_is_read_at_all() -> None:
    codes = {code for code, _, _ in raised()}
    assert {"disk-full", "unknown-key", "wrong-usage", "lease-lost", "likely-secret"} <= codes


def test_every_code_has_an_entry() -> None:
    known = {code for code, _ in entries()}
    missing = sorted(f"{code} ({place})" for code, _, place in raised() if code not in known)
    assert not missing, f"add an entry to docs/errors.md for: {', '.join(missing)}"


def test_every_entry_is_a_code_of_the_source() -> None:
    literals = mentioned()
    kinds = {code for code, _ in entries() if any(code == f"wrong-{kind}" for kind in ("duration", "share", "size"))}
    gone = [code for code, _ in entries() if code not in literals and code not in kinds]
    assert not gone, f"no source knows these codes any more: {', '.join(gone)}"


def test_every_code_has_one_entry() -> None:
    assert [code for code, count in Counter(code for code, _ in entries()).items() if count > 1] == []


def test_every_code_is_kebab_case() -> None:
    assert [code for code, _, _ in raised() if CODE.fullmatch(code) is None and code != "interrupted"] == []


@pytest.mark.parametrize(("code", "text"), entries(), ids=[code for code, _ in entries()])
def test_an_entry_says_what_it_is_and_what_to_do(code: str, text: str) -> None:
    body = text.strip()
    assert 60 < len(body) < 900, f"{code}: an entry is two to five lines"
    assert body.count(". ") + body.count(".\n") + body.endswith((".", "`")) >= 2, f"{code}: what, and what to do"


def test_an_entry_names_the_exit_code_of_its_family() -> None:
    texts = dict(entries())
    for code, name, place in raised():
        said = re.findall(r"exit(?: code)? (\d)", texts.get(code, ""))
        if said and name in EXIT_CODES:
            assert str(EXIT_CODES[name]) in said, f"{code} ({place}) exits with {EXIT_CODES[name]}"
