"""Nothing is read twice when nothing changed; and nothing that changed is missed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from rebake.bake import remember
from rebake.bake.layers import Reader
from rebake.bake.walk import Found
from rebake.release.store import Store

from .conftest import Bake, write


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all files read from now on."""
    seen: list[str] = []
    chunks = Reader.chunks

    def spy(self: Reader, path: bytes) -> tuple[int, bytes, Iterable[bytes]]:
        if path not in self.items:
            seen.append(path.decode())
        return chunks(self, path)

    monkeypatch.setattr(Reader, "chunks", spy)
    return seen


@pytest.fixture
def settled_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a bake that begins an hour after every file was written."""
    now = time.time_ns
    monkeypatch.setattr("rebake.bake.application.time.time_ns", lambda: now() + 3_600_000_000_000)


@pytest.mark.usefixtures("settled_clock")
def test_nothing_is_read_twice(bake: Bake, source: Path, read: list[str]) -> None:
    write(source, {"a.py": "1", "b/c.py": "2", "b/.gitignore": "*.log"})
    first = bake(source)
    assert sorted(read) == ["app/a.py", "app/b/c.py"]
    read.clear()
    again = bake(source)
    assert read == []
    assert again.release == first.release
    assert again.reused == ("application", "release")


@pytest.mark.usefixtures("settled_clock")
def test_one_changed_file_is_the_only_one_read(bake: Bake, source: Path, read: list[str]) -> None:
    write(source, {f"f{n}.py": f"{n}" for n in range(20)})
    first = bake(source)
    read.clear()
    write(source, {"f7.py": "changed"})
    second = bake(source)
    assert read == ["app/f7.py"]
    assert second.release.digest != first.release.digest
    write(source, {"f7.py": "7"})
    assert bake(source).release.digest == first.release.digest


@pytest.mark.usefixtures("settled_clock")
def test_a_touched_file_is_read_once_and_the_layer_stays(bake: Bake, source: Path, read: list[str]) -> None:
    write(source, {"a.py": "1", "b.py": "2"})
    bake(source)
    os.utime(source / "a.py")
    read.clear()
    assert bake(source).reused == ("application", "release")
    assert read == ["app/a.py"]
    read.clear()
    bake(source)
    assert read == []


@pytest.mark.usefixtures("settled_clock")
def test_a_change_of_the_same_size_with_its_old_time_put_back_is_seen(bake: Bake, source: Path) -> None:
    write(source, {"a.py": "1111", "b.py": "2"})
    first = bake(source)
    stat = (source / "a.py").stat()
    write(source, {"a.py": "2222"})
    os.utime(source / "a.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert bake(source).release.digest != first.release.digest


def test_a_file_younger_than_the_clock_is_fine_is_read_again(bake: Bake, source: Path, read: list[str]) -> None:
    """Another change within the same tick would leave no trace in the stamp."""
    write(source, {"a.py": "1"})
    bake(source)
    read.clear()
    assert bake(source).reused == ("application", "release")
    assert read == ["app/a.py"]


def _trusted(ages_ns: Iterable[int], size: int) -> list[bool]:
    """Which stamps are remembered as they are, of files that were changed so long before they were read."""
    read_at = 1_000_000_000_000
    found = Found({b"%d" % n: (0, read_at - age, size, n, 0) for n, age in enumerate(ages_ns)})
    return [stamp[0] == 0 for stamp in remember.settle(found, read_at).files.values()]


def test_a_stamp_is_settled_only_when_it_is_older_than_the_coarsest_clock() -> None:
    many = [2_000_000_000, 2_000_000_001] * 200
    assert _trusted(many, 1) == [False, True] * 200


def test_few_changed_files_are_read_again_until_the_kernel_has_written_every_page_back() -> None:
    ages = [59_000_000_000, 60_000_000_000, 60_000_000_001]
    assert _trusted(ages, 1) == [False, False, True]
    assert _trusted(ages, 16 << 20) == [True, True, True], "much is read again only while the clock could be the same"


@pytest.mark.usefixtures("settled_clock")
def test_becoming_executable_is_a_change(bake: Bake, source: Path) -> None:
    write(source, {"run": "1"})
    first = bake(source)
    (source / "run").chmod(0o755)
    second = bake(source)
    (source / "run").chmod(0o744)
    assert second.release.digest != first.release.digest
    assert bake(source).release.digest == second.release.digest


@pytest.mark.usefixtures("settled_clock")
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_layer_is_written_again(bake: Bake, source: Path, store: Store, damage: str) -> None:
    write(source, {"a.py": "1", "b.py": "2"})
    first = bake(source).release
    blob = store.blob_path(first.layers[0].digest)
    data = blob.read_bytes()
    blob.chmod(0o644)
    if damage == "changed":
        blob.write_bytes(data[:600] + b"X" + data[601:])
    elif damage == "cut":
        blob.write_bytes(data[:600])
    else:
        blob.unlink()
    assert bake(source).release == first
    assert blob.read_bytes() == data


@pytest.mark.usefixtures("settled_clock")
def test_a_layer_that_was_only_touched_is_read_and_kept(bake: Bake, source: Path, store: Store) -> None:
    write(source, {"a.py": "1"})
    first = bake(source).release
    blob = store.blob_path(first.layers[0].digest)
    inode = blob.stat().st_ino
    os.utime(blob)
    assert bake(source).reused == ("application", "release")
    assert blob.stat().st_ino == inode


@pytest.mark.usefixtures("settled_clock")
@pytest.mark.parametrize("broken", ["empty", "junk", "last byte", "cut", "lengths"])
def test_a_memory_that_is_broken_is_no_memory(bake: Bake, source: Path, store: Store, broken: str) -> None:
    write(source, {"a.py": "1"})
    first = bake(source).release
    (index,) = (store.cache / "trees").iterdir()
    data = index.read_bytes()
    name, walk, *rest = data[:256].split()
    other = {
        "empty": b"",
        "junk": b"junk",
        "last byte": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[:-1],
        "lengths": b" ".join([name, b"%d" % (int(walk) - 1), *rest]).ljust(255) + b"\n" + data[256:],
    }
    index.write_bytes(other[broken])
    again = bake(source)
    assert again.release == first
    assert "application" not in again.reused


@pytest.mark.usefixtures("settled_clock")
def test_a_changed_ignore_file_is_obeyed_at_once(bake: Bake, source: Path, store: Store) -> None:
    write(source, {"a.py": "1", "b.log": "2", "sub/c.log": "3"})
    bake(source)
    write(source, {"sub/.gitignore": "*.log"})
    second = bake(source).release
    write(source, {".dockerignore": "b.log"})
    third = bake(source).release
    (source / ".dockerignore").unlink()
    (source / "sub/.gitignore").unlink()
    fourth = bake(source).release
    assert [[e.path for e in store.files(r)] for r in (second, third, fourth)] == [
        ["app/a.py", "app/b.log"],
        ["app/a.py"],
        ["app/a.py", "app/b.log", "app/sub/c.log"],
    ]


@pytest.mark.usefixtures("settled_clock")
def test_other_excludes_are_another_memory(bake: Bake, source: Path) -> None:
    write(source, {"a.py": "1", "b.py": "2"})
    both = bake(source).release.digest
    one = bake(source, exclude=("b.py",)).release.digest
    assert one != both
    assert bake(source).reused == ("application", "release")


def test_another_command_is_another_release_on_the_same_layers(bake: Bake, source: Path) -> None:
    from rebake.release.manifest import RunContract

    write(source, {"a.py": "1"})
    first = bake(source).release
    second = bake(source, run=RunContract(("python", "b.py"), 8080)).release
    assert second.layers == first.layers
    assert second.digest != first.digest
