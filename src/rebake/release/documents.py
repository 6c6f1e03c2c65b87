"""Every document of a release as bytes: OCI image manifest and config, release manifest, file list. Pure.

What it decides: the exact bytes, and with them the release's digest. What it leaves to others: where the layers come
from (`rebake.bake`) and where the bytes are kept (`store.py`).

Rules:
- A document is canonical JSON (`core.canonical`); a file list is one JSON array per line, sorted by path as bytes, so
  that a list of many thousand files is written and read at the speed of the C encoder.
- Nothing of the machine goes in: no time, no host, no user, no folder.
- Anything changed here changes every digest: renew `tests/unit/bake/golden.json` then, and raise `SCHEMA` where what
  was written before would be read wrongly.

Source: OCI image-spec v1.1, manifest.md, config.md, image-layout.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from json.encoder import encode_basestring as _quote
from typing import Any, NamedTuple

from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes
from rebake.release.manifest import Layer, Package, Release, Runtime, run_contract_of

SCHEMA = "dev.rebake.release.v1"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
RELEASE_ANNOTATION = "dev.rebake.release"
"""The digest of the release document."""
DOCUMENT_ANNOTATION = "dev.rebake.release.document"
"""The release document itself: who has the image's manifest has the release, without another request."""
SERVICE_ANNOTATION = "dev.rebake.service"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


FileRow = tuple[str, int, int, str, str | None]
"""A `FileEntry` as a plain tuple: a bake makes one for each file of a large tree."""


class FileEntry(NamedTuple):
    """One file or symbolic link of a release.

    Attributes:
        path: as in the image, without a leading slash: `app/x.py`, `deps/bin/gunicorn`.
        mode: 0o644 or 0o755; 0o777 for a link.
        size: bytes; 0 for a link.
        digest: `sha256:…` of the content; empty for a link.
        link: target of a symbolic link, relative; None for a file.
    """

    path: str
    mode: int
    size: int
    digest: str = ""
    link: str | None = None


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer together with the digest of its file list's blob."""

    layer: Layer
    files: str


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """The three documents of one release; the digest of `manifest` is the release's name."""

    release: bytes
    config: bytes
    manifest: bytes


def encode_files(entries: Iterable[FileRow]) -> bytes:
    """The file list of one layer; the entries come sorted by path as bytes.

    >>> encode_files([FileEntry("app/l", 0o777, 0, link="x")])
    b'["app/l",511,0,"","x"]\\n'
    """
    lines = []
    for path, mode, size, digest, link in entries:
        tail = "" if link is None else f",{_quote(link)}"
        lines.append(f'[{_quote(path)},{mode},{size},"{digest}"{tail}]\n')
    return "".join(lines).encode()


def decode_files(data: bytes) -> tuple[FileEntry, ...]:
    """The inverse of `encode_files`. Raises: ValueError when the bytes are no file list."""
    lines = data.decode().split("\n")[:-1]
    return tuple(FileEntry(*row) for row in json.loads(f"[{','.join(lines)}]"))


def release_document(release: Release, layers: Iterable[StoredLayer]) -> dict[str, Any]:
    """The release manifest's value; without the digest, which is computed over it."""
    return {
        "schema": SCHEMA,
        "service": release.service,
        "builder": release.builder,
        "run": _run_document(release),
        "layers": [asdict(item.layer) | {"files": item.files} for item in layers],
        "packages": [[p.name, p.version] for p in release.packages],
        "runtime": asdict(release.runtime),
        "base": release.base,
    }


def _run_document(release: Release) -> dict[str, Any]:
    """The run contract. What came later and says nothing is left out, so that releases of before keep their digests."""
    run = asdict(release.run)
    if not run["health"]["command"]:
        del run["health"]["command"]
    return run


def release_from(digest: str, doc: Mapping[str, Any]) -> tuple[Release, tuple[StoredLayer, ...]]:
    """Rebuild a release from its manifest's value. Raises: KeyError, TypeError, ValueError for any other document."""
    if doc["schema"] != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}, found {doc['schema']}")
    stored = tuple(
        StoredLayer(Layer(**{k: v for k, v in item.items() if k != "files"}), item["files"]) for item in doc["layers"]
    )
    release = Release(
        digest=digest,
        service=doc["service"],
        builder=doc["builder"],
        run=run_contract_of(doc["run"]),
        layers=tuple(item.layer for item in stored),
        packages=tuple(Package(name, version) for name, version in doc["packages"]),
        runtime=Runtime(**doc["runtime"]),
        base=doc["base"],
    )
    return release, stored


@dataclass(frozen=True, slots=True)
class Below:
    """What the image config takes over from the base.

    Attributes:
        user: whom the container runs as; empty: not said.
        workdir: where the command runs.
        whole: nothing of ours lies on top of it.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/app"
    whole: bool = False


def container_env(release: Release, extra: Mapping[str, str], below: Below) -> list[str]:
    """What a container of the image finds in its environment: the run contract's own values win, the base's lose."""
    path = below.env.get("PATH") or _PATH
    env = {**below.env, "PATH": path if below.whole else f"/deps/bin:{path}", "HOST": "0.0.0.0"}
    if release.run.port is not None:
        env["PORT"] = str(release.run.port)
    env |= {**extra, **release.run.env}
    return [f"{name}={env[name]}" for name in sorted(env)]


def config_document(
    release: Release, extra_env: Mapping[str, str], release_digest: str, below: Below
) -> dict[str, Any]:
    """The OCI image config. Source: OCI image-spec v1.1, config.md."""
    platform = release.runtime.platform if release.runtime.platform != "any" else "linux/amd64"
    system, _, architecture = platform.partition("/")
    config: dict[str, Any] = {
        "Cmd": list(release.run.command),
        "Env": container_env(release, extra_env, below),
        "WorkingDir": below.workdir,
        "Labels": {RELEASE_ANNOTATION: release_digest, SERVICE_ANNOTATION: release.service},
        "StopSignal": "SIGTERM",
    }
    if below.user:
        config["User"] = below.user
    if release.run.port is not None:
        config["ExposedPorts"] = {f"{release.run.port}/tcp": {}}
    return {
        "architecture": architecture,
        "os": system,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in release.layers]},
    }


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    """Source: OCI image-spec v1.1, descriptor.md."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def image_documents(
    release: Release,
    layers: Iterable[StoredLayer],
    extra_env: Mapping[str, str] | None = None,
    below: Below | None = None,
) -> ImageDocuments:
    """Everything that names and describes a release; its own `digest` is not looked at.

    Args:
        extra_env: environment the builder's layout needs in a container, such as PYTHONPATH.
        below: what the base adds; nothing on `base: host`.
    """
    stored = tuple(layers)
    release_bytes = canonical(release_document(release, stored))
    release_digest = digest_bytes(release_bytes)
    config = canonical(config_document(release, extra_env or {}, release_digest, below or Below()))
    manifest = canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, digest_bytes(config), len(config)),
            "layers": [descriptor(s.layer.media_type, s.layer.digest, s.layer.size) for s in stored],
            "annotations": {
                RELEASE_ANNOTATION: release_digest,
                DOCUMENT_ANNOTATION: release_bytes.decode(),
                SERVICE_ANNOTATION: release.service,
            },
        }
    )
    return ImageDocuments(release_bytes, config, manifest)
