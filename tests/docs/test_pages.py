"""What the documents say can be found: links, examples, verbs, tests named as proof, dependencies."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from starlette.routing import Route
from tests.docs.pages import PAGES, ROOT, Example, anchors, examples, links

from docs import make_pictures, make_reference
from rebake.cli.root import VERBS
from rebake.server.api import api_app
from rebake.spec.load import parse
from rebake.spec.schema import json_schema

YAML = [one for one in examples("yaml", "yml") if re.search(r"^service:", one.text, re.MULTILINE)]
SHELL = examples("sh", "text", "console")
PROMISES = ROOT / "docs" / "promises.md"


def verbs() -> set[str]:
    return {verb for group in VERBS.values() for verb in group}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere: tests do not ask the network
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (fragment and fragment not in anchors(there)):
            lost.append(target)
    assert lost == []


def test_there_are_examples_to_try() -> None:
    assert len(YAML) >= 7
    assert any(one.page.name == "README.md" for one in YAML)


@pytest.mark.parametrize("example", YAML, ids=str)
def test_every_example_of_the_file_is_accepted_as_it_stands(example: Example) -> None:
    parse(example.text)


def test_the_file_in_the_readme_is_what_init_writes_for_that_folder(tmp_path: Path) -> None:
    from rebake.spec.init import draft

    folder = tmp_path / "hello"
    folder.mkdir()
    (folder / "app.py").write_text(next(one.text for one in examples("python") if "# app.py" in one.text))
    (folder / "requirements.txt").write_text("flask\nwaitress\n")
    (folder / "Procfile").write_text("web: waitress-serve --host=$HOST --port=$PORT app:app\n")
    shown = next(one.text for one in YAML if one.page == ROOT / "README.md")
    assert parse(draft(folder).text) == parse(shown)


def test_every_verb_that_is_typed_in_the_documents_exists() -> None:
    typed = {
        (str(one), word)
        for one in SHELL
        for word in re.findall(r"^(?:\$ )?rebake ([a-z][a-z-]*)", one.text, re.MULTILINE)
    }
    assert len(typed) > 10
    assert [where for where, word in sorted(typed) if word not in verbs()] == []


def test_every_verb_in_the_prose_exists() -> None:
    unknown = []
    for page in PAGES:
        for word in re.findall(r"`rebake ([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
            if word not in verbs():
                unknown.append(f"{page.name}: rebake {word}")
    assert unknown == []


def test_every_verb_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command, _ in make_reference.commands():
        assert f"\n## {name}\n" in page
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("-")):
            assert option in page.partition(f"\n## {name}\n")[2].partition("\n## ")[0], f"{name} {option}"


def test_the_page_of_the_command_line_is_as_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == make_reference.page(), "python docs/make_reference.py renews it"


def test_sorting_the_errors_loses_nothing() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert sorted(make_reference.in_order(text).split()) == sorted(text.split())
    mixed = "# Head\n\nWords.\n## b\nB.\n\n\n## a\nA.\n"
    assert make_reference.in_order(mixed) == "# Head\n\nWords.\n\n## a\nA.\n\n## b\nB.\n"


@cache
def known_tests() -> frozenset[str]:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/rebake/testing/**/*.py")]
    return frozenset(name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [p for p in PAGES if "`test_" in p.read_text(encoding="utf-8")], ids=lambda p: p.name)
def test_every_test_named_as_proof_exists(page: Path) -> None:
    named = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in known_tests()] == []


def test_every_promise_names_its_proof() -> None:
    chapters = re.split(r"^## ", PROMISES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [chapter.split(".")[0] for chapter in chapters] == [str(number) for number in range(1, 13)]
    assert [chapter.splitlines()[0] for chapter in chapters if "`test_" not in chapter] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    names = {re.split(r"[^\w-]", each)[0] for each in [*project["dependencies"], *extras]}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([\w-]+)`[^|]*\| .{20,} \|$", page.partition("## Dependencies")[2], re.MULTILINE))
    assert rows == names


def test_the_rooms_are_those_of_the_source() -> None:
    page = (
        (ROOT / "docs" / "architecture.md")
        .read_text(encoding="utf-8")
        .partition("## The rooms")[2]
        .partition("\n## ")[0]
    )
    rooms = {path.name for path in (ROOT / "src" / "rebake").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == rooms | {"errors"}


def test_every_call_of_the_api_is_documented() -> None:
    app = api_app(MagicMock(), MagicMock())
    routes = [route for route in app.routes if isinstance(route, Route)]
    served = {
        (method, re.sub(r"\{\w+\}", "{}", route.path))
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
    }
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(GET|POST) (/v1/[^ ?`]*)", page, re.MULTILINE)
    assert {(method, re.sub(r"[A-Z]+", "{}", path)) for method, path in rows} == served


@pytest.mark.parametrize(
    ("title", "function"), [("Rollout view", "rollout_view"), ("Environment view", "environment_view")]
)
def test_every_key_of_a_view_is_documented(title: str, function: str) -> None:
    source = ast.parse((ROOT / "src/rebake/rollout/view.py").read_text(encoding="utf-8"))
    body = next(node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == function)
    document = next(node.value for node in body.body if isinstance(node, ast.Return))
    assert isinstance(document, ast.Dict)
    keys = [str(key.value) for key in document.keys if isinstance(key, ast.Constant)]
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    said = page.partition(f"**{title}**")[2].partition("\n\n")[0]
    assert len(keys) > 10
    assert [key for key in keys if f'"{key}"' not in said] == []


def test_the_transcript_in_the_readme_is_what_the_tour_printed() -> None:
    output = (ROOT / "docs" / "img" / "tour.txt").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_pictures.with_transcript(readme, output) == readme


@pytest.mark.parametrize("chosen", [make_pictures.PICTURE, make_pictures.TRANSCRIPT], ids=["picture", "transcript"])
def test_an_excerpt_only_leaves_out_and_says_where(chosen: make_pictures.Shown) -> None:
    output = (ROOT / "docs" / "img" / "tour.txt").read_text(encoding="utf-8")
    place = 0
    for line in make_pictures.excerpt(output, chosen, 112).splitlines():
        for part in re.split(r"\s*…\s*", line):
            if part.strip():
                place = output.index(part.strip(), place)
    assert place > 0


def test_the_tour_in_the_readme_kept_every_claim() -> None:
    output = (ROOT / "docs" / "img" / "tour.txt").read_text(encoding="utf-8")
    assert "✗" not in output
    assert re.search(r"^ +0  requests lost$", output, re.MULTILINE)


@pytest.mark.parametrize(("name", "most_bytes"), [("tour.svg", 150_000), ("dashboard.png", 200_000)])
def test_pictures_are_small(name: str, most_bytes: int) -> None:
    assert 5_000 < (ROOT / "docs" / "img" / name).stat().st_size < most_bytes


def test_no_page_names_a_place_of_the_machine_it_was_written_on() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    pages = [ROOT / name for name in tracked.stdout.split() if not name.endswith(".png")] or PAGES
    found = [page.name for page in pages if re.search(r"/work/|/tmp/|/root/", page.read_text(encoding="utf-8"))]
    assert found == []


def keys_of_the_schema(node: dict[str, Any], definitions: dict[str, Any], place: str = "") -> set[str]:
    """Every key that a file may have, with the keys above it; `NAME` stands where the file chooses the name."""
    if "$ref" in node:
        return keys_of_the_schema(definitions[node["$ref"].rpartition("/")[2]], definitions, place)
    found: set[str] = set()
    for key, inner in node.get("properties", {}).items():
        here = f"{place}.{key}".lstrip(".")
        found |= {here} | keys_of_the_schema(inner, definitions, here)
    named = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    for inner in (one for one in named if isinstance(one, dict)):
        found |= keys_of_the_schema(inner, definitions, f"{place}.NAME")
    for inner in (
        *node.get("anyOf", ()),
        *node.get("oneOf", ()),
        *node.get("allOf", ()),
        *([node["items"]] if "items" in node else []),
    ):
        found |= keys_of_the_schema(inner, definitions, place)
    return found


def test_the_manual_of_the_file_names_every_key_of_the_schema_and_no_other() -> None:
    schema = json_schema()
    keys = keys_of_the_schema(schema, schema["$defs"])
    page = (ROOT / "docs" / "rebake-yaml.md").read_text(encoding="utf-8")
    named = {key.replace("[]", "") for key in re.findall(r"^\| `([a-zA-Z0-9_.\[\]-]+)` \|", page, re.MULTILINE)}
    assert not sorted(keys - named)
    assert not sorted(key for key in named - keys if key.partition(".")[0] in schema["properties"])
