"""Images of releases in an engine: loaded once from the store, verified, and removed with their release."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace

from rebake.errors import Permanent, PlatformError
from rebake.platforms.docker.archive import Image, ImageStore, archive, held_layers, image_of
from rebake.platforms.docker.client import DockerClient, NameTaken
from rebake.platforms.docker.records import ContainerFolders
from rebake.platforms.docker.requests import container_name
from rebake.platforms.ports import Progress
from rebake.platforms.records import read_record, write_record
from rebake.release.documents import SERVICE_ANNOTATION
from rebake.release.manifest import Release

_SHELL = "/bin/sh"
_COMPARED_SETTINGS = ("Env", "User", "WorkingDir", "Labels")
"""What a container takes from its image's config, besides what every request says anew."""
_COMPARED = 20
"""So many of our newest images are asked for layers that need not be sent again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where the image of a release was put: `socket` of the engine, `image` ID there."""

    socket: str
    image: str


class Images:
    """The images of one home."""

    def __init__(self, store: ImageStore, folders: ContainerFolders, tag: str) -> None:
        self._store, self._folders, self._tag = store, folders, tag
        self._lock = threading.Lock()
        self._shells: dict[str, bool] = {}

    def ready(self, client: DockerClient, release: Release, progress: Progress) -> Image:
        """The image of a release, in the engine. Raises: Permanent `base-host`, `release-damaged`, `image-changed`."""
        if release.base == "host":
            raise needs_base(release)
        image = image_of(self._store, release)
        with self._lock:
            image = self._found(client, image) or self._load(client, image, progress)
            record = self._folders.images / release.digest.removeprefix("sha256:")
            if not record.exists():
                self._folders.images.mkdir(parents=True, exist_ok=True)
                write_record(record, Loaded(client.socket, image.facts.id))
        return image

    def _found(self, client: DockerClient, image: Image) -> Image | None:
        """The image as the engine has it, under the engine's own ID for it.

        Most engines call an image by the digest of its config, which they have checked. One that keeps images in
        containerd calls it by another digest, and finds it by its name: there its layers and settings are compared.
        """
        if client.image(image.facts.id) is not None:
            return image
        doc = client.image(image.tag)
        if doc is None or (doc.get("RootFS") or {}).get("Layers") != [blob.diff_id for blob in image.layers]:
            return None
        mine, theirs = self._store.read_json(image.facts.id)["config"], doc.get("Config") or {}
        if any((mine.get(key) or None) != (theirs.get(key) or None) for key in _COMPARED_SETTINGS):
            return None
        return replace(image, facts=replace(image.facts, id=str(doc["Id"])))

    def _load(self, client: DockerClient, image: Image, progress: Progress) -> Image:
        for blob in image.layers:
            self._store.verify(blob.digest)
        skip = self._held(client, image)
        progress(f"load {len(image.layers) - skip} of {len(image.layers)} layers into the engine")
        try:
            client.load(archive(self._store, image, skip))
        except PlatformError as error:
            if not skip or error.code not in ("docker-refused", "docker-failed"):
                raise
            client.load(archive(self._store, image))  # it lost a layer meanwhile, or wants all of them
        found = self._found(client, image)
        if found is None:
            raise Permanent(
                "image-changed",
                f"expected the engine to hold {image.facts.id} after loading it, found no image like it",
                where=client.socket,
                remedy="the engine changes images as it loads them; please report its version (rebake doctor)",
            )
        return found

    @staticmethod
    def _held(client: DockerClient, image: Image) -> int:
        ours = client.images(SERVICE_ANNOTATION)[:_COMPARED]
        found = [client.image(str(row["Id"])) for row in ours]
        return held_layers(image, [((doc.get("RootFS") or {}).get("Layers") or []) for doc in found if doc])

    def has_shell(self, client: DockerClient, image: Image) -> bool:
        """Whether the image holds a shell: looked up in a container that is never started."""
        known = self._shells.get(image.facts.id)
        if known is None:
            name = container_name(self._tag, f"look-{image.facts.id[-12:]}")
            with suppress(NameTaken):
                client.create(name, {"Image": image.facts.id, "Entrypoint": [_SHELL], "NetworkDisabled": True})
            try:
                known = client.has_file(name, _SHELL)
            finally:
                client.remove(name)
            self._shells[image.facts.id] = known
        return known

    def forget(self, digest: str) -> int:
        """Remove the image of a release from where it was loaded. Returns 0: the engine does not say what it freed."""
        path = self._folders.images / digest.removeprefix("sha256:")
        record = read_record(Loaded, path)
        if record is not None:
            DockerClient(record.socket).remove_image(record.image)
            path.unlink(missing_ok=True)
        return 0


def needs_base(release: Release) -> Permanent:
    return Permanent(
        "base-host",
        "the release is baked on `base: host`, this machine's own runtime, which no container has",
        where=f"release {release.digest}",
        remedy="set bake.base to an image reference (or scratch), or deploy it to an environment on platform local",
    )
