"""A full disk, a kill at every step, names and files that mean no good: a sentence each, nothing lost, nothing left."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from rebake.bake import layers, remember
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.tools import SystemTools
from rebake.bake.walk import Found, Stamp, stamp_of
from rebake.errors import BakeError, Permanent
from rebake.release.store import Store

from .conftest import Bake, write

PRELUDE = """
import itertools, os, signal, subprocess, sys
from pathlib import Path
from rebake.bake.baker import Baker
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.ports import BakeRequest
from rebake.errors import Permanent
from rebake.release.manifest import RunContract
from rebake.release.store import Store

source, place = Path(sys.argv[1]), Path(sys.argv[2])
request = BakeRequest("guestbook", "files", source, RunContract(("python", "-m", "app"), 8080))

def bake(store):
    return Baker(store, [FilesBuilder()]).bake(request, lambda line: None).release.digest

def check_clean(store):
    left = [p for name in ("tmp", "pins") for p in (store.root / name).glob("*")]
    left += [p for name in ("", "releases") for p in (store.root / name).glob(".*")]
    assert not left, left

def check_whole(store):
    for record in store.releases():
        for digest in store.needed(record.digest):
            store.verify(digest)
"""

KILLED = (
    PRELUDE
    + """
def killed_at(step, store):
    child = os.fork()
    if child == 0:
        steps = itertools.count()
        def die(event, arguments):
            if event.startswith(("open", "os.", "fcntl.", "mmap.")) and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(die)
        try:
            bake(store)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

(source / "app.py").write_text("2")
wanted = bake(Store(place / "other"))
for step in itertools.count():
    store = Store(place / str(step))
    (source / "app.py").write_text("1")
    first = bake(store)
    (source / "app.py").write_text("2")
    killed = killed_at(step, store)
    check_whole(store)
    assert first in {record.digest for record in store.releases()}
    store.gc({first})
    check_clean(store)
    check_whole(store)
    assert bake(store) == wanted
    check_whole(store)
    if not killed:
        break
print("steps", step)
"""
)

FULL = (
    PRELUDE
    + """
def size(kibibytes):
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", place], check=True)

def used():
    stat = os.statvfs(place)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize >> 10

def until_it_fits(store, begin):
    refusals = 0
    for more in itertools.count():
        size(begin + 4 * more)
        try:
            return bake(store), refusals
        except Permanent as error:
            assert error.code == "disk-full", error
            assert "rebake gc" in error.remedy
            refusals += 1
        check_clean(store)
        check_whole(store)

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", place], check=True)
store = Store(place / "store")
first, refusals = until_it_fits(store, 4)
assert refusals > 10
(source / "app.py").write_text("changed")
full = used()
second, refusals = until_it_fits(store, full)
assert refusals > 3
assert {record.digest for record in store.releases()} == {first, second}
size(used())
assert store.gc({second}, grace_seconds=0).removed == (first,)
assert used() < full + 4 * refusals
(source / "app.py").write_text("changed again")
assert until_it_fits(store, used())[0] != second
check_whole(store)
print("done")
"""
)


def run(script: str, source: Path, place: Path, *before: str) -> str:
    place.mkdir()
    command = [*before, sys.executable, "-c", script, str(source), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(bake: Bake, source: Path) -> BakeError:
    with pytest.raises(BakeError) as caught:
        bake(source)
    return caught.value


# -- the machine -----------------------------------------------------------------------------------------------------


def test_a_bake_killed_at_any_step_loses_nothing_and_the_next_is_the_same(source: Path, tmp_path: Path) -> None:
    write(source, {"app.py": "1", "lib/a.py": "a" * 9000, "lib/b.py": "b"})
    steps = int(run(KILLED, source, tmp_path / "place").split()[1])
    assert steps > 40, "the bake was killed in all its parts"


def test_on_a_full_disk_a_bake_says_so_and_a_collection_frees_it(source: Path, tmp_path: Path) -> None:
    """A disk of 4 KiB that grows by 4 KiB until the bake fits: every write of it is refused once."""
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted: allow user namespaces (sysctl user.max_user_namespaces) or be root")
    write(source, {"app.py": "1", **{f"f{n}": f"{n}" * 3000 for n in range(10)}})
    assert run(FULL, source, tmp_path / "place", *private) == "done\n"


def test_a_program_that_fails_for_want_of_space_is_no_mistake_of_the_source(source: Path) -> None:
    said = "error: Failed to install: six.whl\\n  Caused by: No space left on device (os error 28)"
    with pytest.raises(Permanent) as caught:
        SystemTools().run(["sh", "-c", f"printf '{said}' >&2; exit 2"], cwd=source)
    assert caught.value.code == "disk-full"
    assert "os error 28" in caught.value.evidence[-1]


def test_a_full_disk_met_by_a_builder_is_told_as_such(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"app.py": "1"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(FilesBuilder, "application", full)
    with pytest.raises(Permanent) as caught:
        bake(source)
    assert caught.value.code == "disk-full"


def test_a_collection_removes_what_a_killed_writer_of_the_index_left(bake: Bake, source: Path, store: Store) -> None:
    write(source, {"app.py": "1"})
    digest = bake(source).release.digest
    index = store.root / "index.json"
    whole = index.read_bytes()
    index.unlink()
    write(store.root, {".index.json.abc": "{", "releases/.abc": "{"})
    store.gc({digest})
    assert index.read_bytes() == whole
    assert not [*store.root.glob(".*"), *(store.root / "releases").glob(".*")]


# -- names -----------------------------------------------------------------------------------------------------------

ODD = ["a\nb\tc", " lead", "trail ", "-rf", "a\\b", '"', "'", "\x01", "*x", "~", "名前", "e\u0301", "é", "n" * 255]


def test_odd_names_go_in_as_they_are(bake: Bake, source: Path, store: Store) -> None:
    for name in ODD:
        write(source, {name: name, f"d/{name}": name})
    (source / "link").symlink_to("a\nb\tc")
    release = bake(source).release
    assert bake(source).release == release
    wanted = {f"app/{name}" for name in [*ODD, *(f"d/{name}" for name in ODD), "link"]}
    assert {entry.path for entry in store.files(release)} == wanted
    with tarfile.open(store.blob_path(release.layers[0].digest)) as archive:
        assert {member.name for member in archive} - {"app", "app/d"} == wanted
        assert archive.extractfile("app/d/名前").read().decode() == "名前"  # type: ignore[union-attr]


def test_a_link_whose_target_is_not_utf8_is_refused(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1"})
    (source / "link").symlink_to(os.fsdecode(b"x\xff"))
    error = refused(bake, source)
    assert error.code == "name-not-utf8"
    assert "link -> x\\xff" in error.evidence[0]


def test_a_path_that_cannot_be_unpacked_everywhere_is_refused(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1"})
    here = os.open(source, os.O_RDONLY)
    for _ in range(25):  # deeper than any one path can name
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    error = refused(bake, source)
    assert error.code == "path-too-long"
    assert "ddd… (3014 bytes)" in error.evidence[0]
    write(source, {".dockerignore": "ddd*\n"})
    assert bake(source).release.digest


# -- changes that hide -----------------------------------------------------------------------------------------------


def test_a_change_during_the_reading_that_leaves_no_trace_in_the_stamp_is_refused(
    bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system's clock stands still for up to two seconds: both stamps are then the same."""
    write(source, {"app.py": "1", "busy.db": "aaaa"})
    read = layers._exactly
    first: dict[int, Stamp] = {}
    monkeypatch.setattr(layers, "stamp_of", lambda stat: first.setdefault(stat.st_ino, stamp_of(stat)))

    def torn(handle: int, size: int) -> bytes:
        content = read(handle, size)
        if content == b"aaaa":
            (source / "busy.db").write_text("aabb")
        return content

    monkeypatch.setattr(layers, "_exactly", torn)
    error = refused(bake, source)
    assert error.code == "file-changed-while-read"
    assert error.evidence == ("busy.db: changed while it was read",)


def test_a_database_changed_in_place_with_its_time_put_back_is_never_missed(bake: Bake, source: Path) -> None:
    write(source, {"app.py": "1"})
    path = source / "app.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (n INTEGER)")
        database.execute("INSERT INTO t VALUES (0)")
        database.commit()
        before = path.stat()
        seen = {bake(source).release.digest}
        for n in range(1, 21):
            database.execute("UPDATE t SET n = ?", (n,))
            database.commit()
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            seen.add(bake(source).release.digest)
    assert path.stat().st_size == before.st_size
    assert len(seen) == 21


def test_a_change_through_a_mapping_is_not_missed(bake: Bake, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives the file a new time when a page is first written, and no other until it is written back."""
    write(source, {"app.py": "1", "map.bin": bytes(8192)})
    now = time.time_ns
    monkeypatch.setattr("rebake.bake.application.time.time_ns", lambda: now() + 20_000_000_000)
    with (source / "map.bin").open("r+b") as file, mmap.mmap(file.fileno(), 8192) as area:
        area[0] = 1
        first = bake(source).release.digest
        area[0] = 2
        assert bake(source).release.digest != first


def test_a_stamp_of_the_future_is_not_trusted() -> None:
    """The clock was set back: what comes next may get this time again."""
    found = Found({b"a": (1, 9_000_000_000_000, 1, 1, 1), b"b": (1, 1, 1, 2, 1)})
    assert [stamp[0] for stamp in remember.settle(found, 1_000_000_000_000).files.values()] == [-1, 1]
