"""Which environments an engine may act on: reading and writing down the home that has each one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from rebake.core.clock import Clock
from rebake.core.codec import dump, load
from rebake.ledger.ports import Draft, Fence, Ledger, Put
from rebake.rollout import places
from rebake.rollout.sharing import frugal
from rebake.rollout.world import Environment, Place


class Homes:
    """The environments of one ledger, as one home may use them.

    Args:
        here: by platform, the home that it acts in; a platform that is the same from everywhere has none, and its
            environments may be acted on by every engine.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, owner: str, here: Mapping[str, Place], lease_seconds: float
    ) -> None:
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
        environment = frugal(load(Environment, doc))
        here = self._here.get(places.platform_of(environment) or "")
        if here is not None and self.elsewhere(environment) is None:
            return replace(environment, place=here)  # this home may go by another name now
        return environment

    def settle(self, key: str, platform: str) -> Environment | None:
        """The environment, written down as being where its platform acts unless it is somewhere else. Two homes never
        both have it.

        Args:
            platform: what is about to be deployed there is for.
        Returns: None while another engine holds its lease: ask again.
        Raises: UsageError `environment-elsewhere`.
        """
        with self._settling:
            found = self._settled(key, platform)
            if found is not None:
                return found
            now = self._clock.now()
            seconds = self._lease_seconds
            fence = self._ledger.lease(key, self._owner, at=now, ttl_seconds=seconds, reason="takes it in")
            if fence is None:
                return None
            found = self._settled(key, platform)  # another home may have come first
            return found if found is not None else self._take(key, platform, fence, now)

    def _settled(self, key: str, platform: str) -> Environment | None:
        environment = self.recall(key)
        if environment is None:
            return None
        place = self.elsewhere(environment)
        if place is not None and not places.is_vacant(environment):
            raise places.refusal(environment, place)
        moves = environment.place != self._here.get(platform) and places.is_vacant(environment)
        return None if moves else environment

    def _take(self, key: str, platform: str, fence: Fence, now: float) -> Environment:
        """Write down that an environment nobody has is here, or bound to no home."""
        service, _, name = key.partition("/")
        here = self._here.get(platform)
        environment = replace(self.recall(key) or Environment(service, name), place=here, platform=platform)
        notes = [] if here is None else [Draft("note", service, name, None, {"home": dump(here)})]
        self._ledger.commit(notes, [Put("environment", key, dump(environment))], at=now, fence=fence)
        return environment
