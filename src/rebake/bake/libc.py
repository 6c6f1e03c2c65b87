"""Which compiled wheels a base can load: the C library is looked for in its layers. Cheap to ask again: remembered.

Source: PEP 600 (manylinux), PEP 656 (musllinux); `uv pip install --help`, --python-platform.
"""

from __future__ import annotations

import re

from rebake.bake.bases import Base
from rebake.bake.inside import files
from rebake.bake.ports import Memo
from rebake.core.digest import digest_of
from rebake.release.store import Store

_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_GLIBC = re.compile(rb"GNU C Library [^\n]*release version (\d+)\.(\d+)")
_MUSL = re.compile(rb"\x00(1)\.(\d+)\.\d+\x00")
_NAMES = re.compile(r"libc\.so\.6|libc-2\.\d+\.so|ld-musl-[a-z0-9_]+\.so\.1")
_KNOWN = (17, 28, *range(31, 41))
"""Minor versions of glibc 2 that uv has names for."""


def wheels_for(store: Store, base: Base, memo: Memo) -> str:
    """The platform by which uv chooses wheels for a base, such as `x86_64-manylinux_2_36`; empty when it is not known.

    Args:
        base: its layers are in the store.
    """
    machine = _MACHINES.get(base.platform, "")
    if not machine or not base.layers:
        return ""
    key = digest_of([layer.layer.digest for layer in base.layers])
    known = memo.get("wheels", key)
    if not isinstance(known, str):
        libraries = files(store, base, lambda name: _NAMES.fullmatch(name.rpartition("/")[2]) is not None)
        known = next(filter(None, (_named(data) for _, data in libraries)), "")
        memo.put("wheels", key, known)
    return f"{machine}-{known}" if known else ""


def _named(data: bytes) -> str:
    if said := _GLIBC.search(data):
        fitting = [minor for minor in _KNOWN if minor <= int(said[2])]
        return f"manylinux_2_{fitting[-1]}" if said[1] == b"2" and fitting else ""
    if said := _MUSL.search(data):
        return "unknown-linux-musl" if int(said[2]) >= 2 else ""
    return ""
