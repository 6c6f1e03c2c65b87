"""What an engine does: the actions of a look that are due, each with its token, and how each went. Part of the shell.

Everything here was written down before. An action can be repeated; one that was tried a moment ago waits for its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from rebake.errors import LedgerConflict, Permanent, PlatformError, RebakeError, Transient
from rebake.ledger.ports import Draft, Fence
from rebake.platforms.ports import Platform
from rebake.rollout.actions import Action, ApplyRoute, Launch, Prepare, RemoveRoute, Retire, RunCheck
from rebake.rollout.checks import run_check
from rebake.rollout.jobs import Work
from rebake.rollout.memory import Attempt, Memory, Ports
from rebake.rollout.observing import Observer
from rebake.rollout.world import Job
from rebake.rollout.writing import entry, under_way

STALE_SECONDS = 2.0
"""A look that is older than this is not believed when an instance is to be ended, or the route to be written."""

_AGAIN_SECONDS: Mapping[type, float] = {ApplyRoute: 1.0, RemoveRoute: 1.0, Retire: 0.5, Launch: 5.0}
"""A repeated action is sent again no sooner than this: the world needs a moment to show it."""


class Actor:
    """Does what was decided.

    Args:
        fence: the lease of an environment, renewed. Raises where another engine holds it.
        wake: asks for another look at an environment, when a job has ended.
    """

    def __init__(
        self,
        ports: Ports,
        observer: Observer,
        fence: Callable[[Memory, float], Fence],
        wake: Callable[[str], None],
    ) -> None:
        self.ports = ports
        self._observer = observer
        self._fence = fence
        self._wake = wake

    def act(self, memory: Memory, actions: Sequence[Action]) -> bool:
        """Do what was recorded; then record how it went."""
        outcomes: list[Draft] = []
        left = False
        for action in actions:
            attempt = memory.attempts.get(action.id)
            now = self.ports.clock.now()
            if attempt is not None and attempt.at <= now < attempt.next_at:
                continue
            if isinstance(action, ApplyRoute | RemoveRoute | Retire) and self._outdated(memory, now):
                left = True
                continue
            self._fence(memory, now)  # between two actions this process may have stood still for longer than its lease
            if isinstance(action, ApplyRoute):
                _forget_other_routes(memory, action.id)
            error = self._try(memory, action)
            again = _AGAIN_SECONDS.get(type(action), 5.0)
            if isinstance(error, Transient):
                again = error.retry_after_seconds
            said = None if error is None else error.problem
            if attempt is None or attempt.error != said:
                outcomes.append(self._outcome(memory, action, error))
            memory.attempts[action.id] = Attempt(now, now + again, said)
        if outcomes:
            self.ports.ledger.commit(outcomes, at=self.ports.clock.now(), fence=memory.fence)
        return bool(outcomes) or left

    def _outdated(self, memory: Memory, now: float) -> bool:
        """Whether others are healthy now than when this look began, long ago (the store was slow, or another effect):
        what takes something away from users is decided anew then, on what is so now."""
        if now - memory.looked_at < STALE_SECONDS:
            return False
        seen, _ = self._observer.instances(memory)
        return {i.id for i in seen if i.healthy} != {i.id for i in memory.world.instances if i.healthy}

    def _outcome(self, memory: Memory, action: Action, error: RebakeError | None) -> Draft:
        body: dict[str, Any] = {"action": action.id, "ok": error is None}
        if error is not None:
            body |= {"error": error.code, "problem": error.problem, "where": error.where}
        return entry(memory.environment, "outcome", under_way(memory.environment), body)

    def _try(self, memory: Memory, action: Action) -> RebakeError | None:
        try:
            self._do(memory, action)
        except LedgerConflict:
            raise  # this engine leads no more: what it decided is void
        except RebakeError as error:
            if isinstance(error, Permanent):
                problem = f"{error.problem} ({error.where})" if error.where else error.problem
                memory.blocked[action.id] = (problem, error.remedy)
            return error
        memory.blocked.pop(action.id, None)
        return None

    @staticmethod
    def _token(memory: Memory) -> Fence | None:
        """What every effect carries: whoever is asked for it late, after a successor acted, refuses."""
        return memory.fence

    def _do(self, memory: Memory, action: Action) -> None:
        environment = memory.environment
        key, platform, fence = environment.key, self.ports.platform_of(environment), self._token(memory)
        router = self.ports.router_of(environment)
        if isinstance(action, RunCheck):
            self._start(key, action.id, lambda cancelled: _check(platform, action, cancelled))
        elif platform is None or router is None:
            return
        elif isinstance(action, ApplyRoute):
            router.apply(action.route, fence=fence)
        elif isinstance(action, RemoveRoute):
            router.remove(environment.service, environment.environment, fence=fence)
        elif isinstance(action, Launch):
            platform.launch(action.spec, fence=fence)
        elif isinstance(action, Retire):
            platform.retire(action.instance, action.grace_ms, fence=fence)
        elif isinstance(action, Prepare):
            digest = action.release

            def prepare(_cancelled: threading.Event) -> Job:
                platform.prepare(self.ports.release(digest), lambda _line: None)
                return Job("done")

            self._start(key, action.id, prepare)

    def _start(self, key: str, job: str, work: Work) -> None:
        self.ports.jobs.start(job, work, lambda: self._wake(key))


def _check(platform: Platform | None, action: RunCheck, cancelled: threading.Event) -> Job:
    """Run a check where its instances can be reached from here."""
    if platform is None or not action.urls:
        return run_check(action.check, action.urls, cancelled)
    try:
        with platform.reach([urlsplit(url).netloc for url in action.urls]) as near:
            return run_check(action.check, [f"http://{address}" for address in near], cancelled)
    except PlatformError as error:
        problem = f"{error.problem} ({error.where})" if error.where else error.problem
        return Job("failed", problem, tuple(error.evidence), error.remedy)


def _forget_other_routes(memory: Memory, action: str) -> None:
    """Going back to a route that was applied a moment ago is a new action, not a repeated one."""
    for name in [n for n in memory.attempts if n.startswith("route:") and n != action]:
        del memory.attempts[name]
    for name in [n for n in memory.blocked if n.startswith("route:") and n != action]:
        del memory.blocked[name]
