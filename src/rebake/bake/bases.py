"""What lies under a release: nothing (`scratch`), this machine (`host`), or the layers of an image: one that is at hand
as an OCI image layout (`oci:FOLDER`), or one of a registry, by reference.

Rules:
- A base is named by the digest of its image manifest: with the registry and repository it came from, never with a tag
  that can move or a folder of this machine.
- Its layers go into the store as they are, byte for byte. Each is compared with its digest, and its content with the
  diff ID by which an engine knows it.
- Of an index that holds several platforms, the one of this machine is taken.

Source: OCI image-spec v1.1, image-layout.md, image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rebake.bake.ports import Images, ImageSource, Progress
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
        name: `host`, `scratch`, or with the digest of the image manifest `oci@sha256:…` or `registry/name@sha256:…`.
        platform: `linux/amd64`; empty where there is no image.
        env: what the image sets in the environment.
        user: whom the image runs as; empty for root.
        command: what the image itself would run: its entry point and arguments.
        ports: TCP ports that it says it listens on.
        workdir: where its command runs.
    """

    name: str
    layers: tuple[StoredLayer, ...] = ()
    platform: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    command: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    workdir: str = "/"

    def version(self, kind: str) -> str:
        """The version of its Python (`3.11`) or Node (`20`), as the image itself says; empty when it does not."""
        variable, numbers = _VERSIONS[kind]
        return ".".join(self.env.get(variable, "").removeprefix("v").split(".")[:numbers])


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a base is put: the store, the pin that keeps it, the platform it must be for, and who is told."""

    store: Store
    pin: Pin
    platform: str
    progress: Progress


def base_of(ground: Ground, name: str, images: Images) -> tuple[Base, Sequence[str]]:
    """The base of this name, its layers in the store and pinned; and what a person should know of it.

    Args:
        name: as the file says it: `host`, `scratch`, `oci:FOLDER`, or an image with tag or digest.
    Raises: BakeError `wrong-reference`, `base-unsupported`, `base-ambiguous`, `base-missing`, `base-damaged`,
        `base-platform`; Permanent `disk-full`; PlatformError of a registry.
    """
    if name in ("host", "scratch"):
        return Base(name), ()
    if name.startswith(LAYOUT):
        return base_from(ground, Layout(Path(name.removeprefix(LAYOUT)), ground.pin)), ()
    source = images.image(name, ground.pin, ground.progress)
    return base_from(ground, source), source.notes


class NoImages:
    """Where no registry is asked. See `ports.Images`."""

    def image(self, reference: str, pin: Pin, progress: Progress, /) -> ImageSource:  # noqa: ARG002
        raise BakeError(
            "wrong-reference",
            f"expected a base of host, scratch or oci:FOLDER here, found {reference!r}",
            where="bake.base",
            remedy="save the image to a folder and name that (`oci:images/python`)",
        )


class Layout:
    """An image layout on disk. See `ports.ImageSource`."""

    name = "oci"
    remedy = "save the image to this folder again, from where it came"

    def __init__(self, folder: Path, pin: Pin) -> None:
        self._folder, self._pin = folder, pin
        self.where, self.notes = str(folder), list[str]()

    def top(self) -> bytes:
        try:
            return (self._folder / "index.json").read_bytes()
        except OSError as error:
            raise BakeError(
                "base-missing",
                f"expected an OCI image layout with an index.json, found none ({error.strerror})",
                where=self.where,
                remedy="save the image there: `skopeo copy docker://IMAGE oci:FOLDER`, or correct bake.base",
            ) from error

    def manifest(self, digest: str) -> bytes:
        return self._path(digest).read_bytes()

    def config(self, digest: str, size: int) -> bytes:  # noqa: ARG002 a file knows its size
        return self._path(digest).read_bytes()

    def layers(self, rows: Mapping[str, int]) -> Mapping[str, Path]:
        copies = {digest: self._pin.temporary() for digest in rows}
        for digest, copy in copies.items():
            shutil.copyfile(self._path(digest), copy)
        return copies

    def _path(self, digest: str) -> Path:
        return self._folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def base_from(ground: Ground, source: ImageSource) -> Base:
    """The base that an image is. Raises: as `base_of`."""
    return _Image(ground, source).base()


def _described(name: str, layers: tuple[StoredLayer, ...], platform: str, said: Mapping[str, Any]) -> Base:
    """The base with what the image's config says of how it is run. Source: OCI image-spec v1.1, config.md."""
    ports = [str(one).partition("/") for one in said.get("ExposedPorts") or {}]
    return Base(
        name=name,
        layers=layers,
        platform=platform,
        env=dict(str(one).split("=", 1) for one in said.get("Env") or [] if "=" in one),
        user=str(said.get("User") or ""),
        command=tuple(map(str, [*(said.get("Entrypoint") or ()), *(said.get("Cmd") or ())])),
        ports=tuple(sorted(int(number) for number, _, kind in ports if kind in ("", "tcp") and number.isdigit())),
        workdir=str(said.get("WorkingDir") or "/"),
    )


class _Image:
    """One image on its way into the store."""

    def __init__(self, ground: Ground, source: ImageSource) -> None:
        self._ground, self._source = ground, source

    def base(self) -> Base:
        digest, manifest = self._manifest()
        try:
            about = manifest["config"]
            config = json.loads(self._read(str(about["digest"]), lambda d: self._source.config(d, int(about["size"]))))
            platform = f"{config['os']}/{config['architecture']}"
            if platform != self._ground.platform:
                raise self._other_platform([platform])
            rows, diff_ids = manifest["layers"], [str(one) for one in config["rootfs"]["diff_ids"]]
            if len(rows) != len(diff_ids):
                raise self._damaged(f"it has {len(rows)} layers and {len(diff_ids)} diff IDs")
            layers = self._layers(rows, diff_ids)
            return _described(f"{self._source.name}@{digest}", layers, platform, config.get("config") or {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"its documents cannot be read ({error})") from error

    # -- documents -------------------------------------------------------------------------------------------------

    def _manifest(self) -> tuple[str, Mapping[str, Any]]:
        """The one image manifest for the platform, with its digest."""
        top = self._source.top()
        try:
            document = json.loads(top)
            if "manifests" not in document and "config" in document:
                return digest_bytes(top), document
            rows = list(self._rows(document))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"its index cannot be read ({error})") from error
        fitting = {row[0] for row in rows if row[1] in ("", self._ground.platform)}
        if len(fitting) > 1:
            raise BakeError(
                "base-ambiguous",
                f"expected one image for {self._ground.platform}, found {', '.join(sorted(fitting))}",
                where=self._source.where,
                remedy="save the one that is meant to a folder of its own, or name it by its digest",
            )
        if not fitting:
            raise self._other_platform(sorted({row[1] for row in rows}))
        digest = fitting.pop()
        return digest, json.loads(self._read(digest, self._source.manifest))

    def _rows(self, index: Mapping[str, Any], deep: int = 0) -> Iterator[tuple[str, str]]:
        """Digest and platform of every image that an index holds, also below other indexes."""
        for row in index["manifests"]:
            kind, digest = str(row.get("mediaType")), str(row["digest"])
            if kind in _INDEXES and deep < 3:
                yield from self._rows(json.loads(self._read(digest, self._source.manifest)), deep + 1)
            elif kind in _MANIFESTS and not row.get("artifactType"):
                system = row.get("platform") or {}
                platform = f"{system['os']}/{system['architecture']}" if system else ""
                if platform != "unknown/unknown":  # what builders attest beside an image, of before artifact types
                    yield digest, platform

    def _read(self, digest: str, ask: Callable[[str], bytes]) -> bytes:
        if not is_digest(digest):
            raise self._damaged(f"expected a sha256 digest, found {digest[:80]!r}")
        try:
            data = ask(digest)
        except OSError as error:
            raise self._damaged(f"{digest} cannot be read ({error.strerror})") from error
        if digest_bytes(data) != digest:
            raise self._damaged(f"the bytes of {digest} have the digest {digest_bytes(data)}")
        return data

    # -- layers ----------------------------------------------------------------------------------------------------

    def _layers(self, rows: Sequence[Mapping[str, Any]], diff_ids: Sequence[str]) -> tuple[StoredLayer, ...]:
        pin, kinds = self._ground.pin, [self._kind(row) for row in rows]
        sizes = {str(row["digest"]): int(row["size"]) for row in rows}
        pin.hold(sizes)
        missing = {digest: size for digest, size in sizes.items() if not self._held(digest, size)}
        contents = dict(zip(map(str, (row["digest"] for row in rows)), zip(diff_ids, kinds, strict=True), strict=True))
        for digest, path in self._fetched(missing).items():
            diff_id, kind = contents[digest]
            self._verify(path, digest, diff_id, gzipped=kind == _GZIP)
            pin.adopt(path, digest)
        listed = pin.add(encode_files(()))  # what a base holds is told by its digest; no file of it is listed
        return tuple(
            StoredLayer(Layer(str(row["digest"]), diff_id, int(row["size"]), kind, "base"), listed)
            for row, diff_id, kind in zip(rows, diff_ids, kinds, strict=True)
        )

    def _kind(self, row: Mapping[str, Any]) -> str:
        kind, digest = _LAYERS.get(str(row["mediaType"])), str(row["digest"])
        if not is_digest(digest):
            raise self._damaged(f"expected a sha256 digest, found {digest[:80]!r}")
        if kind is None:
            raise BakeError(
                "base-unsupported",
                f"expected layers as tar or gzip, found one of the type {row['mediaType']}",
                where=self._source.where,
                remedy="save the image again with gzip layers (`skopeo copy --dest-compress-format gzip …`)",
            )
        return kind

    def _held(self, digest: str, size: int) -> bool:
        store = self._ground.store
        return store.blobs.has(digest) and store.blob_path(digest).stat().st_size == size

    def _fetched(self, missing: Mapping[str, int]) -> Mapping[str, Path]:
        try:
            with disk_errors(self._ground.store.root):
                return self._source.layers(missing)
        except FileNotFoundError as error:
            name = Path(str(error.filename or "")).name
            raise self._damaged(f"the layer sha256:{name} is missing") from error

    def _verify(self, path: Path, digest: str, diff_id: str, *, gzipped: bool) -> None:
        """Compare a layer with its digest, and its content with the diff ID."""
        blob, content = hashlib.sha256(), hashlib.sha256()
        # 31: the largest window, with a gzip header. Source: zlib's manual, inflateInit2
        inflate = zlib.decompressobj(31) if gzipped else None
        try:
            with path.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    blob.update(chunk)
                    while inflate is not None and chunk:
                        content.update(inflate.decompress(chunk))
                        chunk = inflate.unused_data
                        if inflate.eof and chunk:
                            inflate = zlib.decompressobj(31)  # several gzip members are one content
        except zlib.error as error:
            raise self._damaged(f"the layer {digest} is no gzip ({error})") from error
        found = f"sha256:{blob.hexdigest()}"
        if found != digest:
            raise self._damaged(f"the bytes of the layer {digest} have the digest {found}")
        held = f"sha256:{(content if gzipped else blob).hexdigest()}"
        if held != diff_id:
            raise self._damaged(f"expected the diff ID {diff_id} of the layer {digest}, found {held}")

    # -- refusals --------------------------------------------------------------------------------------------------

    def _damaged(self, problem: str) -> BakeError:
        return BakeError(
            "base-damaged",
            f"the base image cannot be used: {problem}",
            where=self._source.where,
            remedy=self._source.remedy,
        )

    def _other_platform(self, found: list[str]) -> BakeError:
        return BakeError(
            "base-platform",
            f"expected an image for {self._ground.platform}, found {', '.join(found) or 'no image'}",
            where=self._source.where,
            remedy=f"take an image for {self._ground.platform}",
        )
