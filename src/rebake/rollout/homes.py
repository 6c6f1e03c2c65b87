"""Which environments an engine may act on: reading and writing down the home that has each one."""

from __future__ import annotations

import threading
from dataclasses import replace

from rebake.core.clock import Clock
from rebake.core.codec import dump, load
from rebake.ledger.ports import Draft, Fence, Ledger, Put
from rebake.rollout import places
from rebake.rollout.world import Environment, Place


class Homes:
    """The environments of one ledger, as the home `here` may use them.

    Args:
        here: None where platforms are the same from everywhere; then every environment may be acted on.
    """

    def __init__(self, ledger: Ledger, clock: Clock, owner: str, here: Place | None, lease_seconds: float) -> None:
        self._ledger, self._clock, self._owner = ledger, clock, owner
        self._here = here
        self._lease_seconds = lease_seconds
        self._settling = threading.Lock()

    def elsewhere(self, environment: Environment) -> Place | None:
        """The home that has an environment, when it is not this one."""
        return places.elsewhere(environment, self._here)

    def recall(self, key: str) -> Environment | None:
        """The environment as the ledger knows it; None when it does not."""
        doc = self._ledger.get("environment", key)
        if doc is None:
            return None
        environment = load(Environment, doc)
        if self._here is not None and self.elsewhere(environment) is None:
            return replace(environment, place=self._here)  # this home may go by another name now
        return environment

    def settle(self, key: str) -> Environment | None:
        """The environment, written down as being here unless it is somewhere else. Two homes never both have it.

        Returns: None while another engine holds its lease: ask again.
        Raises: UsageError `environment-elsewhere`.
        """
        with self._settling:
            found = self._settled(key)
            if found is not None:
                return found
            now = self._clock.now()
            seconds = self._lease_seconds
            fence = self._ledger.lease(key, self._owner, at=now, ttl_seconds=seconds, reason="takes it in")
            if fence is None:
                return None
            found = self._settled(key)  # another home may have come first
            return found if found is not None else self._take(key, fence, now)

    def _settled(self, key: str) -> Environment | None:
        environment = self.recall(key)
        place = None if environment is None else self.elsewhere(environment)
        if environment is None or place is None:
            return environment
        if not places.is_vacant(environment):
            raise places.refusal(environment, place)
        return None

    def _take(self, key: str, fence: Fence, now: float) -> Environment:
        """Write down that an environment nobody has is here."""
        service, _, name = key.partition("/")
        environment = replace(self.recall(key) or Environment(service, name), place=self._here)
        notes = [] if self._here is None else [Draft("note", service, name, None, {"home": dump(self._here)})]
        self._ledger.commit(notes, [Put("environment", key, dump(environment))], at=now, fence=fence)
        return environment
