"""The JSON Schema and the manual say what the loader does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rebake.errors import SpecError
from rebake.spec.keys import all_keys
from rebake.spec.load import parse
from rebake.spec.schema import descriptions, json_schema, spelled_default
from rebake.spec.tree import Builder

from .test_spec_mistakes import BASE, CASES
from .test_spec_values import DESIGN, SMALL

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs" / "rebake-yaml.md").read_text("utf-8")
SCHEMA = json_schema()
EVERYTHING = [*re.findall(r"(?ms)^```yaml\n(service: .*?)^```", MANUAL), DESIGN, SMALL, BASE]
BEYOND_A_SCHEMA = {
    "freeze-ends-first", "unknown-zone", "window-without-days", "wrong-date", "wrong-time",
    "after-circle", "after-unknown", "canary-two-ways", "duplicate-check", "duplicate-key", "hold-back-not-here",
    "hold-back-too-large", "key-does-nothing", "listen-taken", "platform-block", "reserved-variable", "secret-collides",
    "image-missing", "step-complete",
    "steps-not-rising", "unknown-check", "unknown-variable", "wrong-listen",
}  # fmt: skip


def data_of(text: str) -> Any:
    root = Builder(text).document()
    assert root is not None
    return root.value()


def accepts(text: str) -> bool:
    return Draft202012Validator(SCHEMA).is_valid(data_of(text))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("text", EVERYTHING, ids=[f"file{n}" for n in range(len(EVERYTHING))])
def test_what_the_loader_accepts_the_schema_accepts(text: str) -> None:
    parse(text)
    Draft202012Validator(SCHEMA).validate(data_of(text))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}-{case.now[:20]!r}")
def test_what_the_schema_refuses_the_loader_refuses_and_mostly_the_other_way_round(case: Any) -> None:
    text = BASE.replace(case.was, case.now, 1)
    with pytest.raises(SpecError):
        parse(text)
    bounds = "from" in case.says or "at most 100%" in case.says
    by_kind = case.code == "missing-key" and case.key.endswith("listen")  # a worker has none
    told = case.code in ("wrong-duration", "wrong-share") and bounds
    if case.code not in BEYOND_A_SCHEMA and not told and not by_kind:
        assert not accepts(text)


def test_every_key_is_described_and_spelled_as_the_file_does() -> None:
    for path, part, key, field in all_keys():
        assert descriptions()[part.__name__][key], path
        if not field.is_required() and isinstance(field.default, int) and not isinstance(field.default, bool):
            properties = (SCHEMA if part.__name__ == "Spec" else SCHEMA["$defs"][part.__name__])["properties"]
            assert properties[key]["default"] == spelled_default(field)


def test_every_default_of_the_schema_is_one_the_schema_accepts() -> None:
    for name, definition in SCHEMA["$defs"].items():
        for key, prop in definition["properties"].items():
            if "default" in prop:
                validator = Draft202012Validator({"$defs": SCHEMA["$defs"], **prop})
                assert validator.is_valid(prop["default"]), (name, key)


@pytest.mark.parametrize("path", sorted({path for path, *_ in all_keys()}))
def test_every_key_is_in_the_manual_with_its_default(path: str) -> None:
    spelled = path.replace("checks.*", "checks[]").replace("freeze.*", "freeze[]").replace("window.*", "window")
    spelled = spelled.replace("*", "NAME")
    row = re.search(rf"(?m)^\| `{re.escape(spelled)}` \|.*$", MANUAL)
    assert row, path
    field = next(field for where, _, _, field in all_keys() if where == path)
    default = None if field.is_required() else spelled_default(field)
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        assert f"`{default}`" in row[0]
    if field.is_required():
        assert "required" in row[0]


def test_every_code_is_in_the_list_of_errors() -> None:
    listed = set(re.findall(r"(?m)^## ([a-z0-9-]+)$", (ROOT / "docs" / "errors.md").read_text("utf-8")))
    used: set[str] = set()
    for source in (ROOT / "src" / "rebake" / "spec").rglob("*.py"):
        text = source.read_text("utf-8")
        used |= set(
            re.findall(r"""(?:Finding|Mistake|mistaken|_at|UsageError|one_of)\(\s*(?:event, )?"([a-z0-9-]+)\"""", text)
        )
    used |= {"wrong-duration", "wrong-share", "wrong-size", "wrong-type", "out-of-range", "spec-mistakes"}
    assert len(used) > 40
    assert used - listed == set()
