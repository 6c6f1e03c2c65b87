"""Bases of a registry, by reference: resolved to a digest, recorded, remembered, fetched once; and releases on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.baker import machine
from rebake.bake.memoising import DiskMemo
from rebake.core.digest import short
from rebake.errors import BakeError, Permanent, Transient
from rebake.registry.client import RegistryClient
from rebake.registry.images import RegistryImages, Shelf
from rebake.registry.repository import Document, Repository
from rebake.registry.transfer import pull_release, push_release
from rebake.release.documents import INDEX_TYPE, MANIFEST_TYPE
from rebake.release.store import Store
from rebake.testing.registry_server import RegistryServer
from tests.unit.bake.conftest import Bake, write
from tests.unit.bake.test_bases import Layout, small_layer

pytestmark = pytest.mark.real


class Shop:
    """A registry with a repository for bases, seen by one machine.

    Attributes:
        asked: which registries' clients were wanted, one for each question.
        away: the registry does not answer.
    """

    def __init__(self, host: str, name: str, store: Store, environ: Mapping[str, str]) -> None:
        self.host, self.name, self.store, self.away = host, name, store, False
        self._client = RegistryClient(host, environ)
        self._nobody = RegistryClient("127.0.0.1:1", environ, pause=lambda _: None)
        self.asked: list[str] = []
        self.images = RegistryImages(Shelf(store, DiskMemo(store.cache), self.client))

    def client(self, registry: str) -> RegistryClient:
        self.asked.append(registry)
        return self._nobody if self.away else self._client

    def repository(self, name: str = "") -> Repository:
        return Repository(self._client, name or self.name)

    def put(self, layout: Layout, tag: str, *rows: dict[str, Any]) -> None:
        """One image under a tag; or several, in an index."""
        there = self.repository()
        for path in (layout.root / "blobs" / "sha256").iterdir():
            data = path.read_bytes()
            there.upload_bytes(data)
        for row in rows:
            single = tag if len(rows) == 1 else ""
            there.put_manifest(Document(row["digest"], MANIFEST_TYPE, layout.path(row["digest"]).read_bytes()), single)
        if len(rows) > 1:
            index = layout.index(*rows)
            there.put_manifest(Document(layout.blob(INDEX_TYPE, index)["digest"], INDEX_TYPE, index), tag)

    def base(self, rest: str) -> str:
        return f"{self.host}/{self.name}{rest}"

    def close(self) -> None:
        self._client.close()
        self._nobody.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image")


@pytest.fixture
def shop(registry: RegistryServer, store: Store, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(registry.host, f"bases/{tmp_path.name.replace('_', '-').lower()[-40:].strip('-')}", store, {})
    yield made
    made.close()


@pytest.fixture
def on(bake: Bake, source: Path, shop: Shop) -> Callable[[str], Any]:
    """Bakes the same source on a base of the shop's."""
    write(source, {"a": "1"})
    return lambda rest: bake(source, base=shop.base(rest), images=shop.images)


def test_a_tag_is_resolved_to_the_digest_that_the_release_records(
    on: Callable[[str], Any], shop: Shop, layout: Layout, store: Store
) -> None:
    row = layout.image(small_layer(), Env=["GREETING=hello"])
    shop.put(layout, "1.0", row)
    by_tag = on(":1.0").release
    assert by_tag.base == shop.base(f"@{row['digest']}")
    assert by_tag.runtime.platform == machine()
    assert on(f"@{row['digest']}").release.digest == by_tag.digest
    assert on(f":1.0@{row['digest']}").release.digest == by_tag.digest
    assert store.blobs.has(by_tag.layers[0].digest)


def test_nothing_is_fetched_twice_and_a_digest_needs_no_registry(
    on: Callable[[str], Any], shop: Shop, layout: Layout
) -> None:
    row = layout.image(small_layer())
    shop.put(layout, "1.0", row)
    first = on(":1.0").release
    shop.asked.clear()
    assert on(":1.0").release == first
    assert len(shop.asked) == 1, "the tag was asked for, and nothing else"
    shop.asked.clear()
    shop.away = True
    assert on(f"@{row['digest']}").release == first
    assert shop.asked == []


def test_a_tag_that_moved_is_told_once(on: Callable[[str], Any], shop: Shop, layout: Layout) -> None:
    before, after = layout.image(small_layer("before")), layout.image(small_layer("after"))
    shop.put(layout, "1.0", before)
    assert on(":1.0").notes == ()
    shop.put(layout, "1.0", after)
    (note,) = on(":1.0").notes
    assert f"moved: {short(before['digest'])} → {short(after['digest'])}" in note
    assert on(":1.0").notes == ()


def test_while_the_registry_is_away_a_tag_is_what_it_was_and_that_is_told(
    on: Callable[[str], Any], shop: Shop, layout: Layout
) -> None:
    shop.away = True
    with pytest.raises(Transient) as away:
        on(":1.0")
    assert away.value.code == "registry-unreachable"
    shop.away = False
    shop.put(layout, "1.0", layout.image(small_layer()))
    first = on(":1.0").release
    shop.away = True
    again = on(":1.0")
    assert again.release == first
    assert "does not answer" in again.notes[0]
    assert "taken as it was last" in again.notes[0]


def test_of_an_index_this_machines_platform_is_taken_and_others_are_named(
    on: Callable[[str], Any], shop: Shop, layout: Layout
) -> None:
    mine = layout.image(small_layer("mine"))
    others = [layout.image(small_layer(name), f"linux/{name}") for name in ("s390x", "riscv64")]
    attested = {**layout.image(small_layer("attestation")), "platform": {"os": "unknown", "architecture": "unknown"}}
    shop.put(layout, "all", mine, *others, attested)
    assert on(":all").release.base == shop.base(f"@{mine['digest']}")
    shop.put(layout, "others", *others)
    for rest in (":others", f"@{others[0]['digest']}"):
        with pytest.raises(BakeError) as other:
            on(rest)
        assert other.value.code == "base-platform"
        assert "linux/s390x" in other.value.problem


def test_a_base_that_is_not_there_is_named(on: Callable[[str], Any], shop: Shop) -> None:
    with pytest.raises(Permanent) as unknown:
        on(":never")
    assert unknown.value.code == "image-unknown"
    with pytest.raises(BakeError) as wrong:
        on(":")
    assert wrong.value.code == "wrong-reference"


def test_a_document_damaged_in_the_store_is_fetched_again(
    on: Callable[[str], Any], shop: Shop, layout: Layout, store: Store
) -> None:
    row = layout.image(small_layer())
    shop.put(layout, "1.0", row)
    first = on(":1.0").release
    kept = store.blob_path(row["digest"])
    kept.chmod(0o644)
    kept.write_bytes(b"{}")
    assert on(":1.0").release == first
    assert json.loads(kept.read_bytes())["schemaVersion"] == 2


def test_a_release_goes_out_without_its_base_where_the_registry_has_that(
    on: Callable[[str], Any], shop: Shop, layout: Layout, store: Store, tmp_path: Path
) -> None:
    shop.put(layout, "1.0", layout.image(small_layer()))
    release = on(":1.0").release
    there = shop.repository(f"{shop.name}-app")
    pushed = push_release(store, release, there, lambda _: None)
    assert (pushed.mounted, pushed.held) == (1, 0)
    elsewhere = Store(tmp_path / "elsewhere")
    assert pull_release(elsewhere, there, release.digest, lambda _: None) == release
    assert elsewhere.files(release) == store.files(release)
