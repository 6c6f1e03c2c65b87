"""What the environments of a platform ask of it, for adapters that need each one's own settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Wishes(Protocol):
    """The composition root knows the environments' plans."""

    def settings(self, service: str, environment: str, /) -> Mapping[str, Any]:
        """The platform's block of the plan under way, else of the one in service."""
        ...

    def environments(self, service: str, /) -> Sequence[str]:
        """The environments of a service that are on this platform."""
        ...


class NoWishes:
    """Every environment with the defaults."""

    def settings(self, _service: str, _environment: str) -> Mapping[str, Any]:
        return {}

    def environments(self, _service: str) -> Sequence[str]:
        return ()
