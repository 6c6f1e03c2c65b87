"""From an installation on disk to the items of a dependency layer, without anything of the machine it was made on.

Left out: bytecode, and what an installer notes for itself (INSTALLER, REQUESTED, direct_url.json, uv's own notes).
Made anew: programs from `entry_points.txt`, with `#!/usr/bin/env python`; RECORD, to name what is there.

Source: packaging.python.org, "Recording installed projects", "Entry points", "Binary distribution format".
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rebake.bake.builders.python_lock import normal
from rebake.bake.ports import Installed, Item
from rebake.release.manifest import Package

_NOTES = frozenset({b"INSTALLER", b"REQUESTED", b"direct_url.json", b"uv_cache.json", b"uv_build.json"})
_NATIVE = re.compile(rb"\.(so|dylib)(\.[0-9.]+)?$")
_SHEBANG = re.compile(rb"\A#!.*python[^\n]*\n")
_LONG_SHEBANG = re.compile(rb"\A#!/bin/sh\n'''exec'[^\n]*\n' '''\n")
_PROGRAM = """#!/usr/bin/env python
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({call}())
"""


def installed_tree(prefix: bytes, minor: str) -> Installed:
    """Read an installation made with `--prefix`.

    Args:
        minor: `3.11`.
    """
    files = dict(_files(prefix))
    site = f"deps/lib/python{minor}/site-packages".encode()
    items: dict[bytes, Item] = {}
    for path, source in files.items():
        items[path] = _program(path, source) if path.startswith(b"deps/bin/") else _plain(path, source)
    packages, built = [], []
    for name in sorted({p.split(b"/")[4] for p in items if p.startswith(site + b"/") and p.count(b"/") > 4}):
        if name.endswith(b".dist-info"):
            folder = site + b"/" + name
            packages.append(_package(items, folder))
            if _built_here(items, folder):
                built.append(packages[-1].name)
            items.update(_programs_of(items, folder))
            _renew_record(items, folder, site)
    native = any(_NATIVE.search(path) or _is_elf(item) for path, item in items.items())
    unique = sorted({(p.name, p.version) for p in packages})
    packages = [Package(*pair) for pair in unique]
    return Installed(tuple(items[p] for p in sorted(items)), tuple(packages), native, tuple(built))


def _built_here(items: Mapping[bytes, Item], folder: bytes) -> bool:
    """Whether a package has compiled parts that no published wheel brought: none of its tags names a standard.

    Source: PEP 600, PEP 656; packaging.python.org, "Binary distribution format", the WHEEL file.
    """
    about, record = (items.get(folder + name) for name in (b"/WHEEL", b"/RECORD"))
    if about is not None and re.search(rb"(?m)^Tag: .*(many|musl)linux", _content(about)):
        return False
    paths = [line.partition(b",")[0] for line in _content(record).splitlines()] if record is not None else []
    return any(_NATIVE.search(path) for path in paths)


def _files(prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What an installation holds that goes in: path in the image, path on disk."""
    for folder, folders, names in os.walk(prefix):
        folders[:] = [f for f in folders if f != b"__pycache__"]
        in_notes = folder.endswith(b".dist-info")
        for name in names:
            if name == b".lock" and folder == prefix:
                continue
            if not (in_notes and name in _NOTES):
                source = folder + b"/" + name
                yield b"deps" + source[len(prefix) :], source


def _plain(path: bytes, source: bytes) -> Item:
    stat = os.lstat(source)
    if os.path.islink(source):  # noqa: PTH114 bytes, not a Path
        return Item(path, link=os.readlink(source))  # noqa: PTH115
    return Item(path, executable=bool(stat.st_mode & 0o100), source=source)


def _program(path: bytes, source: bytes) -> Item:
    """A program that a wheel brought: its first line must not name this machine's interpreter."""
    item = _plain(path, source)
    if item.link is not None:
        return item
    text = Path(os.fsdecode(source)).read_bytes()
    plain = _LONG_SHEBANG.sub(b"#!/usr/bin/env python\n", text, count=1)
    if plain == text:
        plain = _SHEBANG.sub(b"#!/usr/bin/env python\n", text, count=1)
    return Item(path, executable=True, content=plain) if plain != text else item


def _content(item: Item) -> bytes:
    if item.content is not None:
        return item.content
    return Path(os.fsdecode(item.source or b"")).read_bytes()


def _is_elf(item: Item) -> bool:
    if item.source is None or not item.path.startswith(b"deps/bin/"):
        return False
    with Path(os.fsdecode(item.source)).open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _package(items: Mapping[bytes, Item], folder: bytes) -> Package:
    """Name and version as the METADATA says, else as the folder is called."""
    name, _, version = folder.rpartition(b"/")[2].decode().removesuffix(".dist-info").rpartition("-")
    if metadata := items.get(folder + b"/METADATA"):
        head = _content(metadata).decode("utf-8", "replace").split("\n\n", 1)[0]
        if found := re.search(r"(?mi)^Name:\s*(\S+)", head):
            name = found[1]
        if found := re.search(r"(?mi)^Version:\s*(\S+)", head):
            version = found[1]
    return Package(normal(name), version)


def _programs_of(items: Mapping[bytes, Item], folder: bytes) -> dict[bytes, Item]:
    if (item := items.get(folder + b"/entry_points.txt")) is None:
        return {}
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(_content(item).decode("utf-8", "replace"))
    groups = [dict(parser.items(g)) for g in ("console_scripts", "gui_scripts") if parser.has_section(g)]
    return {i.path: i for group in groups for i in programs(group)}


def programs(scripts: Mapping[str, str]) -> Iterator[Item]:
    """Programs for `name = module:object` pairs."""
    for name, target in sorted(scripts.items()):
        module, _, call = target.partition("[")[0].strip().partition(":")
        if call and "/" not in name:
            text = _PROGRAM.format(module=module.strip(), name=call.strip().split(".")[0], call=call.strip())
            yield Item(b"deps/bin/" + name.encode(), executable=True, content=text.encode())


def _hash(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _renew_record(items: dict[bytes, Item], folder: bytes, site: bytes) -> None:
    """RECORD names exactly what is in the layer, sorted, with the hashes of what was made anew."""
    record = folder + b"/RECORD"
    if record not in items:
        return
    rows = set()
    for row in csv.reader(io.StringIO(_content(items[record]).decode("utf-8", "replace"))):
        path = posixpath.normpath(site + b"/" + row[0].encode()) if row else b""
        if (item := items.get(path)) is not None and path != record:
            made = item.content
            rows.add((row[0], _hash(made), str(len(made))) if made is not None else (*row, "", "")[:3])
    out = io.StringIO()
    own = (record[len(site) + 1 :].decode(), "", "")
    csv.writer(out, lineterminator="\n").writerows(sorted([*rows, own]))
    items[record] = Item(record, content=out.getvalue().encode())


def project_items(project: Mapping[str, Any], minor: str) -> tuple[Item, ...]:
    """The project's own programs and metadata, from a `[project]` table with a fixed name and version."""
    scripts = {**_table(project, "scripts"), **_table(project, "gui-scripts")}
    items = list(programs(scripts))
    name, version = project.get("name"), project.get("version")
    if not isinstance(name, str) or not isinstance(version, str):
        return tuple(items)
    folder = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}.dist-info"
    base = f"deps/lib/python{minor}/site-packages/{folder}".encode()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    items.append(Item(base + b"/METADATA", content=metadata.encode()))
    groups = {"console_scripts": _table(project, "scripts"), "gui_scripts": _table(project, "gui-scripts")}
    groups |= {g: dict(t) for g, t in _table(project, "entry-points").items() if isinstance(t, dict)}
    lines = [
        line
        for group in sorted(groups)
        if groups[group]
        for line in (f"[{group}]", *(f"{k} = {v}" for k, v in sorted(groups[group].items())), "")
    ]
    if lines:
        items.append(Item(base + b"/entry_points.txt", content="\n".join(lines).encode()))
    return tuple(items)


def _table(project: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = project.get(key)
    return dict(value) if isinstance(value, dict) else {}
