"""What lies under a release: nothing (`scratch`), this machine (`host`), or the layers of an image that is at hand as
an OCI image layout (`oci:FOLDER`).

Rules:
- A base is named by the digest of its image manifest, never by where it was found, so that the same base gives the
  same release everywhere.
- Its layers go into the store as they are, byte for byte. Each is compared with its digest, and its content with the
  diff ID by which an engine knows it.
- Of an index that holds several platforms, the one of this machine is taken.

Source: OCI image-spec v1.1, image-layout.md, image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebake.core.digest import digest_bytes, is_digest
from rebake.errors import BakeError
from rebake.release.blobs import Pin, disk_errors
from rebake.release.documents import INDEX_TYPE, LAYER_TYPE, MANIFEST_TYPE, StoredLayer, encode_files
from rebake.release.manifest import Layer
from rebake.release.store import Store

LAYOUT = "oci:"
_GZIP = f"{LAYER_TYPE}+gzip"
_LAYERS = {
    LAYER_TYPE: LAYER_TYPE,
    _GZIP: _GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": _GZIP,
}
"""What a layer may be, and what it is called in our manifest; the bytes are the same."""
_INDEXES = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
_CHUNK = 1 << 16
_VERSIONS = {"python": ("PYTHON_VERSION", 2), "node": ("NODE_VERSION", 1)}
"""Where the images of each runtime say its version, and how many of its numbers count."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base as a release records it.

    Attributes:
        name: `host`, `scratch`, or `oci@sha256:…` with the digest of the image manifest.
        platform: `linux/amd64`; empty where there is no image.
        env: what the image sets in the environment.
        user: whom the image runs as; empty for root.
    """

    name: str
    layers: tuple[StoredLayer, ...] = ()
    platform: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""

    def version(self, kind: str) -> str:
        """The version of its Python (`3.11`) or Node (`20`), as the image itself says; empty when it does not."""
        variable, numbers = _VERSIONS[kind]
        return ".".join(self.env.get(variable, "").removeprefix("v").split(".")[:numbers])


def base_of(store: Store, pin: Pin, name: str, platform: str) -> Base:
    """The base of this name, its layers in the store and pinned.

    Args:
        name: as the file says it: `host`, `scratch` or `oci:FOLDER`.
        platform: the one wanted, such as `linux/amd64`.
    Raises: BakeError `base-unsupported`, `base-missing`, `base-damaged`, `base-platform`; Permanent `disk-full`.
    """
    if name in ("host", "scratch"):
        return Base(name)
    if not name.startswith(LAYOUT):
        raise BakeError(
            "base-unsupported",
            f"expected a base of host, scratch or oci:FOLDER, found {name!r}",
            where="bake.base",
            remedy="write `base: host`, or name an image by the folder it was saved to (`oci:images/python`)",
        )
    return _Layout(Path(name.removeprefix(LAYOUT)), platform).base(store, pin)


class _Layout:
    """One image layout on disk; nothing in it is believed before it was compared with its digest."""

    def __init__(self, folder: Path, platform: str) -> None:
        self._folder = folder
        self._platform = platform

    def base(self, store: Store, pin: Pin) -> Base:
        digest, manifest = self._manifest()
        try:
            config = json.loads(self._read(str(manifest["config"]["digest"])))
            platform = f"{config['os']}/{config['architecture']}"
            if platform != self._platform:
                raise self._other_platform([platform])
            rows, diff_ids = manifest["layers"], [str(one) for one in config["rootfs"]["diff_ids"]]
            if len(rows) != len(diff_ids):
                raise self._damaged(f"it has {len(rows)} layers and {len(diff_ids)} diff IDs")
            layers = tuple(self._layer(store, pin, row, d) for row, d in zip(rows, diff_ids, strict=True))
            said = config.get("config") or {}
            env = dict(str(one).split("=", 1) for one in said.get("Env") or [] if "=" in one)
            return Base(f"oci@{digest}", layers, platform, env, str(said.get("User") or ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"its documents cannot be read ({error})") from error

    # -- documents -------------------------------------------------------------------------------------------------

    def _manifest(self) -> tuple[str, Mapping[str, Any]]:
        """The one image manifest for the platform, with its digest."""
        try:
            rows = list(self._rows(json.loads((self._folder / "index.json").read_bytes())))
        except OSError as error:
            raise BakeError(
                "base-missing",
                f"expected an OCI image layout with an index.json, found none ({error.strerror})",
                where=str(self._folder),
                remedy="save the image there: `skopeo copy docker://IMAGE oci:FOLDER`, or correct bake.base",
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"its index cannot be read ({error})") from error
        fitting = {row[0] for row in rows if row[1] in ("", self._platform)}
        if len(fitting) > 1:
            raise BakeError(
                "base-ambiguous",
                f"expected one image for {self._platform} in the layout, found {', '.join(sorted(fitting))}",
                where=str(self._folder),
                remedy="save the one that is meant to a folder of its own",
            )
        if not fitting:
            raise self._other_platform(sorted({row[1] for row in rows}))
        digest = fitting.pop()
        return digest, json.loads(self._read(digest))

    def _rows(self, index: Mapping[str, Any], deep: int = 0) -> Iterator[tuple[str, str]]:
        """Digest and platform of every image that an index holds, also below other indexes."""
        for row in index["manifests"]:
            kind, digest = str(row.get("mediaType")), str(row["digest"])
            if kind in _INDEXES and deep < 3:
                yield from self._rows(json.loads(self._read(digest)), deep + 1)
            elif kind in _MANIFESTS and not row.get("artifactType"):
                system = row.get("platform") or {}
                yield digest, f"{system['os']}/{system['architecture']}" if system else ""

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise self._damaged(f"expected a sha256 digest, found {digest[:80]!r}")
        return self._folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _read(self, digest: str) -> bytes:
        try:
            data = self._path(digest).read_bytes()
        except OSError as error:
            raise self._damaged(f"{digest} cannot be read ({error.strerror})") from error
        if digest_bytes(data) != digest:
            raise self._damaged(f"the bytes of {digest} have the digest {digest_bytes(data)}")
        return data

    # -- layers ----------------------------------------------------------------------------------------------------

    def _layer(self, store: Store, pin: Pin, row: Mapping[str, Any], diff_id: str) -> StoredLayer:
        kind, digest = _LAYERS.get(str(row["mediaType"])), str(row["digest"])
        if kind is None:
            raise BakeError(
                "base-unsupported",
                f"expected layers as tar or gzip, found one of the type {row['mediaType']}",
                where=str(self._folder),
                remedy="save the image again with gzip layers (`skopeo copy --dest-compress-format gzip …`)",
            )
        pin.hold([digest])
        if not (store.blobs.has(digest) and store.blob_path(digest).stat().st_size == row["size"]):
            self._copy(store, pin, digest, diff_id, gzipped=kind == _GZIP)
        # What a base holds is told by its digest; no file of it is listed.
        listed = pin.add(encode_files(()))
        return StoredLayer(Layer(digest, diff_id, int(row["size"]), kind, "base"), listed)

    def _copy(self, store: Store, pin: Pin, digest: str, diff_id: str, *, gzipped: bool) -> None:
        target = pin.temporary()
        blob, content = hashlib.sha256(), hashlib.sha256()
        # 31: the largest window, with a gzip header. Source: zlib's manual, inflateInit2
        inflate = zlib.decompressobj(31) if gzipped else None
        try:
            with self._path(digest).open("rb") as source, disk_errors(store.root), target.open("wb") as out:
                while chunk := source.read(_CHUNK):
                    blob.update(chunk)
                    out.write(chunk)
                    while inflate is not None and chunk:
                        content.update(inflate.decompress(chunk))
                        chunk = inflate.unused_data
                        if inflate.eof and chunk:
                            inflate = zlib.decompressobj(31)  # several gzip members are one content
        except FileNotFoundError as error:
            raise self._damaged(f"the layer {digest} is missing") from error
        except zlib.error as error:
            raise self._damaged(f"the layer {digest} is no gzip ({error})") from error
        found = f"sha256:{blob.hexdigest()}"
        if found != digest:
            raise self._damaged(f"the bytes of the layer {digest} have the digest {found}")
        held = f"sha256:{(content if gzipped else blob).hexdigest()}"
        if held != diff_id:
            raise self._damaged(f"expected the diff ID {diff_id} of the layer {digest}, found {held}")
        pin.adopt(target, digest)

    # -- refusals --------------------------------------------------------------------------------------------------

    def _damaged(self, problem: str) -> BakeError:
        return BakeError(
            "base-damaged",
            f"the base image cannot be used: {problem}",
            where=str(self._folder),
            remedy="save the image to this folder again, from where it came",
        )

    def _other_platform(self, found: list[str]) -> BakeError:
        return BakeError(
            "base-platform",
            f"expected an image for {self._platform}, found {', '.join(found) or 'no image'}",
            where=str(self._folder),
            remedy=f"save the image for {self._platform} there",
        )
