"""Which database keeps the ledger of a home: always the same one, so that no command begins a second, empty record."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from rebake.core.atomic import write_atomic
from rebake.core.home import Home
from rebake.errors import UsageError
from rebake.ledger.database import place

VARIABLE = "REBAKE_DATABASE"


def take_ledger_place(home: Home, environ: MutableMapping[str, str]) -> Path | str:
    """What to open. The variable is taken out of `environ`: what this process starts must not see its password.

    Raises: UsageError `database-url`; `another-database` when the home keeps its ledger elsewhere.
    """
    told = environ.pop(VARIABLE, "") or home.database
    found, kept = place(told), kept_place(home)
    if kept is not None and kept != found:
        named = f"{VARIABLE} names {found}" if told != home.database else f"{VARIABLE} is not set"
        raise UsageError(
            "another-database",
            f"this home keeps its ledger in {kept}, but {named}",
            where=str(home.root),
            remedy=_remedy(home, kept),
        )
    return told


def keep_ledger_place(home: Home, where: Path | str) -> None:
    """Remember it, once the ledger there was opened."""
    if where != home.database and not home.ledger_place.exists():
        write_atomic(home.ledger_place, place(where).encode() + b"\n", mode=0o600, durable=True)


def kept_place(home: Home) -> str | None:
    """Where the ledger of this home is; None when it has none yet."""
    if home.ledger_place.exists():
        return home.ledger_place.read_text(encoding="utf-8").strip()
    return str(home.database) if home.database.exists() else None


def _remedy(home: Home, kept: str) -> str:
    if kept == str(home.database):
        return f"unset {VARIABLE}; or, to begin a new ledger there, use another home: REBAKE_HOME=FOLDER"
    return f"export {VARIABLE}={kept} (with its password); if the ledger was moved, remove {home.ledger_place}"
