"""Sentences that hold for any text."""

from __future__ import annotations

import re
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rebake.core.units import (
    FULL,
    format_duration,
    format_share,
    parse_duration,
    parse_share,
)
from rebake.errors import SpecError
from rebake.spec.fields import NAME, sanitised
from rebake.spec.load import parse
from rebake.spec.model import Spec
from rebake.spec.report import flow
from rebake.spec.schema import json_schema
from rebake.spec.tree import Builder, scalar

from .test_spec_values import DESIGN

JARGON = re.compile(r"[Pp]ydantic|[Vv]alidat|[Ii]nput should|\bloc\b|None|\bdict|\bstr\b|tuple|\x00|function-")


def refused_or_fine(text: str) -> SpecError | Spec:
    try:
        return parse(text)
    except SpecError as error:
        return error


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_spec_or_a_list_of_mistakes(text: str) -> None:
    refused_or_fine(text)


@given(st.text(alphabet="abc:-[]{},&*!|>'\"%@`#?\n \t<~01.", max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_text_of_yaml_s_own_letters_is_a_spec_or_a_list_of_mistakes(text: str) -> None:
    refused_or_fine(text)


_KEYS = sorted(
    set(re.findall(r"[a-z_]+(?=:)", DESIGN)) | {"canary", "linear", "steps", "sticky", "hold_back", "docker"}
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.sampled_from(["5%", "10s", "local", "canary", "127.0.0.1:80", "$PORT", "101%", "10", "yes", "*"]),
)  # fmt: skip
_TREES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def replaced(tree: object, path: list[int], value: object) -> object:
    """The tree with one value, chosen by the numbers, replaced."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    if isinstance(tree, list):
        index = path[0] % len(tree)
        return [replaced(v, path[1:], value) if i == index else v for i, v in enumerate(tree)]
    chosen = list(tree)[path[0] % len(tree)]
    return {k: replaced(v, path[1:], value) if k == chosen else v for k, v in tree.items()}


@given(st.lists(st.integers(0, 20), max_size=6), _TREES)
@settings(max_examples=400, deadline=None)
def test_a_right_file_with_anything_in_one_place_is_told_in_our_words_with_a_place(
    path: list[int], value: object
) -> None:
    text = yaml.safe_dump(replaced(yaml.safe_load(DESIGN), path, value))
    found = refused_or_fine(text)
    for mistake in found.mistakes if isinstance(found, SpecError) else ():
        ours = mistake.problem.split("found", 1)[0]
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", mistake.code)
        assert not JARGON.search(ours), mistake
        assert "another kind of value" not in mistake.problem, mistake
        assert 1 <= mistake.line <= text.count("\n") + 1


@given(st.integers(0, 10**12))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@given(st.integers(0, FULL))
def test_a_share_survives_being_written(points: int) -> None:
    assert parse_share(format_share(points)) == points


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_a_list_as_we_advise_to_write_it_reads_back_as_text(words: list[str]) -> None:
    root = Builder("a: " + flow(words)).document()
    assert root is not None
    assert root.value() == {"a": words}
    assert yaml.safe_load(flow(words)) == words


@given(st.text(max_size=100))
def test_a_sanitised_name_is_a_name(text: str) -> None:
    assert NAME.fullmatch(sanitised(text))


@given(st.text(alphabet=string.printable, max_size=20))
def test_a_plain_word_is_read_without_a_crash_and_numbers_keep_their_spelling(text: str) -> None:
    value = scalar(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert value.text == text  # type: ignore[union-attr]


def test_the_schema_has_no_number_where_the_file_has_a_unit() -> None:
    judge = json_schema()["$defs"]["Judge"]["properties"]
    assert judge["false_rollbacks"]["default"] == "1%"
    with pytest.raises(SpecError):
        parse(DESIGN.replace("false_rollbacks: 1%", "false_rollbacks: 100"))
