"""Callers that stick, counted by the minute. Pure."""

from __future__ import annotations

MINUTE = 60


class Callers:
    """Callers that stick are counted by the minute: a caller who tries again and again is one unlucky caller.

    The first request of a caller in a minute counts, and its first failure in that minute. A failure after a success
    is one more request, so that the e-process sees more successes of the candidate than there were, never fewer.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, tuple[set[int], set[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._minutes)

    def counts(self, minute: int, fleet: str, caller: bytes, failed: bool) -> bool:
        """Whether this request counts."""
        if minute not in self._minutes:
            self._minutes[minute] = (set(), set())
            for gone in [m for m in self._minutes if m < max(self._minutes) - 1]:
                del self._minutes[gone]
        met, unlucky = self._minutes.get(minute, (set(), set()))
        cookie, _, request = caller.partition(b"/")
        key = hash((fleet, request if cookie == b"-" else cookie))  # the first answer gives the request's id as cookie
        first, first_failure = key not in met, failed and key not in unlucky
        met.add(key)
        if failed:
            unlucky.add(key)
        return first or first_failure
