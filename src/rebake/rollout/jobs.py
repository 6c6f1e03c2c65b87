"""Long effects (preparing a release, checks, looking for drift) beside the ticks.

In memory only: a job that a crash cut off is simply asked for again.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from rebake.errors import RebakeError, Transient
from rebake.rollout.world import Job

Work = Callable[[threading.Event], Job]


class Jobs(Protocol):
    """Runs work once per id, and remembers how it ended until it is forgotten."""

    def start(self, job: str, work: Work, on_end: Callable[[], None]) -> None: ...

    def results(self, prefix: str) -> dict[str, Job]: ...

    def forget(self, prefix: str) -> None:
        """Cancel and forget every job whose id starts with `prefix`."""
        ...


def guarded(work: Work, cancelled: threading.Event) -> Job:
    """Run the work; an error becomes a failed job with all it says."""
    try:
        return work(cancelled)
    except RebakeError as error:
        problem = f"{error.problem} ({error.where})" if error.where else error.problem
        return Job("failed", problem, error.evidence, error.remedy, permanent=not isinstance(error, Transient))
    except Exception as error:
        return Job("failed", f"{type(error).__name__}: {error}", (), "rebake doctor; see agent.log")


class ThreadJobs:
    """Jobs on a small pool of threads. What a call costs does not depend on how many other jobs there are."""

    def __init__(self, threads: int = 4) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rebake-job")
        self._lock = threading.Lock()
        self._names: list[str] = []  # sorted
        self._jobs: dict[str, Job] = {}
        self._cancels: dict[str, threading.Event] = {}

    def start(self, job: str, work: Work, on_end: Callable[[], None]) -> None:
        with self._lock:
            if job in self._jobs:
                return
            cancelled = self._cancels[job] = threading.Event()
            self._jobs[job] = Job("running")
            insort(self._names, job)

        def run() -> None:
            result = guarded(work, cancelled)
            with self._lock:
                if self._cancels.get(job) is cancelled:
                    self._jobs[job] = result
            on_end()

        self._pool.submit(run)

    def results(self, prefix: str) -> dict[str, Job]:
        with self._lock:
            return {name: self._jobs[name] for name in self._found(prefix)}

    def forget(self, prefix: str) -> None:
        with self._lock:
            found = self._found(prefix)
            for name in found:
                self._cancels.pop(name).set()
                del self._jobs[name]
            first = bisect_left(self._names, prefix)
            del self._names[first : first + len(found)]

    def _found(self, prefix: str) -> list[str]:
        """Names that start so; they stand side by side. With the lock held."""
        first = end = bisect_left(self._names, prefix)
        while end < len(self._names) and self._names[end].startswith(prefix):
            end += 1
        return self._names[first:end]

    def close(self) -> None:
        self.forget("")
        self._pool.shutdown(wait=False, cancel_futures=True)
