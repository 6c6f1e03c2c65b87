"""When a scheduled job is due. Pure; moments are seconds since the epoch.

Rules:
- A *slot* is a moment that the schedule names. `every` names each multiple of it, counted from the epoch in UTC; `cron`
  names what a crontab(5) line does, by the clock on the wall of its zone.
- Where clocks are set on, a slot in the hour that is left out comes right after it; where they are set back, a slot at
  a fixed time comes once, one that comes every hour or more often comes in both.

Source: cron(8) of Debian, "DAYLIGHT SAVING TIME", as cronsim follows it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from rebake.rollout.gates import zone_of
from rebake.rollout.plan import Schedule

FIELDS = 5
"""Of a cron line: minute, hour, day of the month, month, day of the week."""


def mistake_in(cron: str) -> str | None:
    """What is wrong with a cron line; None when nothing is.

    >>> mistake_in("*/5 * * * *"), mistake_in("61 * * * *"), mistake_in("* * *")
    (None, 'Bad minute', 'expected 5 fields, found 3')
    """
    count = len(cron.split())
    if count != FIELDS:
        return f"expected {FIELDS} fields, found {count}"
    try:
        next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        return str(error)
    except StopIteration:
        return "it names no moment within 50 years"
    return None


def following(schedule: Schedule, at: float) -> float | None:
    """The first slot after a moment; None when there is none."""
    if schedule.every_ms:
        return (at * 1000 // schedule.every_ms + 1) * schedule.every_ms / 1000
    found = next(CronSim(schedule.cron, _wall(schedule, at)), None)
    return None if found is None else found.timestamp()


def latest(schedule: Schedule, at: float) -> float | None:
    """The last slot at or before a moment; None when there is none."""
    if schedule.every_ms:
        return at * 1000 // schedule.every_ms * schedule.every_ms / 1000
    wall = _wall(schedule, at)
    back = CronSim(schedule.cron, wall.replace(microsecond=wall.microsecond or 1), reverse=True)
    return next((found.timestamp() for found in back if found.timestamp() <= at), None)


def _wall(schedule: Schedule, at: float) -> datetime:
    return datetime.fromtimestamp(at, zone_of(schedule.zone))
