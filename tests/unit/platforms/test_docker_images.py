"""Images of releases in an engine: also in one that calls them by a digest of its own, and in one that changes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from rebake.core.home import Home
from rebake.errors import Permanent, Transient
from rebake.platforms.docker.client import DockerClient
from rebake.platforms.docker.images import Images
from rebake.platforms.docker.records import ContainerFolders
from rebake.release.manifest import Release, RunContract
from rebake.testing.images import ImageReleases


class Engine:
    """An engine that holds what was loaded.

    Attributes:
        own_ids: it calls images by another digest than that of their config.
        wants_all: it takes no archive without every layer.
        tampers: what it changes in an image's settings.
    """

    socket = "an engine"

    def __init__(self, *, own_ids: bool = False, wants_all: bool = False, **tampers: Any) -> None:
        self.own_ids, self.wants_all, self.tampers = own_ids, wants_all, tampers
        self.held: dict[str, dict[str, Any]] = {}
        self.loads = 0

    def image(self, name: str) -> dict[str, Any] | None:
        return self.held.get(name)

    def images(self, label: str) -> list[dict[str, Any]]:
        return list(self.held.values())

    def load(self, archive: Iterable[bytes]) -> None:
        self.loads += 1
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
            (row,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            config = json.load(tar.extractfile(row["Config"]))  # type: ignore[arg-type]
            there = set(tar.getnames())
        if self.wants_all and not set(row["Layers"]) <= there:
            raise Transient("docker-failed", "the engine could not do it: content digest not found")
        image_id = "sha256:" + (f"{self.loads:064x}" if self.own_ids else row["Config"].removesuffix(".json"))
        settings = {**config["config"], **self.tampers}
        doc = {"Id": image_id, "RootFS": {"Layers": config["rootfs"]["diff_ids"]}, "Config": settings}
        self.held |= {image_id: doc, row["RepoTags"][0]: doc}

    @property
    def client(self) -> DockerClient:
        return cast(DockerClient, self)


@pytest.fixture
def releases(tmp_path: Path) -> ImageReleases:
    return ImageReleases(tmp_path / "store")


@pytest.fixture
def images(releases: ImageReleases, tmp_path: Path) -> Images:
    home = Home(tmp_path / "home")
    return Images(releases.store, ContainerFolders(home), home.tag)


def seal(releases: ImageReleases, text: str) -> Release:
    return releases.add(RunContract(("python", "x.py")), {"app/x.py": text})


def quiet(_line: str) -> None:
    pass


def test_an_image_is_loaded_once_and_run_by_the_digest_of_its_config(releases: ImageReleases, images: Images) -> None:
    engine, release = Engine(), seal(releases, "one")
    config = releases.store.read_json(release.digest)["config"]["digest"]
    assert [images.ready(engine.client, release, quiet).facts.id for _ in range(2)] == [config] * 2
    assert engine.loads == 1


def test_an_engine_with_names_of_its_own_is_asked_by_them(releases: ImageReleases, images: Images) -> None:
    engine = Engine(own_ids=True)
    found = [images.ready(engine.client, seal(releases, text), quiet).facts.id for text in ("one", "two", "one")]
    assert found == [f"sha256:{1:064x}", f"sha256:{2:064x}", f"sha256:{1:064x}"]


def test_an_engine_that_wants_every_layer_gets_them(releases: ImageReleases, images: Images) -> None:
    engine = Engine(own_ids=True, wants_all=True)
    for text in ("one", "two"):
        images.ready(engine.client, seal(releases, text), quiet)
    assert engine.loads == 3, "the second one was tried without the base first"


@pytest.mark.parametrize("changed", [{"User": "root"}, {"Env": ["X=1"]}, {"WorkingDir": "/"}, {"Labels": {}}])
def test_an_image_that_the_engine_changed_is_not_run(
    releases: ImageReleases, images: Images, changed: dict[str, Any]
) -> None:
    with pytest.raises(Permanent) as refused:
        images.ready(Engine(own_ids=True, **changed).client, seal(releases, "one"), quiet)
    assert refused.value.code == "image-changed"


def test_a_name_that_somebody_gave_to_another_image_is_loaded_anew(releases: ImageReleases, images: Images) -> None:
    engine, release = Engine(own_ids=True), seal(releases, "one")
    images.ready(engine.client, release, quiet)
    for doc in engine.held.values():
        doc["RootFS"] = {"Layers": ["sha256:" + "0" * 64]}
    assert images.ready(engine.client, release, quiet).facts.id == f"sha256:{2:064x}"
