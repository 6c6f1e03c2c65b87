"""What instances without a route did, as trials for the judge: instance-seconds, and the failures among them.

Nobody deals work to a worker by a share that is known beforehand, so the judge bets on which fleet a failure falls on
with the share of the live instance-time that the candidate really had. The rules:
- a trial is one second of one live instance;
- a failure is an instance that ended with another exit code than 0 or by a signal, that never became healthy, or whose
  health check began to fail; one that turned sick and then ended failed once;
- each is counted once, by the name of its instance, also after the engine was killed: what failed is remembered with
  the fleet, what was counted with the evidence;
- time in which nobody looked is no evidence: of a longer pause `MOST_SECONDS` count.

The bound on false alarms holds as far as instances that live at the same time meet the same work; it is weaker than
that of drawn requests, and verdicts say so. Source: JUDGE.md section 1, Weight check (realised counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rebake.judge.samples import Arm
from rebake.platforms.model import Instance
from rebake.rollout.shares import instances_at
from rebake.rollout.world import Environment, Fleet

TICK_SECONDS = 1.0
MOST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Worked:
    """One tick.

    Attributes:
        weight: the candidate's share of the live instance-time, 0 to 1.
        stable, candidate: instance-seconds and failures.
        since, until: seconds since the epoch.
    """

    weight: float
    stable: Arm
    candidate: Arm
    since: float
    until: float


@dataclass(slots=True)
class Work:
    """What is not judged yet. Times in seconds since the epoch; pairs are stable's and the candidate's.

    Attributes:
        at, since: the latest look, and where the tick under way began.
        lived: instance-seconds since then.
        owed: instance-seconds that earlier ticks left over, or took in advance for a failure.
        failed: failures since then.
        known: failures that are counted already.
    """

    at: float | None = None
    since: float = 0.0
    lived: tuple[float, float] = (0.0, 0.0)
    owed: tuple[float, float] = (0.0, 0.0)
    failed: tuple[int, int] = (0, 0)
    known: tuple[str, ...] = ()

    def look(self, environment: Environment, instances: Sequence[Instance], now: float) -> Worked | None:
        """Take in one look at both fleets; a tick when one is full."""
        fleets = (environment.stable, environment.candidate)
        found = [_failures(fleet) for fleet in fleets]
        if self.at is None:
            self.at = self.since = now
            self.known = tuple(name for names in found for name in names)
            return None
        seconds = min(max(0.0, now - self.at), MOST_SECONDS)
        lived = [_lived(fleet, instances, seconds, now) for fleet in fleets]
        self.at = now
        self.lived = self.lived[0] + lived[0], self.lived[1] + lived[1]
        fresh = [len(_uncounted(names, self.known)) for names in found]
        self.failed = self.failed[0] + fresh[0], self.failed[1] + fresh[1]
        self.known = tuple(name for names in found for name in names)
        return self._tick(environment, now) if not 0 <= now - self.since < TICK_SECONDS else None

    def _tick(self, environment: Environment, now: float) -> Worked | None:
        lived, failed, since = self.lived, self.failed, self.since
        self.since, self.lived, self.failed = now, (0.0, 0.0), (0, 0)
        if not lived[1] and not failed[1]:
            return None  # the candidate did not live: there is nothing to compare
        stable, candidate = (self._whole(side, lived[side], failed[side]) for side in (0, 1))
        weight = lived[1] / sum(lived) if lived[1] else _intended(environment)
        return Worked(weight, stable, candidate, min(since, now), now)

    def _whole(self, side: int, lived: float, failed: int) -> Arm:
        """Whole instance-seconds; what is left over, or was taken in advance, is settled with the next ticks."""
        owed = self.owed[side] + lived
        count = max(int(owed), failed)
        rest = owed - count
        self.owed = (rest, self.owed[1]) if side == 0 else (self.owed[0], rest)
        return Arm(count, failed, started=0)


def _lived(fleet: Fleet | None, instances: Sequence[Instance], seconds: float, now: float) -> float:
    """Instance-seconds of a fleet in the last `seconds`: none from before an instance was started. One whose start lies
    ahead was started before the clock was set back: it was there all the time."""
    if fleet is None:
        return 0.0
    mine = (i for i in instances if i.fleet == fleet.id and i.state in ("starting", "running"))
    return sum(min(seconds, now - i.started_at) if i.started_at <= now else seconds for i in mine)


def _failures(fleet: Fleet | None) -> list[str]:
    """Names of the failures that a fleet remembers: `INSTANCE`, and `INSTANCE@TIME` for one that turned sick."""
    if fleet is None:
        return []
    return [f.instance for f in fleet.failures if not f.clean] + [f"{i}@{at:.3f}" for i, at in fleet.sick.items()]


def _uncounted(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those not counted yet; an instance that was sick when last looked at does not fail again by ending."""
    sick = {name.partition("@")[0] for name in known}
    return [name for name in names if name not in known and (name not in sick or "@" in name)]


def _intended(environment: Environment) -> float:
    """The share that the candidate was meant to have: for failures of instances that nobody saw alive."""
    rollout, stable = environment.rollout, environment.stable
    if rollout is None or stable is None:
        return 1.0
    count = instances_at(rollout.weight, stable.plan.instances, rollout.plan.instances)
    return count / (count + stable.plan.instances)
