from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from rebake.core.digest import digest_bytes
from rebake.errors import BrokenInvariant, Permanent, UsageError
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import (
    LAYER_TYPE,
    FileEntry,
    StoredLayer,
    decode_files,
    encode_files,
    image_documents,
    release_document,
    release_from,
)
from rebake.release.manifest import Health, Layer, Package, Release, Resources, RunContract, Runtime
from rebake.release.store import Store

OLD = time.time() - 86_400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, text: str, *, age: float = 0) -> str:
    """A release whose one layer is this text; `age` makes it and its blobs old."""
    with store.pinned() as pin:
        layer = pin.add(text.encode())
        files = pin.add(encode_files([FileEntry("app/x", 0o644, 1, layer)]))
        stored = StoredLayer(Layer(layer, layer, len(text), LAYER_TYPE, "application"), files)
        release = Release("", "svc", "files", RunContract(("x",)), (stored.layer,))
        documents = image_documents(release, [stored])
        pin.add(documents.release)
        pin.add(documents.config)
        digest = store.put_release(pin, documents.manifest, service="svc", size=len(text))
    if age:
        at = time.time() - age
        for blob in store.needed(digest):
            os.utime(store.blob_path(blob), (at, at))
        os.utime(store.root / "releases" / digest.removeprefix("sha256:"), (at, at))
    return digest


def test_a_blob_comes_back_and_adding_it_twice_does_nothing(store: Store) -> None:
    digest = store.add_blob(b"hello")
    inode = store.blob_path(digest).stat().st_ino
    assert store.add_blob(b"hello") == digest
    assert store.blob_path(digest).stat().st_ino == inode
    with store.open_verified(digest) as file:
        assert file.read() == b"hello"


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_bytes_that_do_not_match_are_never_handed_out(store: Store, how: str) -> None:
    digest = store.add_blob(b'{"a":1}')
    path = store.blob_path(digest)
    path.unlink()
    if how == "changed":
        path.write_bytes(b'{"a":2}')
    for use in (store.open_verified, store.verify, store.read_json):
        with pytest.raises(Permanent) as caught:
            use(digest)
        assert caught.value.code == "release-damaged"
    assert store.add_blob(b'{"a":1}') == digest
    assert store.read_json(digest) == {"a": 1}


def use_whole(store: Store, digest: str) -> None:
    """Everything a platform does with a release."""
    store.files(store.release(digest))
    for needed in store.needed(digest):
        store.verify(needed)


def test_a_release_tampered_with_in_any_blob_is_found(store: Store) -> None:
    digest = put(store, "one")
    for blob in store.needed(digest):
        path = store.blob_path(blob)
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        with pytest.raises(Permanent) as caught:
            use_whole(store, digest)
        assert caught.value.code == "release-damaged"
        path.write_bytes(data)
    use_whole(store, digest)


def test_a_path_is_only_made_from_a_digest(store: Store) -> None:
    with pytest.raises(BrokenInvariant):
        store.blob_path("sha256:../../etc/passwd")


def test_the_store_is_an_oci_image_layout(store: Store) -> None:
    digests = sorted(put(store, text) for text in ("one", "two"))
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.root / "index.json").read_text())
    assert [item["digest"] for item in index["manifests"]] == digests
    for item in index["manifests"]:
        assert item["size"] == (store.root / "blobs/sha256" / item["digest"][7:]).stat().st_size
    for name in (store.root / "blobs/sha256").iterdir():
        assert digest_bytes(name.read_bytes()) == f"sha256:{name.name}"


def test_a_release_is_found_by_a_unique_beginning(store: Store) -> None:
    digest = put(store, "one")
    for text in (digest, digest[7:], digest[:20], digest[7:15].upper()):
        assert store.resolve(text) == digest
        assert store.release(text).digest == digest


@pytest.mark.parametrize("text", ["", "abc", "zzzz", "sha256:", "0" * 64, "../../../etc"])
def test_an_unknown_release_is_refused(store: Store, text: str) -> None:
    put(store, "one")
    with pytest.raises(UsageError) as caught:
        store.release(text)
    assert caught.value.code == "release-unknown"


def test_a_beginning_of_two_releases_is_ambiguous(store: Store) -> None:
    put(store, "one")
    first = store.releases()[0].digest[7:]
    twin = first[:10] + ("0" if first[10] != "0" else "1") + first[11:]
    (store.root / "releases" / twin).write_text("{}")
    with pytest.raises(UsageError) as caught:
        store.resolve(first[:10])
    assert caught.value.code == "release-ambiguous"
    assert store.resolve(first[:11]) == f"sha256:{first}"


def test_an_empty_place_holds_nothing(store: Store) -> None:
    assert store.releases() == ()
    assert store.gc(set()).removed == ()
    assert store.would_collect(set()).blobs == 0
    assert not store.root.exists()


def test_a_release_document_comes_back_whole() -> None:
    run = RunContract(("a", "$PORT"), 1, Health(path="/x"), 5, {"K": "v"}, Resources(7, None))
    stored = StoredLayer(Layer("sha256:a", "sha256:a", 3, LAYER_TYPE, "dependencies"), "sha256:f")
    release = Release(
        "sha256:d",
        "svc",
        "python",
        run,
        (stored.layer,),
        (Package("a", "1"),),
        Runtime("python", "3.11", "any"),
        "host",
    )
    document = json.loads(json.dumps(release_document(release, [stored])))
    assert release_from("sha256:d", document) == (release, (stored,))


def test_a_file_list_comes_back_whatever_the_names() -> None:
    entries = (
        FileEntry('app/"quoted"\n', 0o644, 3, "sha256:aa"),
        FileEntry("app/ü\\", 0o755, 0, "sha256:bb"),
        FileEntry("app/link", 0o777, 0, "", "../x"),
        FileEntry("app/z\u2028z", 0o644, 1, "sha256:cc"),
    )
    assert decode_files(encode_files(entries)) == entries


# -- collections -----------------------------------------------------------------------------------------------


def test_a_collection_keeps_what_is_kept_and_all_it_needs(store: Store) -> None:
    kept, doomed = put(store, "one", age=7200), put(store, "two", age=7200)
    told: list[str] = []
    foreseen = store.would_collect({kept})
    report = store.gc({kept}, on_removed=lambda digest: told.append(digest) or 1000)  # type: ignore[func-returns-value]
    assert report.removed == (doomed,) == foreseen.removed == tuple(told)
    assert (report.kept, report.blobs) == (1, foreseen.blobs)
    assert report.bytes == foreseen.bytes + 1000 > 1000
    for blob in store.needed(kept):
        store.verify(blob)
    with pytest.raises(UsageError, match="no release"):
        store.release(doomed)
    index = json.loads((store.root / "index.json").read_text())
    assert [item["digest"] for item in index["manifests"]] == [kept]
    assert len(list(store.blobs.folder.iterdir())) == len(store.needed(kept))


def test_what_two_releases_share_goes_with_the_last(store: Store) -> None:
    shared = store.add_blob(b"shared")
    os.utime(store.blob_path(shared), (OLD, OLD))
    first = put(store, "shared", age=7200)
    assert shared in store.needed(first)
    assert store.gc({first}).removed == ()
    assert store.blobs.has(shared)
    store.gc(set())
    assert not store.blobs.has(shared)


def test_a_pin_holds_a_release_or_a_single_blob(store: Store) -> None:
    digest, blob = put(store, "one", age=7200), store.add_blob(b"loose")
    os.utime(store.blob_path(blob), (OLD, OLD))
    with store.pinned([digest, blob]):
        assert store.gc(set()).blobs == 0
        assert store.release(digest)
    assert store.gc(set()).removed == (digest,)
    assert not store.blobs.has(blob)


def test_the_pin_of_a_killed_owner_holds_nothing(store: Store) -> None:
    digest = put(store, "one", age=7200)
    child = os.fork()
    if child == 0:
        pin = Pin(store.blobs)
        pin.open()
        pin.hold([digest])
        pin.temporary().write_bytes(b"x" * 100)
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(store.blobs.pins.iterdir())) == 1
    report = store.gc(set())
    assert report.removed == (digest,)
    assert list(store.blobs.pins.iterdir()) == list(store.blobs.temporary.iterdir()) == []


def test_a_collection_killed_half_way_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = put(store, "kept", age=7200)
    put(store, "gone", age=7200)
    unlink, count = Path.unlink, 0

    def dies(self: Path, missing_ok: bool = False) -> None:
        nonlocal count
        count += "sha256" in self.parts
        if count == 2:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(KeyboardInterrupt):
        store.gc({kept})
    monkeypatch.undo()
    assert [record.digest for record in store.releases()] == [kept]
    store.gc({kept})
    assert {f"sha256:{path.name}" for path in store.blobs.folder.iterdir()} == store.needed(kept)


def test_a_damaged_release_does_not_hold_up_a_collection(store: Store) -> None:
    damaged, doomed = put(store, "one", age=7200), put(store, "two", age=7200)
    store.blob_path(damaged).unlink()
    assert store.gc({damaged}).removed == (doomed,)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EROFS, "store-read-only")]
)
def test_what_the_disk_refuses_is_said_with_a_remedy(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(Permanent) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code
    assert "REBAKE_HOME" in (caught.value.remedy or "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_a_bake_with_its_name_and_no_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pin, "temporary", lambda self: Path("/dev/full"))
    with pytest.raises(Permanent) as caught:
        store.add_blob(b"x" * 100_000)
    assert caught.value.code == "disk-full"
    assert not list(store.blobs.folder.iterdir())
