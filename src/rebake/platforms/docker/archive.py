"""A release's image as the archive that every engine loads (`docker load`), written straight from the store.

The image's ID in the engine is the digest of its config, so what was loaded can be compared with what was sealed.
Layers that the engine holds already, of another release on the same base, need not be sent again.

Source: Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rebake.errors import Permanent
from rebake.platforms.docker.requests import ImageFacts
from rebake.release.manifest import Release

_BLOCK = 1 << 20
_RECORD = 10_240


class ImageStore(Protocol):
    """The content-addressed store, as far as this platform needs it."""

    def release(self, digest: str) -> Release: ...

    def read_json(self, digest: str) -> Any: ...

    def verify(self, digest: str) -> None: ...

    def blob_path(self, digest: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Blob:
    """One layer as it lies in the store. `diff_id`: of the uncompressed archive, by which the engine knows it."""

    digest: str
    diff_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """What is loaded for one release. `tag`: a name for people; nothing runs by it."""

    facts: ImageFacts
    layers: tuple[Blob, ...]
    tag: str


def image_of(store: ImageStore, release: Release) -> Image:
    """Read image manifest and config. Raises: Permanent `release-damaged`."""
    manifest = store.read_json(release.digest)
    config_digest = str(manifest["config"]["digest"])
    config = store.read_json(config_digest)
    diff_ids = [str(one) for one in config["rootfs"]["diff_ids"]]
    rows = manifest["layers"]
    if len(diff_ids) != len(rows):
        raise Permanent(
            "release-damaged",
            f"expected {len(rows)} layers in the image's config, found {len(diff_ids)}",
            where=f"release {release.digest}",
            remedy="bake it again: the same source gives the same digest",
        )
    blobs = tuple(Blob(str(r["digest"]), d, int(r["size"])) for r, d in zip(rows, diff_ids, strict=True))
    user = str((config.get("config") or {}).get("User") or "")
    tag = f"rebake/{release.service}:{release.digest.removeprefix('sha256:')[:12]}"
    return Image(ImageFacts(config_digest, user), blobs, tag)


def held_layers(image: Image, others: Sequence[Sequence[str]]) -> int:
    """How many layers, from the first on, another image of the engine has below the same ones.

    Args:
        others: diff IDs of each image of the engine, the lowest first.
    """
    wanted = [blob.diff_id for blob in image.layers]
    return max((_common(wanted, list(other)) for other in others), default=0)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def archive(store: ImageStore, image: Image, skip: int = 0) -> Iterator[bytes]:
    """The bytes of the archive.

    Args:
        skip: layers, from the first on, that the engine holds.
    """
    config = store.blob_path(image.facts.id).read_bytes()
    names = [f"{blob.digest.removeprefix('sha256:')}.tar" for blob in image.layers]
    index = [{"Config": _config_name(image), "RepoTags": [image.tag], "Layers": names}]
    yield from _member(_config_name(image), config)
    yield from _member("manifest.json", json.dumps(index).encode())
    for name, blob in list(zip(names, image.layers, strict=True))[skip:]:
        yield _header(name, blob.size)
        yield from _content(store.blob_path(blob.digest), blob.size)
    yield bytes(_RECORD)


def _config_name(image: Image) -> str:
    return f"{image.facts.id.removeprefix('sha256:')}.json"


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data))
    yield data
    yield bytes(-len(data) % 512)


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left and (block := file.read(min(_BLOCK, left))):
            left -= len(block)
            yield block
    yield bytes(left + -size % 512)
