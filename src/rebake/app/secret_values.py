"""Secrets on their way into a revision: read where the file says, kept by version, never written into a document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rebake.app.afar import is_from_afar
from rebake.errors import UsageError
from rebake.release.manifest import SecretVersion


class Vault(Protocol):
    """Keeps secret values by version."""

    def remember(self, value: str) -> str: ...


def secret_versions(doc: Mapping[str, Any], vault: Vault) -> dict[str, SecretVersion]:
    """Read every secret of a request now and keep it by version, so that going back brings the old value back.

    Args:
        doc: `secrets` maps a name to `file:PATH` or `env:NAME`; `secret_values` holds the values of the latter. From
            afar it holds all of them, those of files by their whole source.
    Raises: UsageError `secret-not-set`, `secret-unreadable`.
    """
    values: Mapping[str, str] = doc.get("secret_values") or {}
    versions = {}
    for name, source in sorted((doc.get("secrets") or {}).items()):
        kind, _, place = str(source).partition(":")
        if is_from_afar(doc) and kind != "env":
            value = _told_secret(name, str(source), values)
        else:
            value = _told_secret(name, place, values) if kind == "env" else read_secret(name, Path(place))
        versions[name] = SecretVersion(str(source), vault.remember(value))
    return versions


def _told_secret(name: str, variable: str, values: Mapping[str, str]) -> str:
    if variable not in values:
        raise UsageError(
            "secret-not-set",
            f"the secret {name} comes from {variable}, and no value came with the request",
            where=f"secrets.{name}",
            remedy="run rebake deploy where that variable or file is",
        )
    return values[variable]


def read_secret(name: str, path: Path) -> str:
    """The text in a file, without its last line ends. Raises: UsageError `secret-unreadable`."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            "secret-unreadable",
            f"the secret {name} cannot be read: {reason}",
            where=str(path),
            remedy="it is read as the user that deploys: correct the path or its permissions",
        ) from error
