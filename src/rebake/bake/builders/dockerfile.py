"""`builder: dockerfile`: the image that a Dockerfile makes is the release.

Docker, Podman or Buildah builds it, whichever is there first on PATH, with its own cache and ignore file; the image is
taken over from the archive that all three write (`docker save`), and named by its ID.

Source: Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; docker-build(1),
docker-save(1), buildah-build(1), buildah-push(1).
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rebake.bake.bases import Base, Ground, base_from
from rebake.bake.ports import BakeRequest, Images, Tools
from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes
from rebake.errors import BakeError
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, descriptor

TOOLS = ("docker", "podman", "buildah")
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20


class DockerfileBuilder:
    """See `ports.WholeBuilder`.

    Args:
        which: where a program is, None if there is none.
    """

    name = "dockerfile"

    def __init__(self, tools: Tools, which: Callable[[str], str | None] = shutil.which) -> None:
        self._tools, self._which = tools, which

    def image(self, request: BakeRequest, ground: Ground, images: Images) -> tuple[Base, Sequence[str]]:  # noqa: ARG002
        """Raises: BakeError `tool-missing`, `dockerfile-missing`, `dockerfile-failed`; as `bases.base_from`."""
        tool = next((name for name in TOOLS if self._which(name)), None)
        if tool is None:
            raise BakeError(
                "tool-missing",
                f"this builder needs {', '.join(TOOLS[:-1])} or {TOOLS[-1]}, and none is on PATH",
                where="bake.builder",
                remedy="install one of them (Debian: apt-get install docker.io, or buildah)",
            )
        file = request.source / request.dockerfile
        if not file.is_file():
            raise BakeError(
                "dockerfile-missing",
                f"expected the file {request.dockerfile} in the source, found none",
                where="bake.dockerfile",
                remedy="name the file, relative to bake.source",
            )
        ground.progress(f"{tool} builds {request.dockerfile}")
        scratch = ground.pin.scratch()
        self._run(request, *_build(tool, file, scratch / "id", request.source))
        image = (scratch / "id").read_text().strip()
        archive = scratch / "image.tar"
        ground.progress(f"take the image over from {tool}")
        self._run(request, *_save(tool, image, archive))
        with disk_errors(ground.store.root):
            saved = Saved(archive, ground.pin)
            base = base_from(ground, saved)
        return replace(base, name=f"{self.name}@{saved.id}"), ()

    def _run(self, request: BakeRequest, *command: str) -> None:
        done = self._tools.run(command, cwd=request.source)
        if done.status != 0:
            raise BakeError(
                "dockerfile-failed",
                f"{' '.join(command[:2])} ended with {done.status}",
                where=request.dockerfile,
                remedy=f"make `{command[0]} build .` work in the source",
                evidence=done.tail(),
            )


def _build(tool: str, file: Path, id_file: Path, context: Path) -> list[str]:
    cached = ["--layers"] if tool == "buildah" else []  # the others keep what they built by themselves
    return [tool, "build", *cached, "--file", str(file), "--iidfile", str(id_file), str(context)]


def _save(tool: str, image: str, archive: Path) -> list[str]:
    if tool == "buildah":
        return [tool, "push", image, f"docker-archive:{archive}"]
    return [tool, "save", "--output", str(archive), image]


class Saved:
    """An image in an archive as `docker save` writes it. See `ports.ImageSource`.

    Attributes:
        id: digest of the config, by which the engine that made it knows it.
    """

    name, where, remedy = "saved", "the image that was built", "build it again"

    def __init__(self, archive: Path, pin: Pin) -> None:
        """Raises: OSError; BakeError `base-damaged`."""
        self.notes: list[str] = []
        self._layers: dict[str, Path] = {}
        try:
            with tarfile.open(archive) as tar:
                (about,) = json.loads(_member(tar, "manifest.json").read())
                self._config = bytes(_member(tar, str(about["Config"])).read())
                rows = [self._taken(tar, str(name), pin) for name in about["Layers"]]
        except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
            raise BakeError(
                "base-damaged",
                f"the archive of the image cannot be read ({error})",
                where=self.where,
                remedy="build it again; if it stays so, please report it with the output of `docker version`",
            ) from error
        finally:
            archive.unlink()
        self.id = digest_bytes(self._config)
        config = descriptor(CONFIG_TYPE, self.id, len(self._config))
        document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": rows}
        self._manifest = canonical(document)

    def top(self) -> bytes:
        return self._manifest

    def manifest(self, digest: str) -> bytes:
        raise FileNotFoundError(digest)

    def config(self, digest: str, size: int) -> bytes:  # noqa: ARG002 there is one
        return self._config

    def layers(self, rows: Mapping[str, int]) -> Mapping[str, Path]:
        return {digest: self._layers[digest] for digest in rows}

    def _taken(self, tar: tarfile.TarFile, name: str, pin: Pin) -> dict[str, Any]:
        """Copy one layer out; its descriptor."""
        state, size, path = hashlib.sha256(), 0, pin.temporary()
        kind = LAYER_TYPE
        with _member(tar, name) as source, path.open("wb") as out:
            while chunk := source.read(_CHUNK):
                if not size and chunk.startswith(_GZIP_MAGIC):
                    kind = f"{LAYER_TYPE}+gzip"
                state.update(chunk)
                out.write(chunk)
                size += len(chunk)
        digest = f"sha256:{state.hexdigest()}"
        self._layers[digest] = path
        return descriptor(kind, digest, size)


def _member(tar: tarfile.TarFile, name: str) -> Any:
    """A file of the archive; a layer that is there twice may be a link to the first. Raises: KeyError."""
    found = tar.extractfile(posixpath.normpath(name))
    if found is None:
        raise KeyError(name)
    return found
