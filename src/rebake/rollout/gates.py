"""Gates in time: windows in which users may be moved, and freezes in which nothing is moved. Pure; `now` is handed in.

Rules:
- A window is open while the clock on the wall of its zone shows a time within it, on one of its days. So an hour that a
  clock skips is skipped, one that it shows twice counts twice, and a window that ends at or before it begins goes on
  past midnight, into the day after one of its days.
- Of several windows one that is open is enough; of several freezes one that is in force is enough.
- They hold what moves users on: the beginning, the first user, each step and the end of a hold-back. Never what moves
  them back: stop, undo and whatever finds harm pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rebake.core.clock import iso
from rebake.rollout.plan import Plan, Window
from rebake.rollout.world import Freeze

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_DAYS = 9
"""A window opens on some day of the week: within so many days, whatever its first day is."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Why users are not moved on now, and until when; None: nobody knows.

    Attributes:
        frozen: by a freeze, not by a window.
    """

    why: str
    until: float | None
    frozen: bool


def closed(plan: Plan, freezes: Sequence[Freeze], now: float) -> Closed | None:
    """What holds a rollout of this plan now; None when it may go on. A freeze is named before a window."""
    frozen = _frozen(plan, freezes, now)
    if frozen is not None or not plan.window or is_open(plan.window, now):
        return frozen
    until = opens_at(plan.window, now)
    opens = "which does not open again" if until is None else f"which opens at {iso(until)}"
    return Closed(f"outside of its window ({'; '.join(told(w) for w in plan.window)}), {opens}", until, False)


def _frozen(plan: Plan, freezes: Sequence[Freeze], now: float) -> Closed | None:
    found = [
        Closed(f"frozen by {f.by} until {iso(f.until)}: {f.reason}", f.until, True) for f in freezes if now < f.until
    ]
    found += [
        Closed(f"frozen by rebake.yaml until {iso(f.until)}: {f.reason}", f.until, True)
        for f in plan.freeze
        if f.since <= now < f.until
    ]
    return max(found, key=lambda c: c.until or 0.0, default=None)


def told(window: Window) -> str:
    """
    >>> told(Window((0, 1, 2, 3), 540, 960, "Europe/Berlin")), told(Window(closes=1440))
    ('mon, tue, wed, thu 09:00-16:00 Europe/Berlin', 'every day 00:00-24:00 UTC')
    """
    days = "every day" if len(set(window.days)) == 7 else ", ".join(DAYS[d % 7] for d in window.days)
    return f"{days} {_spelled(window.opens)}-{_spelled(window.closes)} {window.zone}"


def _spelled(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@lru_cache(maxsize=256)
def zone_of(name: str) -> tzinfo | None:
    """The time zone of this name; None when this machine knows none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def is_open(windows: Sequence[Window], now: float) -> bool:
    return any(_shows(window, now) for window in windows)


def _shows(window: Window, now: float) -> bool:
    """Whether the clock on the wall shows a time within the window. One in a zone that nobody knows is never open."""
    zone = zone_of(window.zone)
    if zone is None:
        return False
    local = datetime.fromtimestamp(now, zone)
    minute, today, before = local.hour * 60 + local.minute, local.weekday(), (local.weekday() - 1) % 7
    if window.opens < window.closes:
        return today in window.days and window.opens <= minute < window.closes
    return (today in window.days and minute >= window.opens) or (before in window.days and minute < window.closes)


def opens_at(windows: Sequence[Window], now: float) -> float | None:
    """When the first of the windows opens next, while all are closed; None when none does."""
    return _opens_after(tuple(windows), now // 60 * 60)  # they open on whole minutes: one answer holds for a minute


@lru_cache(maxsize=256)
def _opens_after(windows: tuple[Window, ...], now: float) -> float | None:
    moments = sorted(m for window in windows for m in _moments(window, now) if m > now)
    return next((moment for moment in moments if is_open(windows, moment)), None)


def _moments(window: Window, now: float) -> Iterator[float]:
    """Every moment at which a window may open: its time on each day, and when the clock is set forward or back."""
    zone = zone_of(window.zone)
    if zone is None:
        return
    today = datetime.fromtimestamp(now, zone).date()
    for n in range(_MOST_DAYS):
        day = today + timedelta(n)
        opening = datetime.combine(day, time(window.opens // 60 % 24, window.opens % 60), zone)
        yield from (opening.timestamp(), opening.replace(fold=1).timestamp())
        yield from _set_at(day, zone)


def _set_at(day: date, zone: tzinfo) -> Iterator[float]:
    """When the clock is set on this day, to the second."""
    first, last = (round(datetime.combine(d, time(), zone).timestamp()) for d in (day, day + timedelta(1)))
    before = _offset(first, zone)
    if before == _offset(last, zone):
        return
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if _offset(middle, zone) == before else (first, middle)
    yield float(last)


def _offset(at: float, zone: tzinfo) -> timedelta | None:
    return datetime.fromtimestamp(at, zone).utcoffset()
