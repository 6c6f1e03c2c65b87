"""Compiled packages on a base: wheels are chosen for the base's C library, and what was compiled here is refused."""

from __future__ import annotations

import io
import os
import platform
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from rebake.bake.baker import machine
from rebake.bake.bases import Base
from rebake.bake.libc import wheels_for
from rebake.bake.memoising import DiskMemo
from rebake.core.digest import digest_bytes
from rebake.errors import BakeError
from rebake.release.documents import LAYER_TYPE, StoredLayer
from rebake.release.manifest import Layer
from rebake.release.store import Store
from tests.unit.bake.conftest import Bake, CountingTools, write
from tests.unit.bake.test_bases import Layout
from tests.unit.bake.test_python_builder import MINOR, make_wheel, wheels

__all__ = ["wheels"]  # a fixture
TAG = f"cp{MINOR.replace('.', '')}-cp{MINOR.replace('.', '')}"
ARCH = platform.machine()
GLIBC = b"\x00GNU C Library (Debian GLIBC 2.36-9+deb12u4) stable release version 2.36.\n"


def layer(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def tagged(folder: Path, name: str, kind: str) -> None:
    """A wheel with a compiled part, for one kind of Linux."""
    import zipfile

    plain = make_wheel(folder, name, "1.0", native=True)
    path = folder / f"{name}-1.0-{TAG}-{kind}_{ARCH}.whl"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.namelist():
            data = old.read(item)
            if item.endswith("/WHEEL"):
                data = data.replace(b"py3-none-any", f"{TAG}-{kind}_{ARCH}".encode())
            if item.endswith("/RECORD"):
                data = b"\n".join(line for line in data.splitlines() if b"/WHEEL" not in line) + b"\n"
            new.writestr(item, data)
    plain.unlink()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("lib/x86_64-linux-gnu/libc.so.6", GLIBC, "manylinux_2_36"),
        ("lib/libc-2.31.so", GLIBC.replace(b"2.36", b"2.31"), "manylinux_2_31"),
        ("lib/libc.so.6", GLIBC.replace(b"2.36", b"2.30"), "manylinux_2_28"),
        ("lib/libc.so.6", GLIBC.replace(b"2.36", b"2.99"), "manylinux_2_40"),
        ("lib/libc.so.6", GLIBC.replace(b"2.36", b"2.12"), ""),
        ("lib/libc.so.6", b"something else", ""),
        ("lib/ld-musl-x86_64.so.1", b"\x00musl libc\x001.2.4\x00", "unknown-linux-musl"),
        ("lib/ld-musl-x86_64.so.1", b"\x001.1.24\x00", ""),
        ("etc/libc.conf", GLIBC, ""),
    ],
)
def test_the_c_library_of_a_base_names_the_wheels_it_can_load(name: str, data: bytes, kind: str, store: Store) -> None:
    with store.pinned() as pin:
        digest = pin.add(layer(name, data))
    made = StoredLayer(Layer(digest, digest, 1, LAYER_TYPE, "base"), digest_bytes(b""))
    base = Base("oci@x", (made,), machine())
    expected = f"{ARCH}-{kind}" if kind else ""
    memo = DiskMemo(store.cache)
    assert wheels_for(store, base, memo) == expected
    store.blob_path(digest).unlink()
    assert wheels_for(store, base, memo) == expected, "it is not looked for twice"
    assert wheels_for(store, Base("scratch"), memo) == ""


@pytest.fixture
def on(bake: Bake, source: Path, tmp_path: Path, wheels: Path) -> Any:
    """Bakes a source that needs zzquick on a base with this C library."""
    count = iter(range(99))

    def run(libc: bytes) -> Any:
        layout = Layout(tmp_path / f"image-{next(count)}")
        named = "lib/ld-musl-x86_64.so.1" if b"musl" in libc else "lib/libc.so.6"
        layout.index(layout.image(layer(named, libc), Env=[f"PYTHON_VERSION={MINOR}.1"]))
        write(source, {"app.py": "1", "requirements.txt": "zzquick\n"})
        return bake(source, builder="python", base=layout.base).release

    return run


def files(store: Store, release: Any) -> str:
    return " ".join(entry.path for entry in store.files(release))


@pytest.mark.skipif(sys.version_info < (3, 11) or os.uname().sysname != "Linux", reason="wheels of Linux")
def test_each_base_gets_the_wheels_of_its_own_c_library(on: Any, wheels: Path, store: Store) -> None:
    for kind in ("manylinux_2_28", "musllinux_1_2"):
        tagged(wheels, "zzquick", kind)
    gnu, musl = on(GLIBC), on(b"\x00musl libc\x001.2.4\x00")
    assert gnu.runtime.platform == musl.runtime.platform == machine()
    info = {kind: store.files(release) for kind, release in (("many", gnu), ("musl", musl))}
    tags = {kind: [e.digest for e in entries if e.path.endswith("WHEEL")] for kind, entries in info.items()}
    assert len({*tags["many"], *tags["musl"]}) == 2


def test_a_wheel_that_is_too_new_for_the_base_is_not_taken(on: Any, wheels: Path) -> None:
    tagged(wheels, "zzquick", "manylinux_2_38")
    with pytest.raises(BakeError) as failed:
        on(GLIBC)
    assert failed.value.code == "dependencies-failed"


def test_what_was_compiled_here_is_refused_by_name_also_where_it_was_baked_for_this_machine_before(
    on: Any, bake: Bake, source: Path, wheels: Path, tools: CountingTools
) -> None:
    make_wheel(wheels, "zzquick", "1.0", native=True)
    write(source, {"app.py": "1", "requirements.txt": "zzquick\n"})
    bake(source, builder="python")
    for libc, which in ((GLIBC, "found zzquick"), (b"unknown", "found some")):
        with pytest.raises(BakeError) as refused:
            on(libc)
        assert (refused.value.code, which in refused.value.problem) == ("base-compiled-packages", True)
