"""Looking for drift beside the ticks.

A few jobs share what waits: environments that are due together are inspected one after the other, which costs far less
than a job for each, and one that takes long holds up none of the others.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable

from rebake.errors import RebakeError
from rebake.platforms.ports import Platform
from rebake.rollout.jobs import Jobs
from rebake.rollout.world import Environment, Job

_LOG = logging.getLogger("rebake.engine")

MOST_JOBS = 3
"""At once; each is busy with one environment at a time."""


class Inspections:
    """Environments that wait to be inspected, each at most once.

    Args:
        found: told the environment's key when something there has drifted: it shows in the next observation.
    """

    def __init__(self, jobs: Jobs, found: Callable[[str], None]) -> None:
        self._jobs, self._found = jobs, found
        self._waiting: dict[str, tuple[Environment, Platform]] = {}
        self._numbers = itertools.count(1)
        self._working: set[str] = set()
        self._lock = threading.Lock()

    def ask(self, environment: Environment, platform: Platform) -> None:
        """Have an environment inspected soon. One that waits already is not inspected twice."""
        with self._lock:
            self._waiting[environment.key] = environment, platform
            if len(self._working) >= MOST_JOBS:
                return
            job = f"inspect:{next(self._numbers)}"
            self._working.add(job)
        self._jobs.start(job, lambda ended: self._work(job, ended), lambda: self._end(job))

    def _work(self, job: str, ended: threading.Event) -> Job:
        while not ended.is_set() and (due := self._take(job)) is not None:
            self._inspect(*due)
        return Job("done")

    def _take(self, job: str) -> tuple[Environment, Platform] | None:
        """Who has waited longest. A job that finds nobody has ended: who asks from now on begins another."""
        with self._lock:
            if self._waiting:
                return self._waiting.pop(next(iter(self._waiting)))
            self._working.discard(job)
            return None

    def _inspect(self, environment: Environment, platform: Platform) -> None:
        try:
            seen = platform.inspect(environment.service, environment.environment)
        except RebakeError as error:  # it is inspected again at its next look
            _LOG.debug("%s: not inspected: %s", environment.key, error.problem)
        except Exception:
            _LOG.exception("%s: an inspection failed", environment.key)
        else:
            if any(instance.drift for instance in seen):
                self._found(environment.key)

    def _end(self, job: str) -> None:
        self._jobs.forget(job)
        with self._lock:
            self._working.discard(job)  # also where it was cut short
