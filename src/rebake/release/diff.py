"""What says one release or revision from another. Pure: it is handed views, and reads nothing.

Secrets appear by version only; a view never holds a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rebake.core.digest import short
from rebake.core.units import format_duration, format_size
from rebake.release.documents import FileEntry
from rebake.release.manifest import Release, Settings

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One side of a comparison: a release with its file list, and the settings when a revision is meant.

    Attributes:
        name: what the person called it, or its digest.
    """

    name: str
    release: Release
    files: tuple[FileEntry, ...]
    settings: Settings | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; None: not there on that side."""

    key: str
    before: Any | None
    after: Any | None

    def sentence(self) -> str:
        if self.before is None:
            return f"{self.key} added: {self.after}"
        if self.after is None:
            return f"{self.key} removed (was {self.before})"
        return f"{self.key}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class ReleaseDiff:
    """What changed from `a` to `b`; everything sorted.

    Attributes:
        a, b: digests of the releases.
        changed: files with other content, other permission or another link target.
        run: the run contract, the runtime, the base; keys such as `run.health.path`.
        settings: the environment's values and secret versions; keys such as `env.GREETING`, `secrets.TOKEN`.
    """

    a: str
    b: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    packages: tuple[Change, ...] = ()
    run: tuple[Change, ...] = ()
    settings: tuple[Change, ...] = ()
    sizes: tuple[int, int] = field(default=(0, 0))

    @property
    def same(self) -> bool:
        """Nothing differs that this comparison looks at."""
        return not (self.added or self.removed or self.changed or self.packages or self.run or self.settings)

    def to_json(self) -> dict[str, Any]:
        """As `rebake diff --json` shows it."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "files": {"added": list(self.added), "removed": list(self.removed), "changed": list(self.changed)},
            "packages": [asdict(c) for c in self.packages],
            "run": [asdict(c) for c in self.run],
            "settings": [asdict(c) for c in self.settings],
            "size": {"before": self.sizes[0], "after": self.sizes[1]},
        }

    def sentences(self) -> list[str]:
        """As a person reads it; long lists of files are cut, and say so."""
        if self.same:
            return [f"{short(self.a)} and {short(self.b)} are the same in files, packages, run contract and settings"]
        lines = [c.sentence() for c in (*self.settings, *self.run)]
        lines += [f"package {c.sentence()}" for c in self.packages]
        for word, every in (("added", self.added), ("removed", self.removed), ("changed", self.changed)):
            # What installing another version of a package moves is told by the package, not file by file.
            paths = [path for path in every if not (self.packages and path.startswith("deps/"))]
            lines += [f"{word}: {path}" for path in paths[:_SHOWN]]
            if len(paths) > _SHOWN:
                lines.append(f"{word}: … and {len(paths) - _SHOWN} more files")
        if self.sizes[0] != self.sizes[1]:
            lines.append(f"size: {format_size(self.sizes[0])} → {format_size(self.sizes[1])}")
        return lines


def diff(a: ReleaseView, b: ReleaseView) -> ReleaseDiff:
    """Compare two sides."""
    before = {entry.path: entry for entry in a.files}
    after = {entry.path: entry for entry in b.files}
    return ReleaseDiff(
        a=a.release.digest,
        b=b.release.digest,
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(p for p in before.keys() & after.keys() if before[p] != after[p])),
        packages=_packages(a.release, b.release),
        run=_changes(_run(a.release), _run(b.release)),
        settings=_changes(_settings(a.settings), _settings(b.settings)),
        sizes=(a.release.size, b.release.size),
    )


def _packages(a: Release, b: Release) -> tuple[Change, ...]:
    """Versions by name; a name may be there in several versions (node)."""
    return _changes(_versions(a), _versions(b))


def _versions(release: Release) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for package in release.packages:
        found.setdefault(package.name, []).append(package.version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _run(release: Release) -> dict[str, Any]:
    run = asdict(release.run)
    values: dict[str, Any] = {
        "service": release.service,
        "builder": release.builder,
        "base": release.base,
        "runtime": " ".join(filter(None, (release.runtime.kind, release.runtime.version, release.runtime.platform))),
        "run.command": " ".join(release.run.command),
        "run.port": run["port"],
        "run.drain": format_duration(release.run.drain_ms),
    }
    values |= {f"run.health.{key.removesuffix('_ms')}": _time(key, v) for key, v in run["health"].items()}
    values |= {f"run.env.{key}": value for key, value in run["env"].items()}
    values |= {f"run.resources.{key}": value for key, value in run["resources"].items()}
    return values


def _time(key: str, value: Any) -> Any:
    return format_duration(value) if key.endswith("_ms") else value


def _settings(settings: Settings | None) -> dict[str, Any]:
    if settings is None:
        return {}
    values: dict[str, Any] = {f"env.{key}": value for key, value in settings.env.items()}
    for name, secret in settings.secrets.items():
        values[f"secrets.{name}"] = f"{secret.source} version {secret.version}"
    return values


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    keys = sorted(before.keys() | after.keys())
    return tuple(Change(k, before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k))
