"""Which copy belongs to which user's request: their records joined by the request's id. Pure.

A pair's first word counts: of a copy or an original that had no answer in time, that it was unanswered, whatever
becomes of it later. Either half may come first. A half whose other one does not come (most requests are not copied; a
copy that Envoy itself cut off has no word) is forgotten after a while, and the pair never was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from rebake.judge.samples import Joint, Pairs

Event = Literal["failed", "refused", "unanswered", "redirected", "unfinished"]
Word = Event | Literal["good"]
EVENTS: tuple[Event, ...] = get_args(Event)

MOST_HALVES = 60_000
"""Halves that wait, and ids of pairs: 10 s of 5,000 requests a second. Beyond that the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Half:
    """One side of a pair. Attributes: instance: of the copy, who was to answer it; endpoint, dealt: of the original."""

    is_copy: bool
    word: Word
    fleet: str = ""
    instance: str = ""
    endpoint: str = ""
    dealt: bytes = b""


@dataclass(slots=True)
class _Sum:
    """What is added up to `Pairs`."""

    n: int = 0
    events: dict[Event, list[int]] = field(default_factory=lambda: {event: [0] * 3 for event in EVENTS})
    endpoints: dict[str, list[int]] = field(default_factory=dict)
    instances: set[str] = field(default_factory=set)

    def add(self, copy: Half, original: Half) -> None:
        self.n += 1
        for word, joint in self.events.items():
            _count(joint, copy.word == word, original.word == word)
        endpoint = self.endpoints.setdefault(original.endpoint, [0] * 4)
        endpoint[0] += 1
        failed = endpoint[1:]
        _count(failed, copy.word == "failed", original.word == "failed")
        endpoint[1:] = failed
        self.instances.add(copy.instance)

    def pairs(self) -> Pairs:
        endpoints = {name: (n, *_joint(failed)) for name, (n, *failed) in self.endpoints.items()}
        joint = {word: _joint(counts) for word, counts in self.events.items()}
        return Pairs(self.n, **joint, endpoints=endpoints, instances=tuple(sorted(self.instances)))


def _count(joint: list[int], on_copy: bool, on_original: bool) -> None:
    if on_copy or on_original:
        joint[0 if on_copy and on_original else 1 if on_copy else 2] += 1


def _joint(counts: list[int]) -> Joint:
    return counts[0], counts[1], counts[2]


class Pairing:
    """Joins halves, and adds pairs up by the second in which they became whole and the weights of the original."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, Half | None]] = {}  # None: the pair was whole
        self._sums: dict[tuple[bytes, bytes], dict[str, _Sum]] = {}

    def __bool__(self) -> bool:
        """Whether halves wait that a restarted reader must know again."""
        return bool(self._known)

    def take(self) -> dict[tuple[bytes, bytes], dict[str, Pairs]]:
        """The pairs so far, by second and weights, then by fleet of the copies; counting begins anew."""
        found = {key: {fleet: s.pairs() for fleet, s in sums.items()} for key, sums in self._sums.items()}
        self._sums = {}
        return found

    def add(self, request: bytes, second: bytes, half: Half, limit_ms: int, *, silent: bool) -> None:
        """Take in one half.

        Args:
            request: the id that copy and original share. second: in which its record was written.
            limit_ms: after which a request is unanswered; its other half comes within twice that, or not at all.
            silent: it was counted before.
        """
        now = int(second)
        known = self._known.get(request)
        if known is None:
            self._trim(now - 2 * limit_ms // 1000 - 1)
            self._known[request] = now, half
            return
        other = known[1]
        if other is None or other.is_copy == half.is_copy:
            return
        self._known[request] = now, None
        copy, original = (half, other) if half.is_copy else (other, half)
        if not silent:
            self._sums.setdefault((second, original.dealt), {}).setdefault(copy.fleet, _Sum()).add(copy, original)

    def _trim(self, before: int) -> None:
        """Forget the oldest: those that are late, and those that are too many."""
        while self._known:
            request = next(iter(self._known))
            if self._known[request][0] >= before and len(self._known) < MOST_HALVES:
                return
            del self._known[request]
