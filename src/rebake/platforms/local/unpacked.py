"""Unpacked releases: one verified, read-only tree for each dependency layer and each release, by generation.

Rules:
- A tree is made beside its place under a temporary name, sealed, and renamed: it is whole or it is not there.
- A tree in which a difference was found is marked damaged for good. It stays where it is while an instance runs from
  it; what starts next runs from a fresh generation unpacked beside it (`<digest>`, `<digest>.2`, …).
- Before every use a tree is looked over (`trees.look_over`).
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.core.codec import dump, load
from rebake.core.units import format_size
from rebake.errors import Permanent
from rebake.platforms.faults import disk_errors
from rebake.platforms.local import runtimes, trees
from rebake.platforms.local.layout import Layout
from rebake.platforms.local.requests import Binding
from rebake.platforms.local.unpack import ROOTS, extract
from rebake.platforms.model import Drift
from rebake.platforms.ports import Progress
from rebake.platforms.sources import ReleaseSource
from rebake.release.manifest import Layer, Release

_DAMAGED = "damaged.json"
_SHOWN = 100  # differences kept of one tree; more tell nobody more


@dataclass(frozen=True, slots=True)
class Ready:
    """An unpacked release that was looked over a moment ago.

    Attributes:
        trees: the sealed folders it consists of.
    """

    binding: Binding
    trees: tuple[Path, ...]


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, against other threads and other programs. Yields False when it is held and `wait` is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _generation(path: Path) -> int:
    suffix = path.name.partition(".")[2]
    return int(suffix) if suffix.isdigit() else 1


def generations(parent: Path, name: str) -> list[Path]:
    """Generations of one tree, newest first."""
    found = [p for p in parent.glob(f"{name}*") if p.name == name or p.name.startswith(f"{name}.")]
    return sorted(found, key=_generation, reverse=True)


def damage(tree: Path) -> tuple[Drift, ...] | None:
    """What was found in a tree that is marked damaged; None when it is not marked."""
    try:
        return load(tuple[Drift, ...], json.loads((tree / _DAMAGED).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return (Drift("file-changed", str(tree / _DAMAGED), "a list of differences", "unreadable"),)


def inspect_tree(tree: Path) -> tuple[Drift, ...]:
    """Every difference in one tree, those found before included; marks it when there is one."""
    known = damage(tree)
    if known is not None:
        return known
    found = trees.look_over(tree)[:_SHOWN]
    if found:
        with suppress(OSError):  # a tree that vanished cannot be marked, and need not be
            write_atomic(tree / _DAMAGED, json.dumps([dump(d) for d in found]).encode())
    return found


class Unpacked:
    """The unpacked releases of one home.

    Args:
        in_use: paths of the trees that instances run from.
    """

    def __init__(self, layout: Layout, store: ReleaseSource, in_use: Callable[[], set[str]]) -> None:
        self._layout, self._store, self._in_use = layout, store, in_use

    def ready(self, release: Release, progress: Progress) -> Ready:
        """Unpack what is not yet unpacked, look over what is, and bind it to the machine's runtime.

        Raises: Permanent `release-damaged`, `runtime-missing`, `wrong-architecture`, `base-not-host`, `disk-full`,
            `home-not-writable`.
        """
        if any(layer.role == "base" for layer in release.layers):
            raise _not_for_host(release)
        executable = runtimes.interpreter(release)
        dependencies = next((layer for layer in release.layers if layer.role == "dependencies"), None)
        with disk_errors(self._layout.home.store):
            if dependencies is None:
                return self._ready(release, None, executable, progress)
            with _locked(self._layout.layers / f".{_hex(dependencies.digest)}.lock"):
                layer = self._layer(release, dependencies, executable, progress)
                return self._ready(release, layer, executable, progress)

    def _ready(self, release: Release, layer: Path | None, executable: str | None, progress: Progress) -> Ready:
        name = _hex(release.digest)
        with _locked(self._layout.releases / f".{name}.lock"):
            usable = lambda tree: _fits(tree, layer, release)  # noqa: E731
            root = self._usable(self._layout.releases, name, usable)
            if root is None:
                with self._fresh(self._layout.releases, name) as folder:
                    self._fill_release(release, layer, executable, folder, progress)
                root = self._usable(self._layout.releases, name, usable)
        if root is None:
            raise _unstable(self._layout.releases / name)
        return Ready(runtimes.bind(release, root, executable), (root,) if layer is None else (root, layer))

    def _layer(self, release: Release, layer: Layer, executable: str | None, progress: Progress) -> Path:
        name = _hex(layer.digest)
        found = self._usable(self._layout.layers, name, lambda _: True)
        if found is None:
            with self._fresh(self._layout.layers, name) as folder:
                progress(f"unpacking dependencies ({format_size(layer.size)})")
                known = extract(self._store.blob_path(layer.digest), layer.digest, folder)
                if executable is not None and release.runtime.kind == "python":
                    progress("compiling dependencies")
                    runtimes.compile_sources(executable, folder)
                _seal(folder, [part for part in ROOTS if (folder / part).exists()], known)
            found = self._usable(self._layout.layers, name, lambda _: True)
        if found is None:
            raise _unstable(self._layout.layers / name)
        return found

    def _fill_release(
        self, release: Release, layer: Path | None, executable: str | None, folder: Path, progress: Progress
    ) -> None:
        known: dict[str, str] = {}
        for one in release.layers:
            if one.role == "application":
                progress(f"unpacking application ({format_size(one.size)})")
                known |= extract(self._store.blob_path(one.digest), one.digest, folder)
        (folder / "app").mkdir(exist_ok=True)
        known = _set_own_apart(folder, known)
        if layer is not None:
            (folder / "deps").symlink_to(f"../../layers/{layer.name}/deps")
        if release.runtime.kind == "python" and executable is not None:
            runtimes.compile_sources(executable, folder / "app")
            runtimes.write_venv(folder, release.runtime.version, executable)
        elif release.runtime.kind == "node" and layer is not None and (layer / "deps" / "node_modules").is_dir():
            with suppress(FileExistsError):
                (folder / "app" / "node_modules").symlink_to("../deps/node_modules")
        _seal(folder, ["app", "deps", runtimes.OWN, "venv"], known)

    def _usable(self, parent: Path, name: str, fits: Callable[[Path], bool]) -> Path | None:
        for tree in generations(parent, name):
            if trees.is_sealed(tree) and damage(tree) is None and fits(tree) and not inspect_tree(tree):
                return tree
        return None

    @contextmanager
    def _fresh(self, parent: Path, name: str) -> Iterator[Path]:
        """A temporary folder that becomes the next generation when it was filled."""
        self._drop(parent, name)
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name[:12]}."))
        try:
            yield temporary
            taken = generations(parent, name)
            number = _generation(taken[0]) + 1 if taken else 1
            temporary.chmod(0o755)
            temporary.rename(parent / (name if number == 1 else f"{name}.{number}"))
        except BaseException:
            trees.remove_tree(temporary)
            raise

    def _drop(self, parent: Path, name: str) -> int:
        """Remove the generations of one tree that nothing runs from, and leftovers of a killed unpacking."""
        used = self._in_use()
        gone = [tree for tree in generations(parent, name) if str(tree) not in used]
        gone += [p for p in parent.glob(f".{name[:12]}.*") if p.is_dir()]
        freed = sum(map(_size, gone))
        for tree in gone:
            trees.remove_tree(tree)
        return freed

    def drop_damaged(self, candidates: Iterable[Path]) -> None:
        """Remove those of the trees that are damaged and that nothing runs from any more."""
        used: set[str] | None = None
        for tree in candidates:
            if damage(tree) is not None:
                used = self._in_use() if used is None else used
                if str(tree) not in used:
                    trees.remove_tree(tree)

    def forget(self, digest: str) -> int:
        """Remove the unpacked copy of a release, and of layers that no unpacked release needs any more.

        What an instance runs from, or what is being unpacked right now, stays.

        Returns: bytes freed.
        """
        freed = 0
        with disk_errors(self._layout.home.store):
            with _locked(self._layout.releases / f".{_hex(digest)}.lock", wait=False) as mine:
                if mine:
                    freed += self._drop(self._layout.releases, _hex(digest))
            for name in self._unneeded_layers():
                with _locked(self._layout.layers / f".{name}.lock", wait=False) as mine:
                    if mine and name in self._unneeded_layers():
                        freed += self._drop(self._layout.layers, name)
        return freed

    def _unneeded_layers(self) -> set[str]:
        needed = set()
        for tree in self._layout.releases.glob("*"):
            with suppress(OSError):
                needed.add((tree / "deps").readlink().parent.name.partition(".")[0])
        return {p.name.partition(".")[0] for p in self._layout.layers.glob("[0-9a-f]*")} - needed


def _set_own_apart(folder: Path, known: dict[str, str]) -> dict[str, str]:
    """Move what the application layer itself brings below `deps` (programs and metadata of the project) to a folder of
    its own, because `deps` becomes a link to the shared layer. Returns the digests under their new paths."""
    if not (folder / "deps").exists():
        return known
    (folder / "deps").rename(folder / runtimes.OWN)
    moved = {path: runtimes.OWN + path.removeprefix("deps") for path in known if path.startswith("deps/")}
    return {moved.get(path, path): digest for path, digest in known.items()}


def _seal(folder: Path, parts: list[str], known: dict[str, str]) -> None:
    trees.make_read_only(folder, parts)
    trees.write_seal(folder, parts, known)


def _fits(root: Path, layer: Path | None, release: Release) -> bool:
    """Whether an unpacked release points at the dependencies and the interpreter it is to run with."""
    deps = root / "deps"
    if layer is not None and (not deps.is_symlink() or deps.resolve() != (layer / "deps").resolve()):
        return False
    return release.runtime.kind != "python" or (root / "venv" / "bin" / "python").exists()


def _size(tree: Path) -> int:
    total = 0
    for current, _, names in os.walk(tree):
        for name in names:
            with suppress(OSError):
                total += Path(current, name).lstat().st_size
    return total


def _not_for_host(release: Release) -> Permanent:
    return Permanent(
        "base-not-host",
        f"the release is built on {release.base}; platform `local` runs releases of `base: host`",
        where=f"release {release.digest}",
        remedy="set `bake.base: host`, or choose a platform that runs containers",
    )


def _unstable(tree: Path) -> Permanent:
    return Permanent(
        "release-damaged",
        "the unpacked release changed while it was looked over",
        where=str(tree),
        remedy="find out what writes there (`fuser -v`), then run the same command again",
    )
