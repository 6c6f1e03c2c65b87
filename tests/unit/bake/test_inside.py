"""What the files of a base's layers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rebake.bake.baker import machine
from rebake.bake.bases import Base
from rebake.bake.inside import user_number
from rebake.bake.memoising import DiskMemo
from rebake.core.digest import digest_bytes
from rebake.release.documents import LAYER_TYPE, StoredLayer
from rebake.release.manifest import Layer, RunContract
from rebake.release.store import Store
from tests.unit.bake.conftest import Bake, write
from tests.unit.bake.test_bases import Layout, image_config
from tests.unit.bake.test_compiled_on_a_base import layer

PASSWD = b"root:x:0:0::/root:/bin/sh\nbroken\napp:x:999:998::/app:/bin/sh\n"


def stored(store: Store, data: bytes) -> StoredLayer:
    with store.pinned() as pin:
        digest = pin.add(data)
    return StoredLayer(Layer(digest, digest, 1, LAYER_TYPE, "base"), digest_bytes(b""))


@pytest.fixture
def base(store: Store) -> Base:
    layers = [
        ("etc/passwd", b"app:x:1:1::/:/\nold:x:5:5::/:/\n"),
        ("./etc/passwd", PASSWD),
        ("etc/group", b"staff:x:50:\n"),
    ]
    return Base("oci@x", tuple(stored(store, layer(*one)) for one in layers), machine())


@pytest.mark.parametrize(
    ("user", "number"),
    [
        ("", ""),
        ("1000:0", "1000:0"),
        ("app", "999"),
        ("app:staff", "999:50"),
        ("app:7", "999:7"),
        ("7:staff", "7:50"),
        ("old", "old"),
        ("nobody:here", "nobody:here"),
    ],
)
def test_a_user_by_name_is_the_number_in_the_uppermost_table(store: Store, base: Base, user: str, number: str) -> None:
    memo = DiskMemo(store.cache)
    assert user_number(store, replace(base, user=user), memo) == number
    for one in base.layers:
        store.blob_path(one.layer.digest).unlink()
    assert user_number(store, replace(base, user=user), memo) == number, "it is not looked for twice"


def test_an_image_that_names_its_user_is_released_with_the_number(
    bake: Bake, source: Path, tmp_path: Path, store: Store
) -> None:
    write(source, {"a.txt": "1"})
    layout = Layout(tmp_path / "image")
    layout.index(layout.image(layer("etc/passwd", PASSWD), Cmd=["/x"], User="app"))
    for builder in ("image", "files"):
        release = bake(source, builder=builder, base=layout.base, run=RunContract(("/x",))).release
        assert image_config(store, release.digest)["User"] == "999"
