"""The bake's ports and values: what is asked for, what a builder does, what comes out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rebake.release.blobs import Pin
from rebake.release.manifest import Package, Release, RunContract, Runtime

if TYPE_CHECKING:
    from rebake.bake.bases import Base, Ground

Progress = Callable[[str], None]
"""Told one short line at a time while something long runs."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class BakeRequest:
    """What to bake.

    Attributes:
        source: folder that holds the source; relative to the caller's working directory or absolute.
        exclude: patterns in the syntax of `.dockerignore`, applied after that file's own.
        extras: `python`: optional dependencies that are wanted.
        build: `node`: the name of the script in package.json that makes what is served; None for none.
        dockerfile: `dockerfile`: the file, relative to the source.
        wheels: `python`: the platform that compiled wheels are chosen for, as uv names it; empty: this machine's own.
    """

    service: str
    builder: str
    source: Path
    run: RunContract
    exclude: tuple[str, ...] = ()
    base: str = "host"
    extras: tuple[str, ...] = ()
    build: str | None = None
    dockerfile: str = "Dockerfile"
    wheels: str = ""


@dataclass(frozen=True, slots=True)
class BakeResult:
    """What came out.

    Attributes:
        reused: what was not done again: `dependencies`, `application`, `release`.
        seconds: wall time of the bake.
        notes: what a person should know of it, such as a base that moved.
    """

    release: Release
    reused: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One file or link to be put in a layer.

    Attributes:
        path: in the image, without leading slash, UTF-8: b"deps/bin/gunicorn".
        executable: 0o755 instead of 0o644.
        source: the file on disk; None when `content` or `link` is given.
        content: the bytes themselves.
        link: target of a symbolic link.
    """

    path: bytes
    executable: bool = False
    source: bytes | None = None
    content: bytes | None = None
    link: bytes | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """Everything the dependency layer is made from, as text and values: equal resolutions give equal layers.

    Attributes:
        kind: which lock it came from, such as `uv.lock`.
        text: exact versions and hashes, in the installer's own form.
        local: digest of local folders and files that the text points to; empty when there are none.
    """

    kind: str
    text: str
    local: str = ""


@dataclass(frozen=True, slots=True)
class Installed:
    """Dependencies as installed: the layer's items, still on disk, and what they are.

    Attributes:
        native: some have compiled parts.
        built: names of those whose compiled parts were made on this machine.
    """

    items: tuple[Item, ...]
    packages: tuple[Package, ...]
    native: bool
    built: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Application:
    """What a builder changes in the application layer.

    Attributes:
        extra: further items; a path that the source holds too is taken from here.
        hidden: names of folders that never go in, such as `node_modules`.
        command: what is run where the file says nothing.
    """

    extra: tuple[Item, ...] = ()
    hidden: tuple[bytes, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a tool ended: exit status and what it printed (both streams, as text)."""

    status: int
    stdout: str
    stderr: str

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines it printed, for an error's evidence."""
        plain = _COLOURS.sub("", f"{self.stdout}\n{self.stderr}")
        return [line.rstrip() for line in plain.splitlines() if line.strip()][-lines:]


class Tools(Protocol):
    """Runs uv, npm and node: the only way a builder starts a program, so that tests can count and replace."""

    def run(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> ToolResult:
        """Run to the end. `env` is laid over the caller's environment; an empty value removes a name.

        Raises: BakeError `tool-missing` when there is no such program.
        """
        ...


class Memo(Protocol):
    """A small persistent dictionary of JSON values by name and key; losing it costs time, never correctness."""

    def get(self, name: str, key: str) -> Any | None: ...

    def put(self, name: str, key: str, value: Any) -> None: ...


class ImageSource(Protocol):
    """Where one image is read from. Nothing it gives is believed before it was compared with its digest.

    Attributes:
        name: what the release calls it, before the digest: `oci`, or a registry and repository.
        where: for an error's place; `remedy`: what to do when it is damaged.
        notes: what a person should know of it.
    """

    name: str
    where: str
    remedy: str
    notes: list[str]

    def top(self) -> bytes:
        """The index or manifest to begin with. Raises: BakeError `base-missing`; PlatformError of a registry."""
        ...

    def manifest(self, digest: str) -> bytes:
        """A manifest or index. Raises: OSError, PlatformError."""
        ...

    def config(self, digest: str, size: int) -> bytes:
        """The image's config. Raises: OSError, PlatformError."""
        ...

    def layers(self, rows: Mapping[str, int]) -> Mapping[str, Path]:
        """Layers by digest, with their sizes, as files on the store's own disk that the caller may take away.

        Raises: OSError, PlatformError."""
        ...


class Images(Protocol):
    """Images that are somewhere else, by reference."""

    def image(self, reference: str, pin: Pin, progress: Progress, /) -> ImageSource:
        """Raises: BakeError `wrong-reference`."""
        ...


class Builder(Protocol):
    """Knows one kind of source. Raises (every method): BakeError."""

    name: str
    version: int
    """Raised whenever the same resolution would give other bytes."""

    def runtime(self, request: BakeRequest) -> Runtime:
        """What the release expects of its base; `platform` still `any`. Runs a tool at most once per machine."""
        ...

    def inputs(self, request: BakeRequest) -> Mapping[str, Any] | None:
        """Everything that decides the dependencies, as a JSON value, without running a tool; None: there are none."""
        ...

    def resolve(self, request: BakeRequest, progress: Progress) -> Resolution | None:
        """Exact versions of everything; may run a tool and use the network. None: no dependencies after all."""
        ...

    def install(self, request: BakeRequest, resolution: Resolution, into: Path, progress: Progress) -> Installed:
        """Install below the empty folder `into`."""
        ...

    def application(self, request: BakeRequest, dependencies: bool) -> Application:
        """What the application layer holds besides the selected source. `dependencies`: there is such a layer."""
        ...

    def container_env(self, request: BakeRequest, runtime: Runtime) -> Mapping[str, str]:
        """What a container needs in its environment because of the builder's layout."""
        ...


@runtime_checkable
class WholeBuilder(Protocol):
    """Knows where an image is, or how it is made, that is the release as it is. Raises: BakeError, PlatformError."""

    name: str

    def image(self, request: BakeRequest, ground: Ground, images: Images) -> tuple[Base, Sequence[str]]:
        """The image in the store; and what a person should know of it."""
        ...


@runtime_checkable
class ScriptRunner(Protocol):
    """A builder whose sources may need a build script before they can be served."""

    def build(self, request: BakeRequest, scratch: Path, progress: Progress) -> None:
        """Run the script `request.build` in `scratch`, a copy of the selected source. What is there afterwards is the
        application. Raises: BakeError."""
        ...


@dataclass(slots=True)
class Seen:
    """What one walk of the source found that cannot be baked, by code; all of it is told at once."""

    offenders: dict[str, list[str]] = field(default_factory=dict)

    def add(self, code: str, path: str) -> None:
        self.offenders.setdefault(code, []).append(path)
