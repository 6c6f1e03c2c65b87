"""Shares of users where nothing deals single requests: a share is one of the instances behind one address. Pure.

The rules:
- each fleet is at full size, and stays it; a share is how many instances of each are called at that time;
- never are fewer called than the smaller of the two fleets has: no step costs capacity;
- of all numbers with the same share the largest are taken, so that stable leaves the address as late as can be;
- a step is what was asked for if it lies within a tenth of it; other steps cannot be had with so many instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rebake.core.units import FULL

TOLERANCE = 10
"""A share may be off by one part in so many."""


@dataclass(frozen=True, slots=True)
class Deal:
    """How many instances of each fleet are called."""

    stable: int
    candidate: int

    @property
    def share(self) -> int:
        """The candidate's, basis points."""
        return round(FULL * self.candidate / max(1, self.stable + self.candidate))


@lru_cache(maxsize=4096)
def deal(share_basis_points: int, stable: int, candidate: int) -> Deal:
    """What comes nearest to a share without going far above it; above it only where nothing else can be had.

    Args:
        share_basis_points: the candidate's; any number, 0 and less is nobody.
        stable, candidate: instances of each fleet.

    >>> [deal(share, 4, 4) for share in (2000, 2500, 5000, 7500)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [Deal(stable=4, candidate=1), Deal(stable=3, candidate=1), Deal(stable=4, candidate=4), Deal(stable=1, candidate=3)]
    >>> deal(100, 4, 4).share, deal(0, 4, 4), deal(10_000, 4, 4), deal(5000, 0, 2)
    (2000, Deal(stable=4, candidate=0), Deal(stable=0, candidate=4), Deal(stable=0, candidate=2))
    """
    if share_basis_points <= 0:
        return Deal(stable, 0)
    if share_basis_points >= FULL or stable <= 0 or candidate <= 0:
        return Deal(0, candidate) if candidate > 0 else Deal(stable, 0)
    found = _deals(share_basis_points, stable, candidate)
    most = share_basis_points * (TOLERANCE + 1) / TOLERANCE
    near = [one for one in found if one.share <= most]
    if not near:
        return Deal(stable, 1)
    return min(near, key=lambda one: (_off(one, share_basis_points), -one.stable - one.candidate))


def _deals(share: int, stable: int, candidate: int) -> list[Deal]:
    """For each number of the candidate's instances, those of stable that come nearest."""
    least, found = min(stable, candidate), []
    for ours in range(1, candidate + 1):
        fitting = ours * (FULL - share) // share
        for theirs in (fitting - 1, fitting, fitting + 1):
            bounded = min(max(theirs, 1, least - ours), stable)
            found.append(Deal(bounded, ours))
    return found


def _off(one: Deal, share: int) -> float:
    whole = one.stable + one.candidate
    return abs(one.candidate * FULL - share * whole) / whole


def fits(share_basis_points: int, stable: int, candidate: int) -> bool:
    """Whether a share can be had, but for a tenth of it.

    >>> [fits(share, 4, 4) for share in (100, 2000, 2500, 3000, 3300, 5000, 9500)]
    [False, True, True, False, True, True, False]
    """
    had = deal(share_basis_points, stable, candidate).share
    return abs(had - share_basis_points) * TOLERANCE <= share_basis_points


def neighbours(share_basis_points: int, stable: int, candidate: int) -> list[int]:
    """The shares that can be had next below and above, rising, basis points.

    >>> neighbours(3000, 4, 4), neighbours(500, 4, 4), neighbours(9500, 4, 4)
    ([2500, 3333], [2000], [8000])
    """
    known = {one.share for one in _deals(share_basis_points, stable, candidate)}
    below = max((one for one in known if one < share_basis_points), default=None)
    above = min((one for one in known if one > share_basis_points), default=None)
    return [one for one in (below, above) if one is not None]
