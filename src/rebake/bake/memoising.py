"""Remembers what builders did, around them and not inside: a resolution by its inputs, a dependency layer by its
resolution.

Losing the memory costs time, never correctness. A remembered layer counts only while its blobs are in the store as they
were written.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebake.bake.ports import Builder, Progress, Resolution
from rebake.bake.walk import stamp_of
from rebake.core.atomic import write_atomic
from rebake.core.canonical import canonical
from rebake.core.digest import digest_of
from rebake.errors import Permanent
from rebake.release.blobs import Pin
from rebake.release.documents import StoredLayer
from rebake.release.manifest import Layer, Package, Runtime
from rebake.release.store import Store


class DiskMemo:
    """`ports.Memo` in a folder: one JSON file per key. What cannot be read is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, key: str) -> Any | None:
        try:
            return json.loads(self._path(name, key).read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, name: str, key: str, value: Any) -> None:
        path = self._path(name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical(value))

    def _path(self, name: str, key: str) -> Path:
        return self._folder / name / f"{key.removeprefix('sha256:')}.json"


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer made by a builder, and what is in it."""

    stored: StoredLayer
    packages: tuple[Package, ...] = ()
    native: bool = False


class LayerMemo:
    """Built layers by key."""

    def __init__(self, store: Store, pin: Pin, memo: DiskMemo) -> None:
        self._store = store
        self._pin = pin
        self._memo = memo

    def get(self, key: str) -> BuiltLayer | None:
        """The remembered layer, pinned; None when it is unknown or not in the store any more as it was written."""
        doc = self._memo.get("layers", key)
        if doc is None:
            return None
        with contextlib.suppress(KeyError, TypeError):
            stored = StoredLayer(Layer(**doc["layer"]), doc["files"])
            self._pin.hold([stored.layer.digest, stored.files])
            if self._whole(stored, doc["stamp"]):
                return BuiltLayer(stored, tuple(Package(*p) for p in doc["packages"]), bool(doc["native"]))
        return None

    def put(self, key: str, built: BuiltLayer) -> None:
        layer = built.stored.layer
        self._memo.put(
            "layers",
            key,
            {
                "blobs": [layer.digest, built.stored.files],
                "layer": asdict(layer),
                "files": built.stored.files,
                "packages": [[p.name, p.version] for p in built.packages],
                "native": built.native,
                "stamp": list(stamp_of(self._store.blob_path(layer.digest).stat())),
            },
        )

    def _whole(self, stored: StoredLayer, stamp: list[int]) -> bool:
        try:
            if list(stamp_of(self._store.blob_path(stored.layer.digest).stat())) != stamp:
                self._store.verify(stored.layer.digest)
            return self._store.blobs.has(stored.files)
        except (FileNotFoundError, Permanent):
            return False


def resolve(
    builder: Builder, request: Any, runtime: Runtime, memo: DiskMemo, progress: Progress
) -> tuple[Resolution | None, bool]:
    """The builder's resolution, remembered by its inputs; and whether it was remembered."""
    inputs = builder.inputs(request)
    if inputs is None:
        return None, True
    key = digest_of({"builder": builder.name, "version": builder.version, "inputs": inputs, "runtime": asdict(runtime)})
    doc = memo.get("resolutions", key)
    if doc is not None:
        return (Resolution(**doc["resolution"]) if doc["resolution"] else None), True
    resolution = builder.resolve(request, progress)
    memo.put("resolutions", key, {"resolution": asdict(resolution) if resolution else None})
    return resolution, False


def layer_key(builder: Builder, resolution: Resolution, runtime: Runtime, machine: str) -> str:
    """What a dependency layer depends on."""
    return digest_of(
        {
            "builder": builder.name,
            "version": builder.version,
            "resolution": asdict(resolution),
            "runtime": asdict(runtime),
            "machine": machine,
        }
    )
