"""Release groups: what a member may do, by what the others have reached. Pure.

Each member of a group is a rollout of its own environment, decided on by itself; its engine knows of the others only
what they wrote into the ledger: a *mark*, which never falls, and whether they go back. Rules:
- *lockstep*: nobody gives users a step before every other member is ready for that step too. A member with fewer steps
  waits before its last one until all are ready for their last one.
- *ordered*: nobody begins before every member before it was promoted.
- In both, nobody gives up its stable before all have soaked. That is a vote in two rounds: who has soaked says so, and
  still watches; once all have, each gives its word, after which it does not go back by itself; once all have given it,
  each goes on. So no member ends promoted while another is taken back.
- One that goes back, for whatever reason, takes all others back, unless all have given their word.
- A broken stable never blocks its fix: such a member takes its users over without waiting for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from rebake.rollout.route import stages
from rebake.rollout.states import State
from rebake.rollout.world import Mate, Rollout

LAST, PROMOTED, SOAKED, WORD = 1000, 1001, 1002, 1003
"""Marks after the steps: ready for the last one, promoted, soaked, and: I do not go back by myself any more. Before
them a mark is the number of the step that a member is ready for."""


def next_mark(rollout: Rollout) -> int:
    """The mark of the step that comes next."""
    step = rollout.step + 1
    return LAST if step >= stages(rollout.plan.strategy) else max(step, 0)


def reached(rollout: Rollout, mates: Sequence[Mate], mark: int, before: int | None = None) -> bool:
    """Whether every other member (or every one before number `before`) has reached a mark."""
    group = rollout.group
    if group is None:
        return True
    marks = {mate.member: mate.mark for mate in mates}
    others = [n for n in range(len(group.members)) if n != group.me and (before is None or n < before)]
    return all(marks.get(n, -1) >= mark for n in others)


def behind(rollout: Rollout, mates: Sequence[Mate], mark: int, before: int | None = None) -> str:
    """The members that have not reached a mark, for people."""
    group = rollout.group
    if group is None:
        return ""
    marks = {mate.member: mate.mark for mate in mates}
    names = [name for n, name in enumerate(group.members) if n != group.me and (before is None or n < before)]
    numbers = {name: n for n, name in enumerate(group.members)}
    return ", ".join(name for name in names if marks.get(numbers[name], -1) < mark)


def gone_back(rollout: Rollout, mates: Sequence[Mate]) -> Mate | None:
    """The first member that goes back, or ended without being promoted."""
    if rollout.group is None:
        return None
    return next((mate for mate in mates if mate.back is not None and mate.member != rollout.group.me), None)


def going_back(rollout: Rollout) -> str | None:
    """Why this member goes back, or went; None while it does not."""
    back = rollout.state is State.RETURNING or (rollout.over and rollout.state is not State.PROMOTED)
    return rollout.reason if back else None
