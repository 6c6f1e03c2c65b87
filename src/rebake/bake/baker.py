"""From a folder to a release in the store. Orders the steps; each knows nothing of the others."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rebake.bake.application import ApplicationBaker, ApplicationLayer
from rebake.bake.bases import Base, Ground, NoImages, base_of
from rebake.bake.inside import user_number
from rebake.bake.layers import Reader, entry_of, write_layer
from rebake.bake.libc import wheels_for
from rebake.bake.memoising import BuiltLayer, DiskMemo, LayerMemo, layer_key, resolve
from rebake.bake.plan import with_folders
from rebake.bake.ports import (
    Application,
    BakeRequest,
    BakeResult,
    Builder,
    Images,
    Progress,
    Resolution,
    ScriptRunner,
    Seen,
    WholeBuilder,
)
from rebake.bake.refusals import refuse
from rebake.bake.source import Source, load_patterns, open_source
from rebake.core.digest import digest_of
from rebake.errors import BakeError
from rebake.release.blobs import Pin, full_disks
from rebake.release.documents import Below, ImageDocuments, StoredLayer, image_documents
from rebake.release.manifest import Release, RunContract, Runtime
from rebake.release.store import Store

_NOBODY = "65532:65532"
"""Whom a container runs as where the base says root or nothing: the `nonroot` that distroless images made usual."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def machine() -> str:
    """This machine's platform as OCI writes it: `linux/amd64`."""
    return f"linux/{_MACHINES.get(platform.machine(), platform.machine())}"


@dataclass(frozen=True, slots=True)
class _Job:
    """One bake under way."""

    builder: Builder
    request: BakeRequest
    source: Source
    runtime: Runtime
    base: Base
    pin: Pin
    progress: Progress


@dataclass(frozen=True, slots=True)
class _Dependencies:
    layer: BuiltLayer | None
    resolution: Resolution | None
    reused: bool


class Baker:
    """Bakes requests into releases.

    Args:
        builders: one per name; each request names one.
        images: where bases by reference come from.
    """

    def __init__(self, store: Store, builders: Sequence[Builder | WholeBuilder], images: Images | None = None) -> None:
        self._store, self._images = store, images or NoImages()
        self._builders = {builder.name: builder for builder in builders}
        self._memo = DiskMemo(store.cache)

    def bake(self, request: BakeRequest, progress: Progress) -> BakeResult:
        """Make the release of a source folder, doing only what was not done before.

        Raises: BakeError for what is wrong with the source; Permanent `disk-full`, `store-read-only`.
        """
        with _without_collector(), full_disks(self._store.root):
            return self._bake(request, progress)

    def _bake(self, request: BakeRequest, progress: Progress) -> BakeResult:
        started = time.monotonic()
        builder = self._builder(request)
        if isinstance(builder, WholeBuilder):
            return self._take(builder, request, progress, started)
        source = open_source(request.source, request.exclude)
        request = replace(request, source=Path(os.fsdecode(source.root)))
        with self._store.pinned() as pin:
            base, notes = base_of(Ground(self._store, pin, machine(), progress), request.base, self._images)
            base = self._numbered(base)
            runtime = builder.runtime(request)
            _refuse_other_interpreter(base, runtime)
            if runtime.kind == "python":
                request = replace(request, wheels=wheels_for(self._store, base, self._memo))
            job = _Job(builder, request, source, runtime, base, pin, progress)
            dependencies = self._dependencies(job)
            added = builder.application(request, dependencies.layer is not None)
            application = self._application(job, dependencies, added)
            if not request.run.command:
                job = replace(job, request=replace(request, run=replace(request.run, command=added.command)))
            release, existed = self._seal(job, dependencies, application)
        reused = [
            name
            for name, held in (
                ("dependencies", dependencies.reused and dependencies.layer is not None),
                ("application", application.reused),
                ("release", existed),
            )
            if held
        ]
        return BakeResult(release, tuple(reused), time.monotonic() - started, tuple(notes))

    def _take(self, builder: WholeBuilder, request: BakeRequest, progress: Progress, started: float) -> BakeResult:
        """The release of an image that is whole already."""
        with self._store.pinned() as pin:
            base, notes = builder.image(request, Ground(self._store, pin, machine(), progress), self._images)
            base, notes = self._numbered(base), [*notes, *_which_port(request.run, base)]
            release = Release(
                digest="",
                service=request.service,
                builder=request.builder,
                run=_completed(request.run, base),
                layers=tuple(item.layer for item in base.layers),
                runtime=Runtime(platform=base.platform),
                base=base.name,
            )
            below = replace(_below(base), workdir=base.workdir, whole=True)
            release, existed = self._put(pin, release, image_documents(release, base.layers, {}, below))
        return BakeResult(release, ("release",) * existed, time.monotonic() - started, tuple(notes))

    def _builder(self, request: BakeRequest) -> Builder | WholeBuilder:
        if request.builder not in self._builders:
            raise BakeError(
                "builder-unknown",
                f"expected a builder of {', '.join(sorted(self._builders))}, found {request.builder!r}",
                where="bake.builder",
                remedy="correct `bake.builder` in rebake.yaml",
            )
        builder = self._builders[request.builder]
        if request.build is not None and not isinstance(builder, ScriptRunner):
            raise BakeError(
                "build-unsupported",
                f"the builder {request.builder} runs no build script, found {request.build!r}",
                where="bake.build",
                remedy="remove `build`, or use `builder: node`",
            )
        return builder

    def _numbered(self, base: Base) -> Base:
        return replace(base, user=user_number(self._store, base, self._memo))

    # -- dependencies ------------------------------------------------------------------------------------------------

    def _dependencies(self, job: _Job) -> _Dependencies:
        resolution, _ = resolve(job.builder, job.request, job.runtime, self._memo, job.progress)
        if resolution is None:
            return _Dependencies(None, None, True)
        layers = LayerMemo(self._store, job.pin, self._memo)
        key = layer_key(job.builder, resolution, job.runtime, job.request.wheels or machine())
        if built := layers.get(key):
            return _Dependencies(built, resolution, True)
        built = self._install(job, resolution)
        layers.put(key, built)
        return _Dependencies(built, resolution, False)

    def _install(self, job: _Job, resolution: Resolution) -> BuiltLayer:
        job.progress(f"installing dependencies from {resolution.kind}")
        installed = job.builder.install(job.request, resolution, job.pin.scratch(), job.progress)
        if installed.built and job.request.wheels:
            raise _compiled(job.base, installed.built)
        seen = Seen()
        items = {item.path: item for item in installed.items}
        reader = Reader(b"", b"", items, {}, seen)
        entries = with_folders(entry_of(item) for item in items.values())
        written = write_layer(job.pin, "dependencies", entries, reader, seen)
        refuse(seen, "dependencies")
        assert written is not None
        return BuiltLayer(written.stored, installed.packages, installed.native)

    # -- application -------------------------------------------------------------------------------------------------

    def _application(self, job: _Job, dependencies: _Dependencies, added: Application) -> ApplicationLayer:
        index = self._store.cache / "trees" / f"{_tree_key(job.request, job.source)}.index"
        plain = ApplicationBaker(self._store, job.pin, job.source, added, index).bake()
        if job.request.build is None:
            return plain
        layers = LayerMemo(self._store, job.pin, self._memo)
        key = _build_key(job, plain, dependencies.resolution)
        if built := layers.get(key):
            return ApplicationLayer(built.stored, True)
        scratch = job.pin.scratch()
        self._copy_out(plain.stored, scratch)
        job.progress(f"running the build script {job.request.build}")
        assert isinstance(job.builder, ScriptRunner)
        job.builder.build(job.request, scratch, job.progress)
        wanted = tuple(f"!{pattern.text}" for pattern in load_patterns(job.source) if pattern.takes_back)
        made = Source(os.fsencode(scratch.resolve()), wanted, follow_ignores=False)
        layer = ApplicationBaker(self._store, job.pin, made, added, job.pin.temporary()).bake()
        layers.put(key, BuiltLayer(layer.stored))
        return layer

    def _copy_out(self, layer: StoredLayer, scratch: Path) -> None:
        """Unpack the application layer, without what the builder adds, as a folder to build in."""
        import tarfile

        with tarfile.open(self._store.blob_path(layer.layer.digest)) as archive:
            for member in archive:
                if member.name.startswith("app/") and member.name != "app/node_modules":
                    member.name = member.name.removeprefix("app/")
                    archive.extract(member, scratch, filter="data")

    # -- the release -------------------------------------------------------------------------------------------------

    def _seal(self, job: _Job, dependencies: _Dependencies, application: ApplicationLayer) -> tuple[Release, bool]:
        request, built = job.request, dependencies.layer
        if built and built.native and job.base.name != "host" and not request.wheels:
            raise _compiled(job.base, ())
        stored = [*job.base.layers, *([built.stored] if built else []), application.stored]
        platform = machine() if built and built.native else job.base.platform
        runtime = replace(job.runtime, platform=platform) if platform else job.runtime
        release = Release(
            digest="",
            service=request.service,
            builder=request.builder,
            run=request.run,
            layers=tuple(item.layer for item in stored),
            packages=built.packages if built else (),
            runtime=runtime,
            base=job.base.name,
        )
        documents = image_documents(release, stored, job.builder.container_env(request, runtime), _below(job.base))
        return self._put(job.pin, release, documents)

    def _put(self, pin: Pin, release: Release, documents: ImageDocuments) -> tuple[Release, bool]:
        """The release, recorded; and whether it was there before."""
        pin.add(documents.release)
        pin.add(documents.config)
        known = self._store.knows(documents.manifest)
        digest = self._store.put_release(pin, documents.manifest, service=release.service, size=release.size)
        return replace(release, digest=digest), known


def _completed(run: RunContract, base: Base) -> RunContract:
    """The run contract, with what the file leaves to the image: command, and the one port that it says it has.

    Raises: BakeError `image-without-command`.
    """
    command = run.command or tuple(word.replace("$", "$$") for word in base.command)  # nothing of it is a reference
    if not command:
        raise BakeError(
            "image-without-command",
            f"expected an image that says what it runs, found neither entry point nor command in {base.name}",
            where="run.command",
            remedy="write run.command",
        )
    port = base.ports[0] if run.port is None and len(base.ports) == 1 else run.port
    return replace(run, command=command, port=port)


def _which_port(run: RunContract, base: Base) -> Iterator[str]:
    """What to tell whoever leaves the port to an image that says several."""
    if run.port is None and run.health.path is not None and len(base.ports) > 1:
        several = ", ".join(map(str, base.ports))
        yield f"the image says several ports ({several}): write the one that users call as run.port"


def _below(base: Base) -> Below:
    if base.name == "host":
        return Below()
    root = base.user.partition(":")[0] in ("", "0", "root")
    return Below(base.env, _NOBODY if root else base.user)


def _refuse_other_interpreter(base: Base, runtime: Runtime) -> None:
    """Dependencies are installed for this machine's interpreter: the base's must be of the same version."""
    if base.name == "host" or runtime.kind == "none":
        return
    found = base.version(runtime.kind)
    if found != runtime.version:
        said = f"{runtime.kind} {found}" if found else f"no {runtime.kind.upper()}_VERSION in its environment"
        raise BakeError(
            "base-interpreter",
            f"expected a base with {runtime.kind} {runtime.version}, which the source is baked for here, found {said}",
            where="bake.base",
            remedy="take such a base, or bake with `builder: files`, which installs nothing",
        )


def _compiled(base: Base, built: Sequence[str]) -> BakeError:
    """Nothing says that what was compiled on this machine finds what it needs on the base."""
    which = ", ".join(built) or "some"
    return BakeError(
        "base-compiled-packages",
        f"expected dependencies without parts compiled on this machine for the base {base.name}, found {which}",
        where="bake.base",
        remedy="write `base: host`, or bring these packages with the base image itself",
    )


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A bake makes tuples by the ten thousand and no cycles: looking through them for garbage takes longer than walking
    the source."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _tree_key(request: BakeRequest, source: Source) -> str:
    parts = (source.root, request.builder.encode(), repr(source.exclude).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _build_key(job: _Job, plain: ApplicationLayer, resolution: Resolution | None) -> str:
    return digest_of(
        {
            "builder": job.builder.name,
            "version": job.builder.version,
            "build": job.request.build,
            "source": plain.stored.files,
            "lock": layer_key(job.builder, resolution, job.runtime, job.request.wheels or machine())
            if resolution
            else None,
        }
    )
