"""Real images for tests and benchmarks, without a registry: a base made of this machine's own Python and shell.

The base layer holds the interpreter that runs this program, the part of its library that a small service imports,
`/bin/sh`, and the shared libraries that they need.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rebake.core.digest import digest_bytes
from rebake.release.documents import LAYER_TYPE, StoredLayer, encode_files, image_documents
from rebake.release.manifest import Layer, LayerRole, Release, RunContract, Runtime
from rebake.release.store import Store
from rebake.testing.releases import tar_of

_IMPORTED = "http.server, json, os, random, runpy, signal, socket, socketserver, sys, threading, urllib.request"
"""What a small service imports; the base holds these modules, compiled, and all that they import themselves."""
_ASK = (
    f"import {_IMPORTED}, encodings.idna; print([m.__file__ for m in sys.modules.values() if hasattr(m, '__file__')])"
)


class ImageReleases:
    """Seals releases with a base image into a real store."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def add(self, run: RunContract, files: Mapping[str, bytes | str], *, service: str = "shop") -> Release:
        """A release of the base and one application layer. Its files are named as in the image: `app/server.py`."""
        base = base_layer()
        layers = [("base", base), ("application", tar_of(files))]
        with self.store.pinned() as pin:
            stored = []
            for role, data in layers:
                digest, listed = pin.add(data), pin.add(encode_files(()))
                layer = Layer(digest, digest, len(data), LAYER_TYPE, _role(role))
                stored.append(StoredLayer(layer, listed))
            release = Release(
                "",
                service,
                "files",
                run,
                tuple(one.layer for one in stored),
                runtime=Runtime("python", f"{sys.version_info[0]}.{sys.version_info[1]}", "linux/amd64"),
                base=f"registry.invalid/python@{digest_bytes(base)}",
            )
            documents = image_documents(release, stored)
            pin.add(documents.release)
            pin.add(documents.config)
            digest = self.store.put_release(pin, documents.manifest, service=service, size=release.size)
        return self.store.release(digest)


def _role(name: str) -> LayerRole:
    return "base" if name == "base" else "application"


@functools.cache
def base_layer() -> bytes:
    """The base as an uncompressed layer; the same bytes as long as this machine's Python stays the same."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for target, source in sorted(_base_files()):
            member = tarfile.TarInfo(target)
            member.size, member.mode = source.stat().st_size, 0o755 if source.stat().st_mode & 0o100 else 0o644
            member.mtime = int(source.stat().st_mtime)  # a compiled module names its source's
            with source.open("rb") as file:
                tar.addfile(member, file)
        link = tarfile.TarInfo("usr/bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, str(Path(sys.executable).resolve())
        tar.addfile(link)
    return out.getvalue()


def _base_files() -> Iterator[tuple[str, Path]]:
    """Where each file lies in the image, and where it is here."""
    binary = Path(sys.executable).resolve()
    shell = Path("/bin/sh").resolve()
    yield f"{str(binary)[1:]}", binary
    yield "bin/sh", shell
    modules = _modules(binary)
    for path in modules:
        yield str(path)[1:], path
        compiled = Path(importlib.util.cache_from_source(str(path))) if path.suffix == ".py" else path
        if compiled != path and compiled.exists():
            yield str(compiled)[1:], compiled
    yield from shared_libraries([binary, shell, *(path for path in modules if ".so" in path.name)])


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
