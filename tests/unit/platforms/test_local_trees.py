"""Sealed trees: every kind of tampering is found, and what is no tampering is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rebake.platforms.local import trees
from rebake.platforms.model import Drift


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "app" / "sub").mkdir(parents=True)
    (root / "app" / "a.py").write_text("one")
    (root / "app" / "sub" / "b.sh").write_text("#!")
    (root / "app" / "sub" / "b.sh").chmod(0o700)
    (root / "app" / "link").symlink_to("a.py")
    trees.make_read_only(root, ["app"])
    trees.write_seal(root, ["app"])
    return root


def rewrite(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)


def forge(path: Path) -> None:
    """Other bytes of the same length, with the time put back: only the change time and the bytes tell."""
    before = path.stat()
    rewrite(path, "two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_file(path: Path, text: str) -> None:
    path.parent.chmod(0o755)
    path.unlink()
    path.write_text(text)
    path.chmod(0o444)
    path.parent.chmod(0o555)


def add(path: Path) -> None:
    path.parent.chmod(0o755)
    path.write_text("new")
    path.parent.chmod(0o555)


def remove(path: Path) -> None:
    path.parent.chmod(0o755)
    path.unlink()
    path.parent.chmod(0o555)


def relink(path: Path) -> None:
    remove(path)
    path.parent.chmod(0o755)
    path.symlink_to("/etc/passwd")
    path.parent.chmod(0o555)


TAMPERINGS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "other bytes": (lambda root: rewrite(root / "app/a.py", "longer"), "file-changed", "app/a.py"),
    "other bytes under the same times": (lambda root: forge(root / "app/a.py"), "file-changed", "app/a.py"),
    "another file in its place": (lambda root: replace_file(root / "app/a.py", "two"), "file-changed", "app/a.py"),
    "another mode": (lambda root: (root / "app/a.py").chmod(0o644), "file-changed", "app/a.py"),
    "a folder opened for writing": (lambda root: (root / "app/sub").chmod(0o755), "file-changed", "app/sub"),
    "an added file": (lambda root: add(root / "app/sub/evil.py"), "file-added", "app/sub/evil.py"),
    "a removed file": (lambda root: remove(root / "app/sub/b.sh"), "file-removed", "app/sub/b.sh"),
    "another link": (lambda root: relink(root / "app/link"), "file-changed", "app/link"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found_by_name(tampering: str, tree: Path) -> None:
    tamper, kind, path = TAMPERINGS[tampering]
    tamper(tree)
    assert [(d.kind, d.where) for d in trees.look_over(tree)] == [(kind, str(tree / path))]


def test_an_untouched_tree_has_no_difference(tree: Path) -> None:
    assert trees.look_over(tree) == ()


def test_modes_and_times_are_the_same_everywhere(tree: Path) -> None:
    modes = {p.name: p.lstat().st_mode & 0o777 for p in [tree / "app", *(tree / "app").rglob("*")] if p.name != "link"}
    assert modes == {"app": 0o555, "sub": 0o555, "a.py": 0o444, "b.sh": 0o555}
    assert {p.lstat().st_mtime_ns for p in (tree / "app").rglob("*")} == {trees.MTIME_NS}


def test_a_file_that_was_touched_and_holds_the_same_is_no_difference_and_is_read_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    hash_file = trees.hash_file

    def reading(path: str) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(trees, "hash_file", reading)
    os.utime(tree / "app/a.py")
    assert trees.look_over(tree) == ()
    assert trees.look_over(tree) == ()
    assert read == [str(tree / "app/a.py")]


def test_a_copied_home_is_still_whole(tree: Path, tmp_path: Path) -> None:
    assert os.system(f"cp -a {tree} {tmp_path}/copy") == 0
    assert trees.look_over(tmp_path / "copy") == ()


def test_a_difference_says_what_was_expected_and_found(tree: Path) -> None:
    rewrite(tree / "app/a.py", "two")
    assert trees.look_over(tree) == (Drift("file-changed", str(tree / "app/a.py"), "7692c3ad3540", "3fc4ccfe7458"),)


@pytest.mark.parametrize("name", ["sealed.json", "sealed.jsonl"])
def test_a_seal_that_cannot_be_read_is_a_difference(name: str, tree: Path) -> None:
    rewrite(tree / "app/a.py", "two")
    (tree / name).unlink()
    (tree / name).write_text("{")
    assert [d.kind for d in trees.look_over(tree)] == ["file-changed"]


def test_a_read_only_tree_is_removed_whole(tree: Path) -> None:
    trees.remove_tree(tree)
    assert not tree.exists()


def test_removing_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    trees.remove_tree(tmp_path / "nothing")
