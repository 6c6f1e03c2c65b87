"""Baking as the command line does: from a file's values, with the builders there are."""

from __future__ import annotations

from pathlib import Path

from rebake.app import bake, store
from rebake.app.registries import Registries
from rebake.core.home import Home
from rebake.spec.compiled import compile_file

TEXT = """\
service: shop
bake: {builder: files}
run: {command: [python, server.py]}
environments: {production: {platform: local, listen: "127.0.0.1:8080"}}
"""


def test_a_home_inside_the_source_is_no_part_of_the_release(tmp_path: Path) -> None:
    (tmp_path / "rebake.yaml").write_text(TEXT)
    (tmp_path / "server.py").write_text("print()")
    home, elsewhere = Home(tmp_path / "[my] home"), Home(tmp_path.parent / f"{tmp_path.name}-home")
    (tmp_path / "[my] home").mkdir()
    (tmp_path / "[my] home" / "agent.log").write_text("what rebake keeps")
    file = compile_file(tmp_path / "rebake.yaml", elsewhere.store)
    inside = bake(home, file, tmp_path, Registries({}), lambda _line: None).release
    again = bake(home, file, tmp_path, Registries({}), lambda _line: None)
    assert again.release.digest == inside.digest
    (tmp_path / "[my] home").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert bake(elsewhere, file, tmp_path, Registries({}), lambda _line: None).release.digest == inside.digest
    assert store(elsewhere).release(inside.digest) == inside
