"""The same source and lock give the same digest from another folder, user, umask, clock, zone, locale, file order."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebake.release.store import Store

from .conftest import Bake, next_tick, write

GOLDEN = Path(__file__).with_name("golden.json")
TREE: dict[str, str | bytes] = {
    "app.py": "print('hello')\n",
    "bin/serve*": "#!/bin/sh\nexec python -m app\n",
    "static/ünïcode name.css": "body { color: #000 }\n",
    "data/" + "long-folder-name/" * 8 + "x.bin": bytes(range(256)) * 5,
    "empty.txt": "",
    "a/b": "1",
    "a-b/c": "2",
    "a.b": "3",
    ".dockerignore": "*.tmp\n",
    "left.tmp": "x",
}
SCRIPT = """
import os, sys
from pathlib import Path
from rebake.bake.baker import Baker
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.ports import BakeRequest
from rebake.release.manifest import RunContract
from rebake.release.store import Store
os.umask(int(sys.argv[3], 8))
if len(sys.argv) > 4:
    os.setgid(65534)
    os.setuid(65534)
request = BakeRequest("guestbook", "files", Path(sys.argv[1]), RunContract(("python", "-m", "app"), 8080))
print(Baker(Store(Path(sys.argv[2])), [FilesBuilder()]).bake(request, lambda line: None).release.digest)
"""


def plant(root: Path, order: random.Random | None = None) -> Path:
    names = list(TREE)
    if order:
        order.shuffle(names)
    root.mkdir(parents=True)
    write(root, {name: TREE[name] for name in names})
    (root / "link").symlink_to("a/b")
    return root


def test_a_small_tree_has_the_digest_it_always_had(bake: Bake, tmp_path: Path) -> None:
    """Renew with REBAKE_RENEW_GOLDEN=1; a change here gives every release of every user another digest."""
    result = bake(plant(tmp_path / "tree"))
    found = {"release": result.release.digest, "application": result.release.layers[0].digest}
    if os.environ.get("REBAKE_RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_folder_order_times_and_permissions_do_not_count(bake: Bake, tmp_path: Path) -> None:
    first = bake(plant(tmp_path / "one")).release.digest
    for seed in range(4):
        random_ = random.Random(seed)
        tree = plant(tmp_path / f"deep{seed}" / "er", random_)
        for path in sorted(tree.rglob("*")):
            if not path.is_symlink():
                os.utime(path, (random_.randrange(1 << 30), random_.randrange(1 << 30)))
                group_bits = random_.choice([0o000, 0o011, 0o070, 0o066, 0o2000])
                path.chmod(path.stat().st_mode & 0o700 | group_bits)
        (tree / "empty" / "folder").mkdir(parents=True)
        (tree / "__pycache__").mkdir()
        assert bake(tree, Store(tmp_path / f"store{seed}")).release.digest == first


@pytest.mark.parametrize(
    ("umask", "env", "user"),
    [
        ("077", {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"}, []),
        ("000", {"TZ": "America/St_Johns", "LC_ALL": "tr_TR.ISO-8859-9", "PYTHONUTF8": "0"}, []),
        ("027", {"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, []),
        ("022", {"HOME": "/nonexistent", "USER": "nobody"}, ["nobody"]),
    ],
)
def test_umask_zone_locale_and_user_do_not_count(
    bake: Bake, tmp_path: Path, umask: str, env: dict[str, str], user: list[str]
) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    expected = bake(plant(tmp_path / "one")).release.digest
    tree = plant(tmp_path / "two")
    _open_to_all(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other").chmod(0o777)
    command = [sys.executable, "-c", SCRIPT, str(tree), str(tmp_path / "other"), umask, *user]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == expected, done.stderr


def _open_to_all(folder: Path) -> None:
    """Let another user walk down to this test's folder."""
    for path in (folder, *folder.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)


NAMES = st.sampled_from(["a", "b", "a.b", "a-b", "ä", "long" * 30, "z"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
EDITS = st.lists(
    st.tuples(PATHS, st.one_of(st.binary(max_size=1500), st.none()), st.booleans()), min_size=1, max_size=6
)


@pytest.mark.parametrize("trust_stamps", [True, False])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(EDITS, min_size=2, max_size=4))
def test_a_layer_made_from_the_last_one_is_the_layer_made_from_nothing(
    bake: Bake,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    trust_stamps: bool,
    rounds: list[list[tuple[str, bytes | None, bool]]],
) -> None:
    if trust_stamps:  # a bake sees every file as old enough, so that stamps alone decide
        monkeypatch.setattr("rebake.bake.remember.RACY_NS", -(10**15))
    top = tmp_path_factory.mktemp("edits")
    tree, kept = write(top / "tree", {"always": "1"}), Store(top / "kept")
    for number, edits in enumerate(rounds):
        next_tick(top)
        for name, content, executable in edits:
            _edit(tree, name, content, executable)
        step = bake(tree, kept)
        whole = bake(tree, Store(top / f"fresh{number}"))
        assert step.release == whole.release
        assert kept.files(step.release) == Store(top / f"fresh{number}").files(whole.release)
        kept.verify(step.release.layers[0].digest)
    shutil.rmtree(top)


def _edit(tree: Path, name: str, content: bytes | None, executable: bool) -> None:
    path = tree / name
    if any(parent.is_file() for parent in path.parents):
        return
    if content is None and path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif content is not None and not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)


def test_the_files_come_out_as_they_went_in(
    bake: Bake, store: Store, tmp_path: Path, paths: Callable[..., list[str]]
) -> None:
    import tarfile

    result = bake(plant(tmp_path / "tree"))
    with tarfile.open(store.blob_path(result.release.layers[0].digest)) as archive:
        archive.extractall(tmp_path / "out", filter="data")
        names = archive.getnames()
    for name, content in TREE.items():
        out = tmp_path / "out" / "app" / name.removesuffix("*")
        if name in (".dockerignore", "left.tmp"):
            assert not out.exists()
        else:
            assert out.read_bytes() == (content.encode() if isinstance(content, str) else content)
            assert bool(out.stat().st_mode & 0o100) == name.endswith("*")
    assert (tmp_path / "out/app/link").readlink() == Path("a/b")
    assert [name for name in names if name in paths(result)] == paths(result)
    assert paths(result) == sorted(paths(result), key=str.encode)
