"""What changed between two releases or revisions: files, packages, run contract, settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rebake.cli.words import plural, short
from rebake.release.documents import FileEntry
from rebake.release.manifest import Release

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two.

    Attributes:
        name: as it was typed.
        revision: the revision document when a revision was meant, else None: a release has no settings.
    """

    name: str
    release: Release
    files: tuple[FileEntry, ...] = ()
    revision: Mapping[str, Any] | None = field(default=None)


def difference(a: Side, b: Side) -> dict[str, Any]:
    """Everything that differs, from `a` to `b`. Each list is empty when nothing of its kind does."""
    differs = {
        "files": _files(a.files, b.files),
        "packages": _values(_packages(a.release), _packages(b.release)),
        "run": _values(_contract(a.release), _contract(b.release)),
        "settings": _values(_settings(a), _settings(b)),
    }
    return {"a": _head(a), "b": _head(b), "same": not any(differs.values()), **differs}


def _head(side: Side) -> dict[str, Any]:
    revision = side.revision["digest"] if side.revision else None
    return {"name": side.name, "release": side.release.digest, "revision": revision, "service": side.release.service}


def _files(a: Iterable[FileEntry], b: Iterable[FileEntry]) -> list[dict[str, Any]]:
    before, after = {entry.path: entry for entry in a}, {entry.path: entry for entry in b}
    found: list[dict[str, Any]] = []
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path), after.get(path)
        if was != now:
            kind = "added" if was is None else "removed" if now is None else "changed"
            sizes = {"a_size": was.size if was else None, "b_size": now.size if now else None}
            found.append({"path": path, "kind": kind, **sizes})
    return found


def _values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = sorted(before.keys() | after.keys())
    return [
        {"key": key, "a": before.get(key), "b": after.get(key)} for key in keys if before.get(key) != after.get(key)
    ]


def _packages(release: Release) -> dict[str, str]:
    return {package.name: package.version for package in release.packages}


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as key paths.

    >>> _flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(value, Mapping):
        return {path: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{path}.{key}" if path else str(key))
    return found


def _contract(release: Release) -> dict[str, Any]:
    runtime = asdict(release.runtime)
    return _flat({**asdict(release.run), "builder": release.builder, "base": release.base, "runtime": runtime})


def _settings(side: Side) -> dict[str, Any]:
    return _flat(side.revision["settings"]) if side.revision else {}


def lines_of(doc: Mapping[str, Any]) -> list[str]:
    """The difference as people read it. Files of dependencies are told by their packages, and counted."""
    a, b = doc["a"], doc["b"]
    head = [f"{a['name']} (release {short(a['release'])}) to {b['name']} (release {short(b['release'])})"]
    if doc["same"]:
        return [*head, "  nothing differs"]
    lines = head
    for title in ("settings", "run", "packages"):
        lines += _section(title, doc[title])
    return lines + _file_lines(doc["files"])


def _section(title: str, changes: list[dict[str, Any]]) -> list[str]:
    if not changes:
        return []
    shown = [f"    {change['key']}: {_word(change['a'])} to {_word(change['b'])}" for change in changes]
    return [f"  {title}:", *shown]


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _file_lines(files: list[dict[str, Any]]) -> list[str]:
    if not files:
        return []
    own = [change for change in files if not change["path"].startswith("deps/")]
    signs = {"added": "+", "removed": "-", "changed": "~"}
    lines = [f"  files: {plural(len(own), 'file')} of the application, {len(files) - len(own)} of dependencies"]
    lines += [f"    {signs[change['kind']]} {change['path']}" for change in own[:_SHOWN]]
    if len(own) > _SHOWN:
        lines.append(f"    and {len(own) - _SHOWN} more; --json lists them all")
    return lines
