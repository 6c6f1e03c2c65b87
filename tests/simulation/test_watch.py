"""The watch itself: what it allows, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from rebake.testing.simulation.keeping import Keeping
from rebake.testing.simulation.scenario import KEY, Scenario
from rebake.testing.simulation.world import Reality

SHORT: dict[str, Any] = {
    "stable": {"id": "r-1", "plan": {"instances": 2}, "failures": [], "good_at": 0.0, "pending": {}},
    "rollout": None,
}


@pytest.mark.parametrize(("passes_on", "missed"), [(None, True), (5, False)])
def test_who_takes_the_lease_over_has_just_begun_to_look_after_it(passes_on: int | None, missed: bool) -> None:
    """An engine that is gone holds its lease for a while, and the one that follows can do nothing in that time."""
    reality, said = Reality(Scenario(1, 1, 2, ())), list[str]()
    keeping = Keeping(reality, lambda _promise, sentence: said.append(sentence))
    reality.ledger.lease(KEY, "engine-1", at=reality.clock.at, ttl_seconds=3.0)
    for look in range(12):
        if look == passes_on:
            assert reality.ledger.lease(KEY, "engine-0", at=reality.clock.at, ttl_seconds=15.0) is not None
        keeping.looked("engine-0", SHORT, reality.wall.now() + 0.1)
        reality.clock.advance(0.8)
    assert bool(said) is missed
