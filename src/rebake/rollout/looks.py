"""What became of the latest look at each environment: whether there was one, and what a failing one failed with.

In memory only: it tells what hinders this engine now, and where a full disk hinders it nothing could be written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

from rebake.core.clock import iso
from rebake.errors import BrokenInvariant, RebakeError

HELD = "lease-held"
"""Where several engines share the work, all but one hear it; nothing hinders anybody then."""
CALM_SECONDS = 5.0
"""Looks that had nothing to write must be whole for so long before what failed is taken for mended: a judge's evidence
is written every few seconds only."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why the engine cannot go on with an environment.

    Attributes:
        since: of the first look in a row that failed, seconds since the epoch.
        latest: of the last one.
    """

    since: float
    latest: float
    error: RebakeError

    def doc(self) -> dict[str, Any]:
        """As views show it. Source: docs/api.md."""
        told = self.error.to_json()
        return {"since": iso(self.since), **{name: told[name] for name in ("error", "problem", "where", "remedy")}}

    def sentence(self) -> str:
        """Cause, place and what to do, on one line."""
        return f"the engine cannot go on since {iso(self.since)}: {self.error.told()}"


class Looks:
    """Of one engine. Each environment is looked at by one thread at a time; any thread may ask."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._stuck: dict[str, Stuck] = {}

    def seen(self, key: str) -> bool:
        """Whether this engine looked at it at all, with whatever success."""
        return key in self._seen

    def stuck(self, key: str) -> Stuck | None:
        """What the latest looks failed with; None when it is mended."""
        return self._stuck.get(key)

    def wrote(self, key: str) -> None:
        """Note that the look under way wrote down what it wanted to: when it is finished, all is mended."""
        known = self._stuck.get(key)
        if known is not None:
            self._stuck[key] = replace(known, latest=-inf)

    def finished(self, key: str, now: float) -> bool:
        """Note a whole look. Returns: whether views show something else now."""
        first, known = key not in self._seen, self._stuck.get(key)
        self._seen.add(key)
        if known is None or abs(now - known.latest) < CALM_SECONDS:
            return first
        del self._stuck[key]
        return True

    def failed(self, key: str, error: Exception, now: float) -> bool:
        """Note a look that could not be finished; one that another engine is to finish hinders nobody.

        Returns: whether views show something else now.
        """
        if not isinstance(error, RebakeError):
            error = BrokenInvariant(f"a look failed: {type(error).__name__}: {error}", where=key)
        first, known = key not in self._seen, self._stuck.get(key)
        if error.code == HELD:
            self._seen.add(key)
            return first
        self._stuck[key] = Stuck(now if known is None else min(known.since, now), now, error)
        self._seen.add(key)
        return first or known is None or known.error.problem != error.problem
