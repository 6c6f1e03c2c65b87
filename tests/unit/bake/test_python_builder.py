"""Real uv, on wheels made here. It is told to stay offline: what is not among them fails, whatever a file names."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rebake.bake.ports import BakeResult
from rebake.bake.tools import SystemTools
from rebake.errors import BakeError
from rebake.release.manifest import Package, RunContract, Runtime
from rebake.release.store import Store

from .conftest import Bake, CountingTools, write

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"deps/lib/python{MINOR}/site-packages"
Python = Callable[..., BakeResult]


def make_wheel(folder: Path, name: str, version: str, requires: str = "", *, native: bool = False) -> Path:
    """A wheel with a module, a program from an entry point, a script that names the interpreter, and a data file."""
    info, data = f"{name}-{version}.dist-info", f"{name}-{version}.data"
    metadata = f"Metadata-Version: 2.1\nName: {name.capitalize()}\nVersion: {version}\n"
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\ndef main():\n    print('{name}', VERSION)\n",
        f"{data}/scripts/{name}-script": "#!python\nprint('script')\n",
        f"{data}/data/share/{name}.txt": "data\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-run = {name}:main\n",
    }
    if native:
        files[f"{name}/_fast.cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"] = "\x7fELF"
    rows = []
    path = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{member},sha256={digest},{len(text.encode())}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that is a folder: `alpha` 1.0 and 2.0, and `beta` 1.0 which requires alpha."""
    folder = tmp_path / "wheels"
    make_wheel(folder, "alpha", "1.0")
    make_wheel(folder, "alpha", "2.0")
    make_wheel(folder, "beta", "1.0", "alpha>=1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")  # of indexes only: a lock file names its wheels by address
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return folder


@pytest.fixture
def python(bake: Bake, wheels: Path) -> Python:
    return lambda folder, into=None, **given: bake(folder, into, **({"builder": "python"} | given))


def test_a_plain_requirements_file_is_resolved_and_the_resolution_recorded(
    python: Python, source: Path, store: Store, paths: Callable[[BakeResult], list[str]], tools: CountingTools
) -> None:
    write(source, {"requirements.txt": "beta\nalpha<2\n", "app.py": "import beta"})
    result = python(source)
    assert result.release.packages == (Package("alpha", "1.0"), Package("beta", "1.0"))
    assert result.release.runtime == Runtime("python", MINOR, "any")
    assert [layer.role for layer in result.release.layers] == ["dependencies", "application"]
    found = paths(result)
    assert {"deps/bin/beta-run", "deps/bin/beta-script", f"{SITE}/beta/__init__.py", "deps/share/beta.txt"} <= set(
        found
    )
    assert not [p for p in found if p.endswith((".pyc", "INSTALLER", "REQUESTED", "direct_url.json", ".lock"))]
    assert tools.count("uv", "pip", "compile") == 1


def test_nothing_is_installed_again_when_only_code_changed(
    python: Python, source: Path, store: Store, tools: CountingTools
) -> None:
    write(source, {"requirements.txt": "beta\n", "app.py": "1"})
    first = python(source)
    tools.commands.clear()
    write(source, {"app.py": "2"})
    second = python(source)
    assert tools.commands == []
    assert second.reused == ("dependencies",)
    assert second.release.layers[0] == first.release.layers[0]
    assert second.release.layers[1] != first.release.layers[1]
    python(source)
    assert tools.commands == []


def test_a_memoised_bake_needs_no_index(
    python: Python, source: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"requirements.txt": "beta\n", "app.py": "1"})
    first = python(source)
    monkeypatch.setenv("UV_FIND_LINKS", "/nowhere")
    assert python(source).release == first.release


def test_another_requirement_is_installed(python: Python, source: Path, tools: CountingTools) -> None:
    write(source, {"requirements.txt": "alpha<2\n", "app.py": "1"})
    assert python(source).release.packages == (Package("alpha", "1.0"),)
    write(source, {"requirements.txt": "alpha\n"})
    assert python(source).release.packages == (Package("alpha", "2.0"),)
    assert tools.count("uv", "pip", "install") == 2


def test_the_same_lock_gives_the_same_digest_from_another_folder_and_store(
    python: Python, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"requirements.txt": "beta\n", "app.py": "1"})
    first = python(source)
    other = write(tmp_path / "elsewhere" / "deep", {"requirements.txt": "beta\n", "app.py": "1"})
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "other-cache"))
    umask = os.umask(0o077)
    try:
        second = python(other, Store(tmp_path / ("long-" * 30) / "store"))
    finally:
        os.umask(umask)
    assert second.release == first.release
    assert second.reused == ()


def test_no_machine_path_is_in_the_layer(python: Python, source: Path, store: Store, tmp_path: Path) -> None:
    write(source, {"requirements.txt": "beta\n", "app.py": "1"})
    layer = python(source).release.layers[0]
    data = store.blob_path(layer.digest).read_bytes()
    assert os.fsencode(tmp_path) not in data
    assert os.fsencode(sys.prefix) not in data
    assert data.count(b"#!/usr/bin/env python\n") == 4


def test_what_is_installed_runs(python: Python, source: Path, store: Store, tmp_path: Path) -> None:
    write(source, {"requirements.txt": "beta\n", "app.py": "1"})
    for layer in python(source).release.layers:
        with tarfile.open(store.blob_path(layer.digest)) as archive:
            archive.extractall(tmp_path / "out", filter="data")
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "out" / SITE)}
    done = subprocess.run([tmp_path / "out/deps/bin/beta-run"], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "beta 1.0\n", done.stderr
    check = (
        "import hashlib, base64, importlib.metadata as m\n"
        "for f in m.distribution('beta').files:\n"
        "    data = f.locate().read_bytes()\n"
        "    if f.hash:\n"
        "        found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()\n"
        "        assert found == f.hash.value, f\n"
        "        assert len(data) == f.size, f\n"
        "        print(f)\n"
    )
    done = subprocess.run([sys.executable, "-c", check], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "../../../bin/beta-run" in done.stdout.splitlines()


def test_a_hashed_file_is_installed_as_it_is_and_a_wrong_hash_is_refused(
    python: Python, source: Path, wheels: Path, tools: CountingTools
) -> None:
    digest = hashlib.sha256((wheels / "alpha-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    write(source, {"app.py": "1", "requirements.txt": "-r base.txt\n"})
    write(source, {"base.txt": f"alpha==1.0 \\\n    --hash=sha256:{digest}  # pinned\n"})
    assert python(source).release.packages == (Package("alpha", "1.0"),)
    assert tools.count("uv", "pip", "compile") == 0
    write(source, {"base.txt": f"alpha==1.0 --hash=sha256:{'0' * 64}\n"})
    with pytest.raises(BakeError) as caught:
        python(source)
    assert caught.value.code == "dependencies-failed"
    assert any("hash" in line.lower() for line in caught.value.evidence)


PROJECT = """
[project]
name = "Guest.Book"
version = "1.2.3"
requires-python = ">=3.9"
dependencies = ["beta"]
[project.scripts]
guestbook = "guestbook.cli:main"
[dependency-groups]
dev = ["alpha<2"]
"""


def test_uv_lock_comes_first_and_its_development_group_stays_out(
    python: Python, source: Path, tools: CountingTools
) -> None:
    write(source, {"pyproject.toml": PROJECT, "requirements.txt": "nonsense", "src/guestbook/cli.py": "1"})
    done = SystemTools().run(["uv", "lock", "--offline", "--python", sys.executable], cwd=source)
    assert done.status == 0, done.stderr
    assert python(source).release.packages == (Package("alpha", "1.0"), Package("beta", "1.0"))
    assert tools.count("uv", "export") == 1
    tools.commands.clear()
    write(source, {"pyproject.toml": PROJECT + "[tool.ruff]\nline-length = 100\n"})
    assert "dependencies" in python(source).reused
    assert tools.count("uv", "pip", "install") == 0


EXTRA = PROJECT.replace("beta", "alpha<2") + '[project.optional-dependencies]\nSome_Thing = ["beta"]\n'


@pytest.mark.parametrize("locked", [True, False])
def test_extras_that_are_wanted_go_in(python: Python, source: Path, *, locked: bool) -> None:
    write(source, {"pyproject.toml": EXTRA, "src/guestbook/cli.py": "1"})
    if locked:
        done = SystemTools().run(["uv", "lock", "--offline", "--python", sys.executable], cwd=source)
        assert done.status == 0, done.stderr
    assert python(source).release.packages == (Package("alpha", "1.0"),)
    with_it = python(source, extras=("some-thing", "Some_Thing")).release.packages
    assert with_it == (Package("alpha", "1.0"), Package("beta", "1.0"))
    assert python(source).release.packages == (Package("alpha", "1.0"),)
    with pytest.raises(BakeError, match="'other'; it has Some_Thing") as caught:
        python(source, extras=("other",))
    assert (caught.value.code, caught.value.where) == ("extra-unknown", "bake.extras")


@pytest.mark.parametrize("files", [{"requirements.txt": "beta\n"}, {"app.py": "1"}])
def test_extras_of_what_has_none_are_refused(python: Python, source: Path, files: dict[str, str]) -> None:
    write(source, files)
    with pytest.raises(BakeError) as caught:
        python(source, extras=("some-thing",))
    assert (caught.value.code, caught.value.where) == ("extras-not-locked", "bake.extras")


def test_pylock_comes_before_requirements(python: Python, source: Path, wheels: Path) -> None:
    digest = hashlib.sha256((wheels / "alpha-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    lock = f"""
lock-version = "1.0"
created-by = "test"
[[packages]]
name = "alpha"
version = "1.0"
wheels = [{{ path = "{wheels}/alpha-1.0-py3-none-any.whl", hashes = {{ sha256 = "{digest}" }} }}]
"""
    write(source, {"pylock.toml": lock, "requirements.txt": "beta", "app.py": "1"})
    assert python(source).release.packages == (Package("alpha", "1.0"),)


def test_the_project_brings_its_programs_and_its_metadata(
    python: Python, source: Path, store: Store, paths: Callable[[BakeResult], list[str]]
) -> None:
    write(source, {"pyproject.toml": PROJECT, "src/guestbook/__init__.py": "", "src/guestbook/cli.py": "1"})
    result = python(source)
    assert "deps/bin/guestbook" in paths(result)
    assert f"{SITE}/guest_book-1.2.3.dist-info/entry_points.txt" in paths(result)
    config = store.read_json(store.read_json(result.release.digest)["config"]["digest"])
    env = dict(item.split("=", 1) for item in config["config"]["Env"])
    assert env["PYTHONPATH"] == f"/app:/app/src:/deps/lib/python{MINOR}/site-packages"
    assert env["PATH"].startswith("/deps/bin:")


def test_no_dependencies_make_no_layer(python: Python, source: Path, tools: CountingTools) -> None:
    write(source, {"app.py": "1", "requirements.txt": "# none yet\n"})
    result = python(source)
    assert [layer.role for layer in result.release.layers] == ["application"]
    write(source, {"app.py": "2"})
    tools.commands.clear()
    assert python(source).release.packages == ()
    assert tools.commands == []


def test_compiled_code_ties_the_release_to_its_platform(python: Python, source: Path, wheels: Path) -> None:
    make_wheel(wheels, "gamma", "1.0", native=True)
    write(source, {"app.py": "1", "requirements.txt": "gamma\n"})
    assert python(source).release.runtime.platform.startswith("linux/")


def test_a_package_that_is_nowhere_fails_with_the_words_of_uv(python: Python, source: Path, store: Store) -> None:
    write(source, {"app.py": "1", "requirements.txt": "beta\nnosuchthing==9\n"})
    with pytest.raises(BakeError) as caught:
        python(source)
    error = caught.value
    assert (error.code, error.exit_code, error.where) == ("dependencies-failed", 2, "requirements.txt")
    assert any("nosuchthing" in line for line in error.evidence)
    assert store.releases() == ()


def test_an_included_file_that_is_missing_is_named(python: Python, source: Path) -> None:
    write(source, {"app.py": "1", "requirements.txt": "-r base.txt\n"})
    with pytest.raises(BakeError, match=r"base\.txt"):
        python(source)


def test_a_local_package_is_installed_again_when_its_code_changes(
    python: Python, source: Path, wheels: Path, tools: CountingTools
) -> None:
    write(source, {"app.py": "1", "requirements.txt": f"alpha @ file://{wheels}/alpha-1.0-py3-none-any.whl\n"})
    first = python(source).release
    make_wheel(wheels, "alpha", "1.0", "")
    with zipfile.ZipFile(wheels / "alpha-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("alpha/more.py", "1")
    second = python(source).release
    assert tools.count("uv", "pip", "install") == 2
    assert second.layers[0] != first.layers[0]


def test_a_python_that_is_not_here_is_named(python: Python, source: Path) -> None:
    write(source, {"app.py": "1", ".python-version": "2.99\n"})
    with pytest.raises(BakeError) as caught:
        python(source)
    assert (caught.value.code, caught.value.where) == ("interpreter-missing", ".python-version")


def test_the_interpreter_is_asked_for_once(python: Python, source: Path, tools: CountingTools) -> None:
    write(source, {"app.py": "1", ".python-version": f"{MINOR}\n"})
    assert python(source).release.runtime.version == MINOR
    assert tools.count("uv", "python", "find") == 2
    python(source)
    assert tools.count("uv", "python", "find") == 2


def test_the_release_tells_all_it_is(python: Python, source: Path, store: Store) -> None:
    run = RunContract(("guestbook",), 9000, env={"GREETING": "hello"})
    write(source, {"app.py": "1", "requirements.txt": "beta\n"})
    release = python(source, run=run).release
    image = store.read_json(release.digest)
    manifest = store.read_json(image["annotations"]["dev.rebake.release"])
    config = store.read_json(image["config"]["digest"])
    assert store.release(release.digest) == release
    assert [item["digest"] for item in image["layers"]] == [layer.digest for layer in release.layers]
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in release.layers]
    assert config["config"]["Cmd"] == ["guestbook"]
    assert config["config"]["ExposedPorts"] == {"9000/tcp": {}}
    assert "GREETING=hello" in config["config"]["Env"]
    assert manifest["packages"] == [["alpha", "2.0"], ["beta", "1.0"]]
    assert json.dumps(manifest).count("files") == 2


def test_uv_asks_nobody_here(python: Python, source: Path) -> None:
    """Not even the address that a file of the source names."""
    write(source, {"requirements.txt": "alpha @ https://127.0.0.1:9/alpha-1.0-py3-none-any.whl\n", "app.py": ""})
    with pytest.raises(BakeError) as refused:
        python(source)
    told = " ".join((refused.value.problem, *refused.value.evidence))
    assert "offline" in told or "network" in told.lower(), told
