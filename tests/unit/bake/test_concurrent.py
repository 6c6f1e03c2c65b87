"""Two bakes at once, a bake beside a collection, a bake that is killed: the store stays valid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rebake.release.store import Store

from .conftest import Bake, write

PRELUDE = """
import sys, os, time
from pathlib import Path
from rebake.bake.baker import Baker
from rebake.bake.builders.files import FilesBuilder
from rebake.bake.ports import BakeRequest
from rebake.release.manifest import RunContract
from rebake.release.store import Store
from rebake.bake import layers
request = BakeRequest("guestbook", "files", Path(sys.argv[1]), RunContract(("python", "-m", "app"), 8080))
baker = Baker(Store(Path(sys.argv[2])), [FilesBuilder()])
"""
BAKE = PRELUDE + "print(baker.bake(request, print).release.digest)\n"
HANG = (
    PRELUDE
    + """
append = layers._append
def slow(sink, entry, *rest):
    append(sink, entry, *rest)
    if entry[0].endswith(b"m.py"):
        sink._flush()
        while sink.size < 1500:
            time.sleep(0.001)
        print("halfway", flush=True)
        sys.stdin.read()
layers._append = slow
print(baker.bake(request, print).release.digest)
"""
)


def start(script: str, source: Path, store: Store) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(source), str(store.root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_many_bakes_of_one_folder_at_once_agree(bake: Bake, source: Path, store: Store) -> None:
    write(source, {f"d{n % 7}/f{n}.py": f"{n}" * 50 for n in range(200)})
    processes = [start(BAKE, source, store) for _ in range(4)]
    found = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert found == {bake(source).release.digest}
    release = store.release(found.pop())
    for digest in store.needed(release.digest):
        store.verify(digest)


def test_a_killed_bake_leaves_only_what_a_collection_removes(bake: Bake, source: Path, store: Store) -> None:
    write(source, {"a.py": "1" * 5000, "m.py": "1", "z.py": "1"})
    process = start(HANG, source, store)
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert len(list(store.blobs.temporary.iterdir())) == 1
    assert store.releases() == ()
    report = store.gc(set())
    assert report.bytes > 5000
    assert list(store.blobs.temporary.iterdir()) == []
    assert list(store.blobs.pins.iterdir()) == []
    assert store.release(bake(source).release.digest)


def test_a_collection_takes_nothing_from_a_bake_under_way(bake: Bake, source: Path, store: Store) -> None:
    """Even the layer nobody else needs any more, which the bake is about to copy from."""
    write(source, {"a.py": "1", "m.py": "1", "z.py": "1"})
    bake(source)
    write(source, {"m.py": "2"})
    process = start(HANG, source, store)
    assert process.stdout is not None
    assert process.stdout.readline() == "halfway\n"
    report = store.gc(set(), grace_seconds=0)
    assert len(report.removed) == 1
    out, _ = process.communicate(timeout=30)
    digest = out.strip()
    assert store.gc({digest}, grace_seconds=0).removed == ()
    for blob in store.needed(digest):
        store.verify(blob)


def test_bakes_and_collections_side_by_side(bake: Bake, source: Path, store: Store, tmp_path: Path) -> None:
    """Whatever a collection does meanwhile, a release that a bake hands out is whole."""
    folders = [write(tmp_path / f"s{n}", {"a.py": "same", "b.py": f"{n}"}) for n in range(3)]
    stop = threading.Event()
    faults: list[str] = []

    def collect() -> None:
        while not stop.is_set():
            store.gc(set(), grace_seconds=0)

    def check(folder: Path) -> None:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and not faults:
            digest = bake(folder).release.digest
            with store.pinned([digest]):
                # Between the bake's pin and this one a collection without grace may take it; then it is gone whole.
                if digest in {record.digest for record in store.releases()}:
                    faults.extend(d for d in store.needed(digest) if not store.blobs.has(d))

    collector = threading.Thread(target=collect)
    checkers = [threading.Thread(target=check, args=(folder,)) for folder in folders]
    for thread in (collector, *checkers):
        thread.start()
    for thread in checkers:
        thread.join()
    stop.set()
    collector.join()
    assert faults == []


def test_a_young_release_survives_a_collection_that_does_not_know_it(
    bake: Bake, source: Path, store: Store, paths: Callable[..., list[str]]
) -> None:
    write(source, {"a.py": "1"})
    result = bake(source)
    assert store.gc(set()).removed == ()
    assert paths(result) == ["app/a.py"]
    old = time.time() - 7200
    os.utime(store.root / "releases" / result.release.digest.removeprefix("sha256:"), (old, old))
    assert bake(source).release == result.release
    assert store.gc(set()).removed == (), "baking it again makes it young again"
