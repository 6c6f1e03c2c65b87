"""Real npm, on a tarball made here: no network is asked."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.ports import BakeResult
from rebake.errors import BakeError
from rebake.release.manifest import Package
from rebake.release.store import Store

from .conftest import Bake, CountingTools, write

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed (apt-get install npm)")
Node = Callable[..., BakeResult]


def pack(path: Path, name: str, version: str) -> str:
    """An npm package with a program; returns its integrity."""
    files = {
        "package.json": json.dumps({"name": name, "version": version, "bin": {name: "cli.js"}, "main": "index.js"}),
        "index.js": f"module.exports = '{name}'\n",
        "cli.js": "#!/usr/bin/env node\nconsole.log(require('./index.js'))\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def plant(source: Path, scripts: dict[str, str] | None = None) -> Path:
    """A service that needs `one`, and `two` for its development."""
    package: dict[str, Any] = {
        "name": "svc",
        "version": "1.0.0",
        "dependencies": {"one": "file:vendor/one-1.0.0.tgz"},
        "devDependencies": {"two": "file:vendor/two-2.0.0.tgz"},
    } | ({"scripts": scripts} if scripts else {})
    packages: dict[str, Any] = {"": {k: v for k, v in package.items() if k != "scripts"}}
    for name, version, dev in (("one", "1.0.0", False), ("two", "2.0.0", True)):
        integrity = pack(source / "vendor" / f"{name}-{version}.tgz", name, version)
        entry = {"version": version, "resolved": f"file:vendor/{name}-{version}.tgz", "integrity": integrity}
        packages[f"node_modules/{name}"] = entry | {"bin": {name: "cli.js"}} | ({"dev": True} if dev else {})
    lock = {"name": "svc", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": packages}
    return write(
        source,
        {
            "package.json": json.dumps(package),
            "package-lock.json": json.dumps(lock),
            "server.js": "console.log(require('one'))\n",
            ".gitignore": "node_modules\ndist\n",
        },
    )


@pytest.fixture
def node(bake: Bake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_offline", "true")
    return lambda folder, into=None, **given: bake(folder, into, **({"builder": "node"} | given))


def test_what_production_needs_is_one_layer_and_runs(
    node: Node, source: Path, store: Store, tmp_path: Path, paths: Callable[[BakeResult], list[str]]
) -> None:
    result = node(plant(source))
    assert result.release.packages == (Package("one", "1.0.0"),)
    assert result.release.runtime.kind == "node"
    assert {"deps/node_modules/one/index.js", "deps/node_modules/.bin/one", "deps/bin/one", "app/node_modules"} <= set(
        paths(result)
    )
    assert not [p for p in paths(result) if ".package-lock.json" in p or "/two/" in p]
    for layer in result.release.layers:
        with tarfile.open(store.blob_path(layer.digest)) as archive:
            archive.extractall(tmp_path / "out", filter="tar")
    for command in (["node", "app/server.js"], ["deps/bin/one"]):
        done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
        assert done.stdout == "one\n", done.stderr


def test_npm_is_not_asked_again_when_only_code_or_scripts_changed(
    node: Node, source: Path, tools: CountingTools
) -> None:
    node(plant(source))
    assert tools.count("npm", "ci") == 1
    write(source, {"server.js": "1"})
    package = json.loads((source / "package.json").read_text()) | {"scripts": {"start": "node server.js"}}
    write(source, {"package.json": json.dumps(package)})
    tools.commands.clear()
    assert node(source).reused == ("dependencies",)
    assert tools.commands == []


def test_the_same_lock_gives_the_same_digest_elsewhere(node: Node, source: Path, tmp_path: Path) -> None:
    first = node(plant(source)).release
    shutil.copytree(source, tmp_path / "other" / "place")
    write(tmp_path / "other" / "place", {"node_modules/stray/index.js": "1"})
    assert node(tmp_path / "other" / "place", Store(tmp_path / "store2")).release == first


def test_a_build_script_makes_what_is_served(
    node: Node, source: Path, paths: Callable[[BakeResult], list[str]], tools: CountingTools
) -> None:
    plant(source, {"build": "mkdir -p dist && two > dist/out.txt && pwd > /dev/null"})
    result = node(source, build="build")
    assert "app/dist/out.txt" in paths(result)
    assert not [p for p in paths(result) if p.startswith("app/node_modules/") or "/two/" in p]
    tools.commands.clear()
    again = node(source, build="build")
    assert again.release == result.release
    assert again.reused == ("dependencies", "application", "release")
    assert tools.commands == []
    write(source, {"server.js": "2"})
    node(source, build="build")
    assert tools.count("npm", "run") == 1


def test_a_failing_build_shows_its_last_lines(node: Node, source: Path) -> None:
    plant(source, {"build": "echo cannot resolve thing >&2; exit 7"})
    with pytest.raises(BakeError) as caught:
        node(source, build="build")
    assert caught.value.code == "build-failed"
    assert any("cannot resolve thing" in line for line in caught.value.evidence)


def test_a_script_that_is_not_there_is_named_with_those_that_are(node: Node, source: Path) -> None:
    plant(source, {"compile": "true"})
    with pytest.raises(BakeError, match="compile") as caught:
        node(source, build="build")
    assert caught.value.code == "build-script-missing"


def test_dependencies_without_a_lock_are_refused(node: Node, source: Path) -> None:
    write(source, {"package.json": '{"dependencies": {"ms": "*"}}', "yarn.lock": "", "server.js": "1"})
    with pytest.raises(BakeError, match=r"yarn\.lock") as caught:
        node(source)
    assert (caught.value.code, caught.value.remedy) == (
        "no-lock-file",
        "run `npm install --package-lock-only` and commit package-lock.json",
    )


@pytest.mark.parametrize("package", [None, '{"name": "x"}'])
def test_no_dependencies_make_no_layer(node: Node, source: Path, tools: CountingTools, package: str | None) -> None:
    write(source, {"server.js": "1"} | ({"package.json": package} if package else {}))
    result = node(source)
    assert [layer.role for layer in result.release.layers] == ["application"]
    assert tools.count("npm") == 0


def test_a_lock_that_does_not_fit_fails_with_the_words_of_npm(node: Node, source: Path) -> None:
    plant(source)
    package = json.loads((source / "package.json").read_text())
    package["dependencies"]["three"] = "1.0.0"
    write(source, {"package.json": json.dumps(package)})
    with pytest.raises(BakeError) as caught:
        node(source)
    assert caught.value.code == "dependencies-failed"
    assert any("three" in line for line in caught.value.evidence)


def test_workspaces_are_refused(node: Node, source: Path) -> None:
    write(
        source,
        {
            "package.json": '{"workspaces": ["a"], "dependencies": {"a": "*"}}',
            "package-lock.json": '{"packages": {}}',
            "a/package.json": '{"name": "a"}',
        },
    )
    with pytest.raises(BakeError) as caught:
        node(source)
    assert caught.value.code == "local-packages"
