"""Work that takes long enough for whoever waits to want to know how far it is."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Protocol


class Counting(Protocol):
    """Work that tells how much of it is done."""

    def __call__(self, *, progress: Any) -> Any: ...


class Slow:
    """A call on a thread of its own, begun at once.

    Attributes:
        count: how much the call said was done.
    """

    def __init__(self, call: Counting) -> None:
        self.count = 0
        self._call = call
        self._future: Future[Any] = Future()
        self._ended = threading.Event()
        threading.Thread(target=self._work, name="rebake-slow", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after this long at most."""
        return self._ended.wait(seconds)

    def result(self) -> Any:
        """What the call gave, once it has ended. Raises: what the call raised."""
        return self._future.result(0)

    def _work(self) -> None:
        try:
            self._future.set_result(self._call(progress=self._note))
        except BaseException as error:
            self._future.set_exception(error)
        finally:
            self._ended.set()

    def _note(self, count: int) -> None:
        self.count = count
