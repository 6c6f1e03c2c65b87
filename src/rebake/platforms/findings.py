"""What a platform found on this machine, for `rebake doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the machine.

    Attributes:
        ok: False where something of the design cannot be held here; `remedy` says what to do.
    """

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
