"""What is kept of a file that was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.core.codec import dump, load
from rebake.errors import SpecError, UsageError
from rebake.release.manifest import RunContract, run_contract_of
from rebake.rollout.plan import Plan
from rebake.spec import compiled
from rebake.spec.compiled import compile_file
from rebake.spec.load import parse
from rebake.spec.plan import plan_for, run_contract

TEXT = """\
service: shop
bake: {builder: files, exclude: [tests]}
run: {command: [./serve, $PORT], env: {A: b}, resources: {memory: 64MiB, cpu: 0.5}}
environments:
  production: {platform: local, listen: 127.0.0.1:8080, env: {C: d}, secrets: {TOKEN: {env: SHOP_TOKEN}}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rebake.yaml"
    path.write_text(TEXT)
    return path


def test_what_is_kept_is_what_the_file_says(file: Path, tmp_path: Path) -> None:
    first, again = (compile_file(file, tmp_path / "cache") for _ in range(2))
    spec = parse(TEXT, "rebake.yaml")
    assert first == again
    assert run_contract_of(again.run) == run_contract(spec) == load(RunContract, again.run)
    assert load(Plan, again.environments["production"]["plan"]) == plan_for(spec, "production", tmp_path)
    assert again.environments["production"]["secrets"] == {"TOKEN": "env:SHOP_TOKEN"}


def test_an_unchanged_file_is_not_checked_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_file(file, tmp_path / "cache")

    def fail(_file: Path) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(compiled, "_compile", fail)
    assert compile_file(file, tmp_path / "cache").service == "shop"


def test_a_changed_file_a_damaged_answer_and_a_lost_folder_cost_only_time(file: Path, tmp_path: Path) -> None:
    compile_file(file, tmp_path / "cache")
    file.write_text(TEXT.replace("shop", "store"))
    assert compile_file(file, tmp_path / "cache").service == "store"
    for kept in (tmp_path / "cache").iterdir():
        kept.write_text("{")
    assert compile_file(file, tmp_path / "cache").service == "store"
    assert compile_file(file, Path("/proc/nowhere")).service == "store"


def test_mistakes_are_told_every_time(file: Path, tmp_path: Path) -> None:
    file.write_text(TEXT.replace("platform", "platfrom"))
    for _ in range(2):
        with pytest.raises(SpecError):
            compile_file(file, tmp_path / "cache")
    with pytest.raises(UsageError) as caught:
        compile_file(tmp_path / "none.yaml", tmp_path / "cache")
    assert caught.value.code == "no-rebake-yaml"
    assert dump(run_contract(parse(TEXT, "rebake.yaml")))["port"] is None
