"""A small store of real releases for tests: layers are real tar archives with real digests, nothing else is needed."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from rebake.core.digest import digest_of
from rebake.errors import Permanent
from rebake.release.manifest import Layer, LayerRole, Release, RunContract, Runtime

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"
HERE = Runtime("python", f"{sys.version_info[0]}.{sys.version_info[1]}", "any")
"""The python this program runs on: there is no other that is sure to be there."""


def tar_of(files: Mapping[str, bytes | str], *, links: Mapping[str, str] | None = None) -> bytes:
    """An uncompressed layer of these files; those that begin with `#!` are executable."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, text in sorted(files.items()):
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755 if data.startswith(b"#!") else 0o644
            tar.addfile(member, io.BytesIO(data))
        for path, target in sorted((links or {}).items()):
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


class TinyStore:
    """Holds releases as the real store does, as far as a platform looks: `release` and `blob_path`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._releases: dict[str, Release] = {}
        root.mkdir(parents=True, exist_ok=True)

    def layer(self, data: bytes, role: LayerRole) -> Layer:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blob_path(digest).write_bytes(data)
        return Layer(digest, digest, len(data), MEDIA_TYPE, role)

    def add(
        self, run: RunContract, app: bytes, deps: bytes | None = None, *, service: str = "shop", runtime: Runtime = HERE
    ) -> Release:
        """Seal one release of an application layer and, if given, a dependency layer."""
        application = self.layer(app, "application")
        layers = (application,) if deps is None else (self.layer(deps, "dependencies"), application)
        digest = digest_of([service, list(run.command), [layer.digest for layer in layers], runtime.kind])
        release = Release(digest, service, "files", run, layers, runtime=runtime)
        self._releases[digest] = release
        return release

    def release(self, digest: str) -> Release:
        try:
            return self._releases[digest]
        except KeyError:
            raise Permanent("release-unknown", f"no release {digest} in this store") from None

    def blob_path(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")
