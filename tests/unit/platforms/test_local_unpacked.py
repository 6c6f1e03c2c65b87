"""Unpacked releases: generations, bindings, damage, and what is removed when."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.errors import Permanent
from rebake.platforms.local import runtimes, trees
from rebake.platforms.local.layout import Layout
from rebake.platforms.local.unpacked import Unpacked
from rebake.release.manifest import Release, RunContract, Runtime
from rebake.testing.releases import HERE, TinyStore, tar_of

RUN = RunContract(("python", "main.py"))
SITE = f"deps/lib/python{HERE.version}/site-packages"
MAIN = "import extra, helper, sys; print(helper.NAME, extra.NAME, sys.prefix)"
DEPS: dict[str, bytes | str] = {
    f"{SITE}/helper.py": "NAME = 'helper'",
    f"{SITE}/more.pth": "nested\n",
    f"{SITE}/nested/extra.py": "NAME = 'extra'",
    "deps/bin/tool": "#!/usr/bin/env python\nimport helper; print('tool', helper.NAME)",
}


class Shelf:
    """One store and what is unpacked from it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(Home(root / "home"))
        self.store = TinyStore(root / "blobs")
        self.used: set[str] = set()
        self.said: list[str] = []
        self.unpacked = Unpacked(self.layout, self.store, lambda: self.used)

    def release(self, main: str = MAIN, runtime: Runtime = HERE, note: str = "") -> Release:
        return self.store.add(RUN, tar_of({"app/main.py": main}), tar_of(DEPS | {"deps/note": note}), runtime=runtime)

    def ready(self, release: Release) -> list[Path]:
        return list(self.unpacked.ready(release, self.said.append).trees)

    def run(self, release: Release, *command: str) -> str:
        binding = self.unpacked.ready(release, self.said.append).binding
        env = {"PATH": ":".join((*binding.path, "/usr/bin", "/bin")), **binding.env}
        return subprocess.check_output(command, cwd=binding.app, env=env, text=True).strip()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def tamper(path: Path, text: str = "evil") -> None:
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)


def test_the_release_runs_in_an_environment_of_its_own_with_pth_files(shelf: Shelf) -> None:
    release = shelf.release()
    root, layer = shelf.ready(release)
    assert shelf.run(release, "python", "main.py") == f"helper extra {root}/venv"
    assert shelf.run(release, "tool") == "tool helper"
    assert (root.parent, layer.parent) == (shelf.layout.releases, shelf.layout.layers)


def test_the_projects_own_programs_and_metadata_are_found_beside_its_dependencies(shelf: Shelf) -> None:
    site = SITE.removeprefix("deps/")
    app = {
        "app/main.py": "import importlib.metadata; print(importlib.metadata.version('shop'))",
        "deps/bin/shop": "#!/usr/bin/env python\nimport helper; print('shop', helper.NAME)",
        f"deps/{site}/shop-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: shop\nVersion: 1.2\n",
    }
    for deps in (DEPS, {f"{SITE}/helper.py": "NAME = 'other'"}):
        release = shelf.store.add(RUN, tar_of(dict(app)), tar_of(dict(deps)), runtime=HERE)
        assert shelf.run(release, "python", "main.py") == "1.2"
        assert shelf.run(release, "shop").startswith("shop ")
        tamper(shelf.ready(release)[0] / "own/bin/shop")
        assert shelf.run(release, "shop").startswith("shop ")


def test_a_project_without_dependencies_has_its_own_programs_too(shelf: Shelf) -> None:
    app = {"app/main.py": "1", "deps/bin/shop": "#!/usr/bin/env python\nprint('shop')"}
    release = shelf.store.add(RUN, tar_of(dict(app)), runtime=HERE)
    assert shelf.run(release, "shop") == "shop"


def test_bytecode_is_there_before_the_first_start_and_is_used(shelf: Shelf) -> None:
    release = shelf.release()
    _, layer = shelf.ready(release)
    binding = shelf.unpacked.ready(release, shelf.said.append).binding
    env = {"PATH": ":".join(binding.path), **binding.env}
    told = subprocess.run(
        ["python", "-v", "-c", "import helper"], env=env, cwd=binding.app, capture_output=True, text=True, check=True
    )
    compiled = next((layer / SITE / "__pycache__").glob("helper*.pyc"))
    assert re.search(rf"# code object from '[^']*/{compiled.name}'", told.stderr)
    assert compiled.stat().st_mtime_ns == trees.MTIME_NS


def test_a_layer_is_unpacked_once_for_all_releases_that_share_it(shelf: Shelf) -> None:
    first, second = shelf.ready(shelf.release()), shelf.ready(shelf.release(MAIN + "\n# changed"))
    assert first[1] == second[1]
    assert first[0] != second[0]
    assert [line.partition(" (")[0] for line in shelf.said] == [
        "unpacking dependencies",
        "compiling dependencies",
        "unpacking application",
        "unpacking application",
    ]


def test_what_is_ready_is_not_unpacked_again(shelf: Shelf) -> None:
    release = shelf.release()
    before = shelf.ready(release)
    shelf.said.clear()
    assert shelf.ready(release) == before
    assert shelf.said == []


@pytest.mark.parametrize("where", ["app", "deps"])
def test_a_damaged_tree_stays_for_those_who_run_from_it_and_is_replaced_for_others(where: str, shelf: Shelf) -> None:
    release = shelf.release()
    root, layer = shelf.ready(release)
    shelf.used = {str(root), str(layer)}
    tamper(root / "app/main.py" if where == "app" else layer / f"{SITE}/helper.py")
    fresh_root, fresh_layer = shelf.ready(release)
    assert fresh_root.name == f"{root.name}.2"
    assert fresh_layer.name == (layer.name if where == "app" else f"{layer.name}.2")
    assert root.exists()
    assert layer.exists()
    assert shelf.run(release, "python", "main.py") == f"helper extra {fresh_root}/venv"


def test_a_damaged_tree_that_nobody_runs_from_is_removed_when_it_is_replaced(shelf: Shelf) -> None:
    release = shelf.release()
    root, _ = shelf.ready(release)
    tamper(root / "app/main.py")
    assert shelf.ready(release)[0] == root
    assert (root / "app/main.py").read_text() == MAIN


def test_a_damaged_tree_stays_damaged_when_somebody_puts_the_bytes_back(shelf: Shelf) -> None:
    release = shelf.release()
    root, layer = shelf.ready(release)
    shelf.used = {str(root), str(layer)}
    tamper(root / "app/main.py")
    shelf.ready(release)
    tamper(root / "app/main.py", MAIN)
    assert shelf.ready(release)[0].name == f"{root.name}.2"


def test_tampered_bytecode_is_found_too(shelf: Shelf) -> None:
    release = shelf.release()
    root, layer = shelf.ready(release)
    shelf.used = {str(root), str(layer)}
    tamper(next((layer / SITE / "__pycache__").glob("helper*.pyc")))
    assert shelf.ready(release)[1].name == f"{layer.name}.2"


def test_what_a_killed_unpacking_left_is_not_used_and_goes(shelf: Shelf) -> None:
    release = shelf.release()
    name = release.digest.removeprefix("sha256:")
    left = shelf.layout.releases / f".{name[:12]}.half"
    (left / "app").mkdir(parents=True)
    (shelf.layout.releases / name / "app").mkdir(parents=True)  # no seal: not complete
    root, _ = shelf.ready(release)
    assert trees.is_sealed(root)
    assert not left.exists()


def test_forgetting_removes_the_release_and_layers_nobody_needs(shelf: Shelf) -> None:
    kept, gone = shelf.release(), shelf.release("print(1)", note="another layer")
    shelf.ready(kept)
    shelf.ready(gone)
    assert shelf.unpacked.forget(gone.digest) > 0
    assert [p.name for p in shelf.layout.releases.glob("[0-9a-f]*")] == [kept.digest.removeprefix("sha256:")]
    assert len(list(shelf.layout.layers.glob("[0-9a-f]*"))) == 1
    assert shelf.unpacked.forget(gone.digest) == 0


def test_forgetting_leaves_what_an_instance_runs_from(shelf: Shelf) -> None:
    release = shelf.release()
    found = shelf.ready(release)
    shelf.used = set(map(str, found))
    assert shelf.unpacked.forget(release.digest) == 0
    assert all(map(trees.is_sealed, found))


def test_node_finds_its_modules_beside_the_application(shelf: Shelf) -> None:
    major = next((m for m in ("18", "20", "22", "24") if runtimes.find_node(m)), None)
    if major is None:
        pytest.skip("no node on this machine")
    deps = {"deps/node_modules/left/index.js": "module.exports = 'left'"}
    app = {"app/main.js": "console.log(require('left'), process.env.NODE_ENV)"}
    release = shelf.store.add(RUN, tar_of(app), tar_of(dict(deps)), runtime=Runtime("node", major))
    assert shelf.run(release, "node", "main.js") == "left production"


def test_a_node_layer_may_bring_the_link_itself(shelf: Shelf) -> None:
    app = tar_of({"app/main.js": "1"}, links={"app/node_modules": "../deps/node_modules"})
    release = shelf.store.add(RUN, app, tar_of({"deps/node_modules/left/index.js": "1"}), runtime=Runtime("none"))
    root, layer = shelf.ready(release)
    assert (root / "app/node_modules/left/index.js").samefile(layer / "deps/node_modules/left/index.js")


REFUSALS: dict[str, tuple[Callable[[Release], Release], str]] = {
    "a python that is not here": (lambda r: replace(r, runtime=Runtime("python", "2.6")), "runtime-missing"),
    "a node that is not here": (lambda r: replace(r, runtime=Runtime("node", "0")), "runtime-missing"),
    "another processor": (lambda r: replace(r, runtime=replace(HERE, platform="linux/s390x")), "wrong-architecture"),
    "a base image": (lambda r: replace(r, layers=(replace(r.layers[0], role="base"), *r.layers[1:])), "base-not-host"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_release_is_refused_for(refusal: str, shelf: Shelf) -> None:
    change, code = REFUSALS[refusal]
    with pytest.raises(Permanent) as refused:
        shelf.ready(change(shelf.release()))
    assert refused.value.code == code
    assert refused.value.remedy


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EROFS, "home-not-writable")])
def test_a_disk_that_refuses_leaves_nothing_half(
    number: int, code: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = shelf.release()

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(trees, "write_seal", refuse)
        with pytest.raises(Permanent) as refused:
            shelf.ready(release)
    assert refused.value.code == code
    assert [p.name for p in shelf.layout.layers.iterdir() if p.is_dir()] == []
    assert len(shelf.ready(release)) == 2
