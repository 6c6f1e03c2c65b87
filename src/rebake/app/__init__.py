"""The composition root: the only place that names concrete adapters.

Everything heavy is imported inside: the command line imports this module on paths that must start fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebake.core.home import Home

if TYPE_CHECKING:
    from rebake.app.registries import Registries
    from rebake.bake.ports import BakeResult
    from rebake.platforms.findings import Finding
    from rebake.release.gc import GcReport
    from rebake.release.reference import Reference
    from rebake.release.store import Store
    from rebake.spec.compiled import Compiled


def store(home: Home) -> Store:
    """The content-addressed store of a home."""
    from rebake.release.store import Store

    return Store(home.store)


def bake(home: Home, file: Compiled, folder: Path, there: Registries, progress: Callable[[str], None]) -> BakeResult:
    """Bake the source that a file describes.

    Args:
        folder: where rebake.yaml lies; `bake.source` is relative to it.
        there: where bases come from.
    Raises: BakeError; Permanent when the disk refuses.
    """
    from rebake.bake.baker import Baker
    from rebake.bake.builders.dockerfile import DockerfileBuilder
    from rebake.bake.builders.files import FilesBuilder
    from rebake.bake.builders.image import ImageBuilder
    from rebake.bake.builders.node import NodeBuilder
    from rebake.bake.builders.python import PythonBuilder
    from rebake.bake.builders.static import StaticBuilder
    from rebake.bake.memoising import DiskMemo
    from rebake.bake.ports import BakeRequest, Builder, WholeBuilder
    from rebake.bake.tools import SystemTools
    from rebake.release.manifest import run_contract_of

    request = BakeRequest(
        service=file.service,
        builder=file.bake["builder"],
        source=folder / file.bake["source"],
        run=run_contract_of(file.run),
        exclude=(*file.bake["exclude"], *_own_home(home, folder / file.bake["source"])),
        base=_base(folder, file.bake["base"]),
        extras=tuple(file.bake["extras"]),
        build=file.bake["build"],
        dockerfile=file.bake["dockerfile"],
    )
    releases, tools = store(home), SystemTools()
    memo = DiskMemo(releases.cache)
    builders: list[Builder | WholeBuilder] = [
        FilesBuilder(),
        StaticBuilder(),
        PythonBuilder(tools, memo),
        NodeBuilder(tools, memo),
        DockerfileBuilder(tools),
        ImageBuilder(),
    ]
    return Baker(releases, builders, there.images(releases, memo)).bake(request, progress)


def pull(home: Home, reference: Reference, progress: Callable[[str], None]) -> str:
    """Bring a release into the store, unless it is there; returns its digest.

    Args:
        reference: by tag or digest.
    Raises: PlatformError of the registry; UsageError `not-a-release`; Permanent `disk-full`.
    """
    from rebake.app.registries import Registries

    with Registries(os.environ) as there:
        return there.pull(store(home), reference, progress)


def _own_home(home: Home, source: Path) -> tuple[str, ...]:
    """The home, where it lies inside the source: what rebake keeps is never part of a release."""
    root, source = home.root.resolve(), source.resolve()
    if source not in root.parents:
        return ()
    return ("/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", root.relative_to(source).as_posix()),)


def _base(folder: Path, base: str) -> str:
    """The base with its folder, which the file gives relative to itself."""
    return f"oci:{folder / base.removeprefix('oci:')}" if base.startswith("oci:") else base


def gc(home: Home, kept: Mapping[str, Any], *, dry_run: bool = False) -> GcReport:
    """Remove releases, unpacked copies and secret versions that nothing kept needs.

    Args:
        kept: `{"releases": […], "secrets": […]}`, the answer of `GET /v1/kept`.
    """
    from rebake.app.platforms import NoPlans, Platforms
    from rebake.core.secrets import SecretVault

    releases, vault = store(home), SecretVault(home)
    if dry_run:
        return releases.would_collect(set(kept["releases"]))
    platforms = Platforms(home, releases, vault, NoPlans())
    try:
        report = releases.gc(set(kept["releases"]), on_removed=platforms.forget)
    finally:
        platforms.close()
    vault.keep(set(kept["secrets"]))
    return report


def doctor(home: Home) -> Sequence[Finding]:
    """What the platforms find on this machine."""
    from rebake.app.platforms import NoPlans, Platforms
    from rebake.core.secrets import SecretVault

    platforms = Platforms(home, store(home), SecretVault(home), NoPlans())
    try:
        return platforms.doctor()
    finally:
        platforms.close()
