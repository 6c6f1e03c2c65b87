"""SIGKILL to the agent at random instants of a scheduled job: no due time is run twice, and no run is cut off."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from rebake.tour.load import Load
from tests.torture.ground import Findings, Ground
from tests.torture.kills import AT_ONCE, QUICK, STEPS, Course, torment

JOB = """\
import os, pathlib, signal, sys, time

TEXT = {text!r}
me, place = os.environ["REBAKE_INSTANCE"], pathlib.Path(os.environ["REBAKE_DATA"])
def told(*_):
    (place / f"told-{{me}}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
(place / f"begun-{{me}}").touch(exist_ok=False)
{fail}
time.sleep(0.4)
(place / f"done-{{me}}").touch()
"""
FILE = """\
service: shop
bake: {{builder: files}}
run:
  kind: job
  command: [{python}, -u, job.py]
  drain: 20s
environments:
  production:
    platform: local
    schedule: {{every: 1s, timeout: 30s}}
    drift_interval: 1s
    judge: {{min_requests: 1}}
{more}
"""


class Clockwork(Ground):
    """A ground whose service is started by the clock, once a second."""

    def source(self, text: str, *, crash: bool = False, fail_every: int = 0) -> None:
        assert not fail_every, "a job answers nobody"
        self.write("job.py", JOB.format(text=text, fail='sys.exit("no ink")' if crash else ""))

    def describe(self, more: str, **changes: str) -> None:
        self.write("rebake.yaml", FILE.format(python=sys.executable, more=more))

    def crowd(self) -> Sequence[Load]:
        return []

    def settled(self) -> bool:
        """Nothing is under way or asked for; instances come and go with the runs."""
        with self._ledger() as ledger:
            asked = ledger.list("command")
        found = self.all_remembered()
        return not asked and not any(e.rollout or e.queue or e.leaving or e.stable is None for e in found)

    def healthy(self) -> int:
        return len(self.instances())

    def marks(self, what: str) -> set[str]:
        found = (self.home / "data" / "shop" / "production").glob(f"{what}-*")
        return {path.name.removeprefix(f"{what}-") for path in found}

    def broken(self) -> list[str]:
        """Due times that were run twice, and runs that ended in the middle though nobody told them to finish."""
        notes: list[Mapping[str, Any]] = [e.body for e in self.entries() if e.kind == "note" and "run" in e.body]
        begun = [str(note["run"]) for note in notes if "fleet" in note]
        slots = Counter(str(note["slot"]) for note in notes if "fleet" in note)
        over = {str(note["run"]): note for note in notes if "outcome" in note}
        found = [f"the slot {slot} is run {count} times" for slot, count in slots.items() if count > 1]
        found += [f"{name} ran, and the ledger does not know it" for name in sorted(self.marks("begun") - set(begun))]
        called_done = {name for name, note in over.items() if note["outcome"] == "done"}
        found += [f"{name} is called done, and is not" for name in sorted(called_done - self.marks("done"))]
        cut = self.marks("begun") & {n for n, note in over.items() if note["outcome"] == "failed"} - self.marks("told")
        return found + [f"{name} was cut off: {json.dumps(over[name])}" for name in sorted(cut & self._good())]

    def _good(self) -> set[str]:
        """Runs whose release ends well by itself."""
        known = {e.id: e.revision.release for env in self.all_remembered() for e in (env.stable, *env.previous) if e}
        return {name for name in self.marks("begun") if name.rpartition("-")[0] in known}


class ClockCourse(Course):
    """What a team asks of a job."""

    site: Any

    def episodes(self) -> Sequence[Callable[[], None]]:
        return self.good, self.stopped, self.steps, self.back, self.crash, self.undone, self.superseded

    def good(self) -> None:
        self._release(QUICK if self.chance.random() < 0.5 else AT_ONCE)
        self._expect("promoted")

    def crash(self) -> None:
        self._release(STEPS.replace("300ms", "10m"), crash=True)
        self._expect("rolled-back")

    def demanded(self) -> Sequence[str]:
        broken: list[str] = self.site.broken()
        return broken


def run(kills: int, seed: int, *, seconds: float = inf, say: Callable[[str], None] = lambda _text: None) -> Findings:
    """See `kills.torment`."""
    return torment("kills of the agent of a job", Clockwork, ClockCourse, kills, seed, seconds=seconds, say=say)
