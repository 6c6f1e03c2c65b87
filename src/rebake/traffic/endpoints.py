"""Endpoints of a service from the paths that users ask for: ids folded, and never more than a few of them. Pure.

A path that carries an id (`/orders/17`) is one endpoint with all its like (`/orders/{id}`). What is an id is decided by
its look alone: numbers, UUIDs, hexadecimal digests, dates, and long words with digits in them.

However many paths there are, a service has at most `MOST_ENDPOINTS`; the rest is `(other)`. Rules:
- a path must be met `SIGHTINGS` times, and answered by something else than "no such thing" (404, 405), before it
  counts as an endpoint: scanners and typing errors take no place from the service's own;
- an endpoint that nobody asked for in the last hour gives its place up when another one needs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

OTHER = "(other)"
MOST_ENDPOINTS = 64
SIGHTINGS = 3
IDLE_SECONDS = 3600
MOST_SEGMENTS = 6
LONGEST_SEGMENT = 40
_WAITING = 512
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
_ID = re.compile(
    r"[0-9][0-9.,:_+-]*"  # numbers, dates, addresses
    r"|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}"  # digests
    r"|(?=[A-Za-z_~=-]*[0-9])[A-Za-z0-9_~=-]{16,}"  # tokens
    r"|[a-z]{1,5}[-_](?=[a-zA-Z]*[0-9])[0-9a-zA-Z]{6,}"  # user_9f3k2x1c
)
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]*")


def fold(method: str, path: str) -> str:
    """The endpoint of one request, such as `GET /orders/{id}`. Never raises; the result is short and printable.

    >>> fold("GET", "/orders/17/items/9f86d081884c7d65?page=2")
    'GET /orders/{id}/items/{id}'
    >>> fold("POST", "/v2/users"), fold("BREW", "/pot")
    ('POST /v2/users', 'OTHER /pot')
    """
    verb = method if method in _METHODS else "OTHER"
    segments = path.partition("?")[0].partition("#")[0].split("/", MOST_SEGMENTS + 1)
    folded = [_folded(s) for s in segments[: MOST_SEGMENTS + 1]]
    if len(segments) > MOST_SEGMENTS + 1:
        folded.append("{…}")
    return f"{verb} {'/'.join(folded) or '/'}"


def _folded(segment: str) -> str:
    if len(segment) > LONGEST_SEGMENT or _ID.fullmatch(segment):
        return "{id}"
    return segment if _PLAIN.fullmatch(segment) else "{…}"


class Endpoints:
    """The endpoints of one service that are told apart by now.

    Args:
        known: names from an earlier `names`, so that a restarted reader tells the same ones apart.
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._seen: dict[str, int] = dict.fromkeys(known[:MOST_ENDPOINTS], 0)
        self._waiting: dict[str, int] = {}

    @property
    def names(self) -> list[str]:
        return list(self._seen)

    def name(self, folded: str, status: int, second: int) -> str:
        """What a request is counted as: `folded`, or `(other)`.

        Args:
            status: of its answer; 0 when there was none.
            second: when it finished, seconds since the epoch.
        """
        if folded in self._seen:
            self._seen[folded] = second
            return folded
        return folded if status not in (404, 405) and self._admitted(folded, second) else OTHER

    def _admitted(self, folded: str, second: int) -> bool:
        sightings = self._waiting.get(folded, 0) + 1
        if len(self._waiting) >= _WAITING:
            self._waiting.clear()  # a flood of paths that nobody asks for twice
        self._waiting[folded] = sightings
        if sightings < SIGHTINGS or not self._has_room(second):
            return False
        del self._waiting[folded]
        self._seen[folded] = second
        return True

    def _has_room(self, second: int) -> bool:
        if len(self._seen) < MOST_ENDPOINTS:
            return True
        idle = min(self._seen, key=self._seen.__getitem__)
        if second - self._seen[idle] < IDLE_SECONDS:
            return False
        del self._seen[idle]
        return True
