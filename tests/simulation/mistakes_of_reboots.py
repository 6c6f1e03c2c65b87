"""Mistakes that show after a reboot only: everything that ran is gone at once, and comes up slowly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rebake.rollout import decide as deciding
from rebake.rollout import events
from rebake.testing.simulation import draw

Patch = pytest.MonkeyPatch


def blame_the_candidate_for_a_reboot(patch: Patch) -> None:
    patch.setattr(events, "_coming_back", lambda _look: False)


def count_what_ended_with_its_machine_as_failures(patch: Patch) -> None:
    patch.setattr(deciding, "rebooted", lambda *_: False)


MISTAKES_OF_REBOOTS: dict[Callable[[Patch], None], int] = {
    blame_the_candidate_for_a_reboot: 2500,
    count_what_ended_with_its_machine_as_failures: 2500,
}
"""Each mistake, and the number of seeds within which it must be caught; only those with a reboot are run."""


def has_a_reboot(seed: int) -> bool:
    return any("reboot" in (h.what, h.mode) for h in draw(seed).happenings)
