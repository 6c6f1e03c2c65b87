"""What the command line does itself, without the agent: reading the file, baking, collecting, looking around.

The one place where the command line meets `rebake.app`; everything heavy is imported inside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rebake.core.home import Home
from rebake.errors import UsageError

if TYPE_CHECKING:
    from rebake.app.registries import Registries
    from rebake.release.reference import Reference
    from rebake.spec.compiled import Compiled

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Described:
    """A rebake.yaml that was read without a mistake, and where it lies."""

    file: Compiled
    folder: Path


def read_file(home: Home, file: Path) -> Described:
    """Raises: UsageError `no-rebake-yaml`, `file-unreadable`; SpecError with every mistake."""
    from rebake.spec.compiled import compile_file

    return Described(compile_file(file, home.store / "cache" / "files"), file.absolute().parent)


def read_group(file: Path) -> Any:
    """The `spec.group.Group` of a file. Raises: UsageError `no-rebake-yaml`, `file-unreadable`; SpecError."""
    from rebake.spec.load import load_group

    return load_group(file)


def secret_values(sources: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values of the secrets that come from the environment of this command, by the name they have there.

    Raises: UsageError `secret-not-set` naming every one that is missing.
    """
    wanted = sorted({source.removeprefix("env:") for source in sources.values() if source.startswith("env:")})
    missing = [name for name in wanted if name not in environ]
    if missing:
        raise UsageError(
            "secret-not-set",
            f"expected secrets in the environment of this command, found none in {', '.join(missing)}",
            where="secrets of rebake.yaml",
            remedy=f"export {missing[0]}=… and run the same command again",
        )
    return {name: environ[name] for name in wanted}


def file_secrets(sources: Mapping[str, str]) -> dict[str, str]:
    """The values of the secrets that come from files, by their source: a server far away cannot read them.

    Raises: UsageError `secret-unreadable`.
    """
    from rebake.app.secret_values import read_secret

    files = {name: source for name, source in sources.items() if source.startswith("file:")}
    return {source: read_secret(name, Path(source.removeprefix("file:"))) for name, source in files.items()}


def rollout_request(described: Described, environment: str, *, from_afar: bool) -> dict[str, Any]:
    """The parts of `POST /v1/rollouts` that the file says.

    Args:
        from_afar: the agent that is asked is on another machine.
    Raises: UsageError `unknown-environment`, `secret-not-set`, `secret-unreadable`.
    """
    asked = described.file.environments.get(environment)
    if asked is None:
        from rebake.spec.report import unknown_environment

        raise unknown_environment(described.file.service, described.file.environments, environment)
    values = secret_values(asked["secrets"])
    if from_afar:
        values |= file_secrets(asked["secrets"])
    return {**asked, "secret_values": values}


def registries() -> Registries:
    """The registries that this user can speak to, for one command: a context."""
    from rebake.app.registries import Registries

    return Registries(os.environ)


def prepare(home: Home, described: Described, there: Registries) -> None:
    """Get ready to push what is about to be baked. Raises: UsageError `no-repository`."""
    from rebake import app

    there.prepare(app.store(home), _repository(described))


def handed_over(home: Home, described: Described, digest: str, there: Registries, progress: Progress) -> dict[str, str]:
    """What a server far away needs of a release: it is pushed, and this says where to.

    Raises: as `push`.
    """
    push(home, described, digest, there, progress)
    return {"repository": str(described.file.bake["repository"])}


def bake(home: Home, described: Described, there: Registries, progress: Progress) -> Any:
    """A `BakeResult`. Raises: BakeError; Permanent when the disk says no."""
    from rebake import app

    return app.bake(home, described.file, described.folder, there, progress)


def push(home: Home, described: Described, digest: str, there: Registries, progress: Progress) -> dict[str, Any]:
    """Put a release into the repository that the file names; a `registry.transfer.Pushed` as a mapping.

    Raises: UsageError `no-repository`; PlatformError of the registry.
    """
    from dataclasses import asdict

    from rebake import app

    return asdict(there.push(app.store(home), digest, _repository(described), progress))


def _repository(described: Described) -> Reference:
    """Where the file says that releases go. Raises: UsageError `no-repository`."""
    from rebake.release.reference import parse_repository

    repository = described.file.bake["repository"]
    if repository is None:
        raise UsageError(
            "no-repository",
            "expected a repository to push to, found none in the file",
            where="bake.repository",
            remedy="add `repository: registry.example.com/team/shop` under bake",
        )
    return parse_repository(repository)


def release_for(home: Home, described: Described, asked: str, progress: Progress) -> str:
    """The digest of the release that `--release` asks for; fetched from its registry if it is not here.

    Args:
        asked: the beginning of a digest; or an image by tag or digest, which names the registry too. A whole digest
            that is not here is looked for in the file's own repository.
    Raises: UsageError `release-unknown`, `release-ambiguous`, `wrong-reference`, `not-a-release`; PlatformError.
    """
    from rebake import app
    from rebake.core.digest import is_digest
    from rebake.release.reference import parse_reference

    repository = described.file.bake["repository"]
    try:
        if "/" in asked or "@" in asked:
            return app.pull(home, parse_reference(asked), progress)
        if is_digest(asked) and repository is not None:
            return app.pull(home, parse_reference(f"{repository}@{asked}"), progress)
    except ValueError as error:
        raise UsageError(
            "wrong-reference", str(error), where="--release", remedy="write registry/repository@sha256:…"
        ) from error
    return app.store(home).resolve(asked)


def collect(home: Home, kept: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Remove what no kept revision needs: `{"removed": [digest, …], "blobs", "bytes", "kept", "dry_run"}`.

    Args:
        kept: the answer of `GET /v1/kept`.
    """
    from dataclasses import asdict

    from rebake import app

    report = app.gc(home, kept, dry_run=dry_run)
    return {**asdict(report), "removed": list(report.removed), "dry_run": dry_run}


def findings(home: Home) -> list[dict[str, Any]]:
    """What the rooms found on this machine: `[{"name", "state": "ok|warning", "detail", "remedy"}]`.

    What a room finds wrong is a warning: the service is deployed all the same, with less of the design held.
    """
    from rebake import app

    return [
        {"name": found.name, "state": "ok" if found.ok else "warning", "detail": found.detail, "remedy": found.remedy}
        for found in app.doctor(home)
    ]
