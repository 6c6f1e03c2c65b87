"""Mistakes of the API server itself, as a test orders them: refusals, lost answers, slow ones, watches that break."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from rebake.testing.kubernetes.access import Attempt
from rebake.testing.kubernetes.status import ApiError
from rebake.testing.kubernetes.store import Store

GATE_SECONDS = 60.0
"""The longest that a gate holds a request, so that a forgotten one ends a test instead of hanging it."""


class Gate:
    """Holds requests until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._arrived = threading.Semaphore(0)

    def open(self) -> None:
        self._open.set()

    def hold(self) -> None:
        self._arrived.release()
        self._open.wait(GATE_SECONDS)

    def wait_for_request(self) -> None:
        """Return when a request stands before it. Raises: TimeoutError."""
        if not self._arrived.acquire(timeout=GATE_SECONDS):
            raise TimeoutError("no request came to the gate")


@dataclass(slots=True)
class Fault:
    """What happens to requests that it fits; empty words fit all.

    Attributes:
        answer: what is answered; without one the connection is closed, and the client never knows.
        after: whether the request takes effect first.
        times: how many requests it still meets.
        gate: where they are held before anything else happens to them.
        passes: let them go on after the gate, as a slow server does.
    """

    verb: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    answer: ApiError | None = None
    after: bool = False
    times: int = 1
    gate: Gate | None = None
    passes: bool = False

    def fits(self, attempt: Attempt) -> bool:
        plural = attempt.resource.plural if attempt.resource else ""
        pairs = (
            (self.verb, attempt.verb),
            (self.resource, plural),
            (self.name, attempt.name),
            (self.subresource, attempt.subresource),
        )
        return self.times > 0 and all(not wanted or wanted == found for wanted, found in pairs)


@dataclass(slots=True)
class Faults:
    """The faults of one server, in the order in which they were ordered."""

    store: Store
    _ordered: list[Fault] = field(default_factory=list)
    _cuts: int = 0

    def add(self, fault: Fault) -> Fault:
        with self.store.changed:
            self._ordered.append(fault)
        return fault

    def clear(self) -> None:
        with self.store.changed:
            self._ordered.clear()

    def take(self, attempt: Attempt) -> Fault | None:
        """The fault that meets this request; counted."""
        with self.store.changed:
            found = next((one for one in self._ordered if one.fits(attempt)), None)
            if found is not None:
                found.times -= 1
            return found

    @property
    def cuts(self) -> int:
        """How often all watches were cut; a watch ends when this is another number than at its begin."""
        return self._cuts

    def cut_watches(self) -> None:
        """Break every open watch, in the middle of its stream."""
        with self.store.changed:
            self._cuts += 1
            self.store.changed.notify_all()
