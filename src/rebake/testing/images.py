"""Real images for tests and benchmarks, without a registry: a base made of this machine's own Python and shell.

The base layer holds the interpreter that runs this program, the part of its library that a small service imports,
`/bin/sh`, and the shared libraries that they need.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rebake.bake.baker import machine
from rebake.core.canonical import canonical
from rebake.core.digest import digest_bytes
from rebake.release.documents import (
    CONFIG_TYPE,
    INDEX_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    StoredLayer,
    descriptor,
    encode_files,
    image_documents,
)
from rebake.release.manifest import Layer, LayerRole, Release, RunContract, Runtime
from rebake.release.store import Store
from rebake.testing.releases import tar_of

_IMPORTED = "http.server, json, os, random, runpy, signal, socket, socketserver, sys, threading, urllib.request"
"""What a small service imports; the base holds these modules, compiled, and all that they import themselves."""
_ASK = (
    f"import {_IMPORTED}, encodings.idna; print([m.__file__ for m in sys.modules.values() if hasattr(m, '__file__')])"
)
_OF_DEBIAN = ("libstdc++", "libpthread", "libdl", "librt", "libutil", "libm", "libresolv", "libnss_dns", "libgcc_s")
"""What every Debian has, and compiled parts of packages load."""
_LEFT_OUT = frozenset({"test", "tests", "site-packages", "__pycache__", "idlelib", "tkinter", "turtledemo", "lib2to3"})


class ImageReleases:
    """Seals releases with a base image into a real store."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def add(self, run: RunContract, files: Mapping[str, bytes | str], *, service: str = "shop") -> Release:
        """A release of the base and one application layer. Its files are named as in the image: `app/server.py`."""
        base, application = base_digest(), tar_of(files)
        with self.store.pinned([base]) as pin:
            if not self.store.blobs.has(base):
                pin.add(base_layer())
            stored, listed = [], pin.add(encode_files(()))
            for role, digest in (("base", base), ("application", pin.add(application))):
                size = self.store.blob_path(digest).stat().st_size
                stored.append(StoredLayer(Layer(digest, digest, size, LAYER_TYPE, _role(role)), listed))
            release = Release(
                "",
                service,
                "files",
                run,
                tuple(one.layer for one in stored),
                runtime=Runtime("python", f"{sys.version_info[0]}.{sys.version_info[1]}", "linux/amd64"),
                base=f"registry.invalid/python@{base}",
            )
            documents = image_documents(release, stored)
            pin.add(documents.release)
            pin.add(documents.config)
            digest = self.store.put_release(pin, documents.manifest, service=service, size=release.size)
        return self.store.release(digest)


def _role(name: str) -> LayerRole:
    return "base" if name == "base" else "application"


@functools.cache
def base_layer(*, whole: bool = False) -> bytes:
    """The base as an uncompressed layer; the same bytes as long as this machine's Python stays the same.

    Args:
        whole: with all of Python's own library, for programs that import more.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for target, source in sorted(_base_files(whole=whole)):
            member = tarfile.TarInfo(target)
            member.size, member.mode = source.stat().st_size, 0o755 if source.stat().st_mode & 0o100 else 0o644
            member.mtime = int(source.stat().st_mtime)  # a compiled module names its source's
            with source.open("rb") as file:
                tar.addfile(member, file)
        link = tarfile.TarInfo("usr/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, str(Path(sys.executable).resolve())
        tar.addfile(link)
    return out.getvalue()


@functools.cache
def base_digest() -> str:
    """Of `base_layer`."""
    return digest_bytes(base_layer())


def save_base(folder: Path) -> str:
    """A whole base as an OCI image layout, which `bake.base` can name. Returns: `oci:FOLDER`.

    Source: OCI image-spec v1.1, image-layout.md.
    """
    layer = base_layer(whole=True)
    config = {"Env": [f"PYTHON_VERSION={platform.python_version()}", "PATH=/usr/bin:/bin"]}
    system, _, architecture = machine().partition("/")
    document = {
        "os": system,
        "architecture": architecture,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest_bytes(layer)]},
    }
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = digest_bytes(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return descriptor(kind, digest, len(data))

    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": blob(CONFIG_TYPE, canonical(document)),
        "layers": [blob(LAYER_TYPE, layer)],
    }
    row = blob(MANIFEST_TYPE, canonical(manifest)) | {"platform": {"os": system, "architecture": architecture}}
    (folder / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [row]}))
    return f"oci:{folder}"


def _base_files(*, whole: bool) -> Iterator[tuple[str, Path]]:
    """Where each file lies in the image, and where it is here."""
    binary = Path(sys.executable).resolve()
    shell = Path("/bin/sh").resolve()
    yield f"{str(binary)[1:]}", binary
    yield "bin/sh", shell
    modules = _library() if whole else _modules(binary)
    for path in modules:
        yield str(path)[1:], path
        compiled = Path(importlib.util.cache_from_source(str(path))) if path.suffix == ".py" else path
        if compiled != path and compiled.exists():
            yield str(compiled)[1:], compiled
    programs = [binary, shell, *(path for path in modules if ".so" in path.name)]
    if whole:
        more = [path for name in _OF_DEBIAN for path in Path("/usr/lib").glob(f"*-linux-gnu/{name}.so.*")]
        programs += more
        yield from ((str(path)[1:], path.resolve()) for path in more)
    yield from shared_libraries(programs)


def _library() -> list[Path]:
    """All of Python's own library but its tests and what draws windows."""
    root, found = Path(sysconfig.get_path("stdlib")), list[Path]()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(folder) / name for name in names if name.endswith((".py", ".so", ".pem"))]
    return sorted(found)


def _modules(binary: Path) -> list[Path]:
    said = subprocess.run([str(binary), "-I", "-S", "-c", _ASK], capture_output=True, text=True, check=True).stdout
    return sorted({Path(place) for place in ast.literal_eval(said) if place})


def shared_libraries(programs: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """What the dynamic linker loads for these programs: place in the image, file here. Source: ldd(1)."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    found = {place for line in said.splitlines() if (place := _loaded(line))}
    for place in sorted(found):
        yield place[1:], Path(place).resolve()


def _loaded(line: str) -> str | None:
    match = re.search(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)$", line)
    return match[1] if match else None
