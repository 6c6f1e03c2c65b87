"""Releases on `scratch` and on an image saved as an OCI layout: what is taken over, named, verified and refused."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.baker import machine
from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes
from rebake.errors import BakeError
from rebake.platforms.docker.archive import archive, image_of
from rebake.platforms.docker.client import DockerClient
from rebake.release.diff import ReleaseView, diff
from rebake.release.documents import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, descriptor
from rebake.release.manifest import RunContract
from rebake.release.store import Store
from rebake.testing.docker_engine import DockerEngine
from rebake.testing.images import base_layer
from tests.unit.bake.conftest import Bake, write

_MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Layout:
    """An OCI image layout under construction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs" / "sha256").mkdir(parents=True)

    def blob(self, kind: str, data: bytes) -> dict[str, Any]:
        digest = digest_bytes(data)
        self.path(digest).write_bytes(data)
        return descriptor(kind, digest, len(data))

    def path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def image(self, layer: bytes, platform: str = "", diff_id: str = "", **config: Any) -> dict[str, Any]:
        system, _, architecture = (platform or machine()).partition("/")
        document = {
            "os": system,
            "architecture": architecture,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id or digest_bytes(layer)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.blob(CONFIG_TYPE, canonical(document)),
            "layers": [self.blob(f"{LAYER_TYPE}+gzip", gzip.compress(layer, mtime=0))],
        }
        row = self.blob(MANIFEST_TYPE, canonical(manifest))
        return {**row, "platform": {"os": system, "architecture": architecture}}

    def index(self, *rows: dict[str, Any]) -> bytes:
        data = canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(rows)})
        (self.root / "index.json").write_bytes(data)
        return data

    @property
    def base(self) -> str:
        return f"oci:{self.root}"


def small_layer(text: str = "hello") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("etc/greeting")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "image")


def image_config(store: Store, digest: str) -> Any:
    return store.read_json(store.read_json(digest)["config"]["digest"])["config"]


def refused(bake: Bake, source: Path, base: str, **options: Any) -> BakeError:
    with pytest.raises(BakeError) as caught:
        bake(write(source, {"a": "1"}), base=base, **options)
    assert caught.value.remedy
    return caught.value


def test_the_layers_of_an_image_come_first_as_they_are_and_are_kept_by_a_collection(
    bake: Bake, source: Path, store: Store, layout: Layout
) -> None:
    row = layout.image(small_layer(), Env=["PATH=/opt/bin", "GREETING=hello"], User="daemon", Entrypoint=["/bin/false"])
    layout.index(row)
    release = bake(write(source, {"a": "1"}), base=layout.base).release
    assert [layer.role for layer in release.layers] == ["base", "application"]
    assert release.base == f"oci@{row['digest']}"
    assert release.runtime.platform == machine()
    store.gc({release.digest}, grace_seconds=0)
    below = release.layers[0]
    assert store.blob_path(below.digest).read_bytes() == layout.path(below.digest).read_bytes()
    config = image_config(store, release.digest)
    assert "PATH=/deps/bin:/opt/bin" in config["Env"]
    assert "GREETING=hello" in config["Env"]
    assert config["User"] == "daemon"
    assert "Entrypoint" not in config


def test_the_same_image_in_another_folder_gives_the_same_release(
    bake: Bake, source: Path, tmp_path: Path, layout: Layout
) -> None:
    write(source, {"a": "1"})
    other = Layout(tmp_path / "elsewhere")
    for one in (layout, other):
        one.index(one.image(small_layer()))
    first = bake(source, base=layout.base).release.digest
    assert bake(source, Store(tmp_path / "another-store"), base=other.base).release.digest == first


def test_an_image_of_root_runs_as_nobody_and_scratch_too(
    bake: Bake, source: Path, store: Store, layout: Layout
) -> None:
    layout.index(layout.image(small_layer(), User="0:0"))
    write(source, {"a": "1"})
    for base in (layout.base, "scratch"):
        assert image_config(store, bake(source, base=base).release.digest)["User"] == "65532:65532"
    assert "User" not in image_config(store, bake(source).release.digest)


def test_of_several_platforms_below_a_nested_index_this_machines_is_taken(
    bake: Bake, source: Path, layout: Layout
) -> None:
    wanted = layout.image(small_layer())
    inner = layout.index(layout.image(small_layer("other"), "linux/s390x"), wanted)
    layout.index(layout.blob(INDEX_TYPE, inner))
    assert bake(write(source, {"a": "1"}), base=layout.base).release.base == f"oci@{wanted['digest']}"


def test_a_changed_base_is_told_by_diff(bake: Bake, source: Path, store: Store, layout: Layout) -> None:
    write(source, {"a": "1"})
    sides = []
    for text in ("hello", "goodbye"):
        layout.index(layout.image(small_layer(text)))
        release = bake(source, base=layout.base).release
        sides.append(ReleaseView(text, release, store.files(release)))
    found = diff(*sides)
    assert [change.key for change in found.run] == ["base"]
    assert found.added == found.removed == found.changed == ()


def test_a_layer_whose_bytes_are_not_those_of_its_digest_is_refused_and_does_not_enter_the_store(
    bake: Bake, source: Path, store: Store, layout: Layout
) -> None:
    row = layout.image(small_layer())
    layout.index(row)
    digest = json.loads(layout.path(row["digest"]).read_bytes())["layers"][0]["digest"]
    layout.path(digest).write_bytes(gzip.compress(small_layer("evil"), mtime=0))
    assert refused(bake, source, layout.base).code == "base-damaged"
    assert not store.blobs.has(digest)


def test_a_layer_with_another_content_than_the_config_says_is_refused(bake: Bake, source: Path, layout: Layout) -> None:
    layout.index(layout.image(small_layer(), diff_id=digest_bytes(b"something else")))
    assert "diff ID" in refused(bake, source, layout.base).problem


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"manifests": [{"mediaType": 1}]}', '{"manifests": 3}'])
def test_an_index_that_nobody_can_read_is_named(bake: Bake, source: Path, layout: Layout, text: str) -> None:
    (layout.root / "index.json").write_text(text)
    assert refused(bake, source, layout.base).code == "base-damaged"


def test_a_digest_that_leads_out_of_the_layout_is_refused(bake: Bake, source: Path, layout: Layout) -> None:
    layout.index(descriptor(MANIFEST_TYPE, "sha256:../../../secret", 1))
    assert refused(bake, source, layout.base).code == "base-damaged"


def test_no_layout_another_platform_and_two_images_are_told_apart(bake: Bake, source: Path, layout: Layout) -> None:
    assert refused(bake, source, layout.base).code == "base-missing"
    layout.index(layout.image(small_layer(), "linux/s390x"))
    assert refused(bake, source, layout.base).code == "base-platform"
    layout.index(layout.image(small_layer("a")), layout.image(small_layer("b")))
    assert refused(bake, source, layout.base).code == "base-ambiguous"


def test_python_needs_a_base_that_says_the_same_version(bake: Bake, source: Path, layout: Layout) -> None:
    for said in ([], ["PYTHON_VERSION=2.7.18"]):
        layout.index(layout.image(small_layer(), Env=said))
        assert refused(bake, source, layout.base, builder="python").code == "base-interpreter"
    assert refused(bake, source, "scratch", builder="python").code == "base-interpreter"
    layout.index(layout.image(small_layer(), Env=[f"PYTHON_VERSION={_MINOR}.1"]))
    assert bake(source, base=layout.base, builder="python").release.runtime.version == _MINOR


@pytest.mark.real
def test_an_engine_runs_a_release_on_an_image_as_nobody(
    bake: Bake, source: Path, store: Store, layout: Layout, docker_engine: DockerEngine
) -> None:
    layout.index(layout.image(base_layer(), Env=["PATH=/usr/bin:/bin"]))
    write(source, {"say.py": "import os; print(os.getuid(), os.getcwd())"})
    run = RunContract(("python", "say.py"), 8080)
    image = image_of(store, bake(source, base=layout.base, run=run).release)
    DockerClient(str(docker_engine.socket)).load(archive(store, image))
    try:
        assert docker_engine.docker("run", "--rm", "--network", "none", image.facts.id).split() == ["65532", "/app"]
    finally:
        docker_engine.docker("rmi", "-f", image.facts.id, check=False)
