from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebake.bake.ignore import Rules, docker_patterns, docker_verdict
from rebake.bake.ports import Seen
from rebake.bake.walk import Found, Walker, folder_times_are_exact

from .conftest import Bake, next_tick, write


@pytest.mark.parametrize(
    ("lines", "path", "out"),
    [
        # rows of moby/patternmatcher's own tests, and of the reference's examples
        (["*/temp*"], "somedir/temporary.txt", True),
        (["*/temp*"], "somedir/subdir/temporary.txt", False),
        (["*/*/temp*"], "somedir/subdir/temporary.txt", True),
        (["temp?"], "tempa", True),
        (["temp?"], "tempab", False),
        (["**/*.go"], "a/b/c.go", True),
        (["**/*.go"], "c.go", True),
        (["*.md", "!README.md"], "README.md", False),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["docs"], "docs/a/b.md", True),
        (["/docs/"], "docs/a", True),
        (["./docs/../docs"], "docs/a", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other.md", True),
        (["# comment", "", "a"], "# comment", False),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["a.b"], "aXb", False),
        (["\\*"], "*", True),
        (["dir/**"], "dir/a/b", True),
        (["**"], "anything/at/all", True),
        (["**/node_modules"], "a/b/node_modules/c", True),
        (["."], "a", False),
    ],
)
def test_dockerignore_speaks_as_docker_does(lines: list[str], path: str, out: bool) -> None:
    assert bool(docker_verdict(docker_patterns(lines), path)) is out


def test_the_last_match_wins_and_a_taken_back_path_beats_gitignore(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "dist/\n*.log\n", "dist/a.js": "1", "dist/b.log": "1"})
    rules = Rules(os.fsencode(tmp_path), docker_patterns(["!dist", "dist/b.log"]))
    assert not rules.leaves_out(b"dist", True)
    assert not rules.leaves_out(b"dist/a.js", False)
    assert rules.leaves_out(b"dist/b.log", False)


def test_one_file_can_be_taken_out_of_an_ignored_folder(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "dist/\n", "dist/a.js": "1", "dist/b.js": "1"})
    found = Walker(os.fsencode(tmp_path), Rules(os.fsencode(tmp_path), docker_patterns(["!dist/a.js"])), Seen()).walk()
    assert set(found.files) == {b"dist/a.js"}


def test_a_memory_does_not_open_an_ignored_folder(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "dist/\n", "dist/a.js": "1"})

    def rules() -> Rules:
        return Rules(os.fsencode(tmp_path), docker_patterns(["!dist/a.js"]))

    first = Walker(os.fsencode(tmp_path), rules(), Seen()).walk()
    next_tick(tmp_path)
    write(tmp_path, {"dist/later.js": "1"})
    found = Walker(os.fsencode(tmp_path), rules(), Seen(), last=first).walk()
    assert set(found.files) == {b"dist/a.js", b"probe"}


def test_a_broken_pattern_is_named(bake: Bake, source: Path) -> None:
    write(source, {".dockerignore": "[z-a]\n", "a": "1"})
    with pytest.raises(Exception, match=r"\[z-a\]") as caught:
        bake(source)
    assert caught.value.code == "ignore-pattern"  # type: ignore[attr-defined]


NAMES = st.sampled_from(["a", "b", "logs", "x.py", "y.log", "keep", "build", ".hidden", "!odd", "#", "x-y", "]", "-"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.sampled_from(
    [
        *("*.log", "!keep", "/a", "a/", "build/", "**/b", "logs/*", "!logs/keep", "a/**/x.py", "*", "!*/", "!x.py"),
        *("/b/*", "a/**", "**", "!a/**", "b/**/", "/**/keep", "x**y", "[a-b]", "[!a]", "[^b-z]*", "?", "\\!odd"),
        *("\\#", "!b", "# x", "[[:alpha:]]", "[]a]", "[a", "a\\", "keep ", "ke\\ep", "**/a/b", "***", "a/*/b"),
        *(".*", "!.hidden", "[a-]"),
    ]
)
IGNORES = st.dictionaries(st.sampled_from(["", "a/", "b/", "a/b/"]), st.lists(PATTERNS, max_size=4), max_size=3)
TREES = st.sets(PATHS, min_size=1, max_size=12)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed (apt-get install git)")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES, ignores=IGNORES)
def test_gitignore_speaks_as_git_does(
    tmp_path_factory: pytest.TempPathFactory, files: set[str], ignores: dict[str, list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name in sorted(files):
        if not any((root / parent).is_file() for parent in _above(name)) and not (root / name).is_dir():
            write(root, {name: "1"})
    for folder, lines in ignores.items():
        if (root / folder).is_dir():
            (root / folder / ".gitignore").write_text("\n".join(lines) + "\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    listed = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    expected = {name for name in listed if name and not name.endswith(b".gitignore")}
    found = Walker(os.fsencode(root), Rules(os.fsencode(root), ()), Seen()).walk()
    assert set(found.files) == expected
    shutil.rmtree(root)


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def walk(root: Path, last: Found | None = None) -> Found:
    return Walker(os.fsencode(root), Rules(os.fsencode(root), ()), Seen(), last=last).walk()


def test_the_repository_above_is_asked_unless_it_leaves_out_the_source_itself(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    write(tmp_path, {".gitignore": "*.log\ndist/\n", "service/a.py": "1", "service/a.log": "1", "dist/a.log": "1"})
    assert set(walk(tmp_path / "service").files) == {b"a.py"}
    assert set(walk(tmp_path / "dist").files) == {b"a.log"}


def test_version_control_caches_and_virtual_environments_never_go_in(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.py": "1",
            ".git/config": "1",
            "sub/.hg/x": "1",
            "__pycache__/a.pyc": "1",
            "anyname/pyvenv.cfg": "home = /usr",
            "anyname/bin/python": "1",
            "rebake.yaml": "service: x",
            "sub/rebake.yaml": "data",
            ".dockerignore": "",
            "only-caches/__pycache__/b.pyc": "1",
        },
    )
    assert set(walk(tmp_path).files) == {b"a.py", b"sub/rebake.yaml"}


def test_what_the_last_walk_knew_is_not_asked_again_and_what_is_new_is(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.log", "a.py": "1", "b.log": "1", "sub/c.py": "1"})
    first = walk(tmp_path)
    again = walk(tmp_path, first)
    assert (first.rules_asked, again.rules_asked) == (4, 0)
    assert again.files == first.files
    write(tmp_path, {"new.log": "1", "new.py": "1"})
    third = walk(tmp_path, again)
    assert third.rules_asked == 2
    assert set(third.files) == {b"a.py", b"sub/c.py", b"new.py"}


def test_a_folder_with_its_remembered_time_is_not_listed_again(tmp_path: Path) -> None:
    write(tmp_path, {f"d{n}/sub/f.py": "1" for n in range(5)} | {"d1/.gitignore": "*.log", "d1/x.log": "1"})
    first = walk(tmp_path)
    assert first.folders_read == 11
    again = walk(tmp_path, first)
    assert (again.folders_read, again) == (0, first)
    write(tmp_path, {"d2/sub/f.py": "changed in place"})
    third = walk(tmp_path, again)
    assert third.folders_read == 0
    assert third.files[b"d2/sub/f.py"] != again.files[b"d2/sub/f.py"]


def test_what_appears_or_goes_deep_inside_is_found(tmp_path: Path) -> None:
    write(tmp_path, {f"d{n}/sub/f.py": "1" for n in range(5)} | {".gitignore": "*.log"})
    last = walk(tmp_path)
    next_tick(tmp_path)
    write(tmp_path, {"d1/sub/new.py": "1", "d1/sub/new.log": "1", "d3/fresh/deep/er.py": "1"})
    shutil.rmtree(tmp_path / "d0")
    (tmp_path / "d4/sub/f.py").unlink()
    (tmp_path / "d4/sub/link").symlink_to("../..")
    found = walk(tmp_path, last)
    assert found == walk(tmp_path)
    assert set(found.files) == {
        *(b"d1/sub/f.py", b"d1/sub/new.py", b"d2/sub/f.py"),
        *(b"d3/sub/f.py", b"d3/fresh/deep/er.py", b"probe"),
    }
    assert found.links == {b"d4/sub/link": b"../.."}


def test_a_folder_that_becomes_or_stops_being_a_virtual_environment(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "1", "env/lib/x.py": "1"})
    first = walk(tmp_path)
    next_tick(tmp_path)
    write(tmp_path, {"env/pyvenv.cfg": "home = /usr"})
    second = walk(tmp_path, first)
    assert set(second.files) == {b"a.py", b"probe"}
    next_tick(tmp_path)
    (tmp_path / "env/pyvenv.cfg").unlink()
    assert set(walk(tmp_path, second).files) == {b"a.py", b"env/lib/x.py", b"probe"}


def test_folder_times_are_not_trusted_on_file_systems_that_are_not_known(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw - {{}} /dev/x rw\n"
    info = tmp_path / "mountinfo"
    for kind, exact in (("ext4", True), ("9p", False), ("fuse.sshfs", False)):
        info.write_text("1 0 0:1 / / rw - proc proc rw\n" + line.format(kind))
        assert folder_times_are_exact(os.fsencode(tmp_path), info) is exact
    assert not folder_times_are_exact(os.fsencode(tmp_path), tmp_path / "none")


def test_a_name_that_was_a_file_and_is_a_folder_now_is_judged_anew(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "thing/", "thing": "1", "a": "1"})
    first = walk(tmp_path)
    (tmp_path / "thing").unlink()
    write(tmp_path, {"thing/x": "1"})
    assert set(walk(tmp_path, first).files) == {b"a"}
