"""SIGKILL to the agent at random instants of a worker's rollouts: no piece of work is cut off or left half done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from rebake.tour.load import Load
from tests.torture.ground import Findings, Ground
from tests.torture.kills import Course, torment

WORKER = """\
import os, pathlib, signal, sys, time

TEXT = {text!r}
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
{crash}
me, place = os.environ["REBAKE_INSTANCE"], pathlib.Path(os.environ["REBAKE_DATA"], "pieces")
place.mkdir(exist_ok=True)
number = 0
while not told:
    number += 1
    piece = place / f"{{me}}@{{number}}"
    piece.touch()
    time.sleep(0.2)
    piece.unlink()
    (place.parent / f"done-{{me}}").write_text(str(number))
"""
FILE = """\
service: shop
bake: {{builder: files}}
run:
  kind: worker
  command: [{python}, -u, worker.py]
  health: {{interval: 300ms}}
  drain: 20s
environments:
  production:
    platform: local
    instances: 2
    drift_interval: 1s
    judge: {{min_requests: 2}}
{more}
"""


class Workshop(Ground):
    """A ground whose service nobody calls: each worker does one piece of work after the other."""

    def source(self, text: str, *, crash: bool = False, fail_every: int = 0) -> None:
        assert not fail_every, "a worker answers nobody"
        self.write("worker.py", WORKER.format(text=text, crash='sys.exit("no table")' if crash else ""))

    def describe(self, more: str, **changes: str) -> None:
        self.write("rebake.yaml", FILE.format(python=sys.executable, more=more))

    def crowd(self) -> Sequence[Load]:
        return []

    def half_done(self) -> list[str]:
        """Pieces in the hands of instances that are no more."""
        alive = set(self.instances().values())
        found = (self.home / "data" / "shop" / "production" / "pieces").glob("*@*")
        return sorted(piece.name for piece in found if piece.name.partition("@")[0] not in alive)


class WorkCourse(Course):
    """What a team asks of a worker."""

    site: Any

    def episodes(self) -> Sequence[Callable[[], None]]:
        return self.good, self.stopped, self.steps, self.back, self.crash, self.undone, self.superseded

    def demanded(self) -> Sequence[str]:
        cut = self.site.half_done()
        return [f"half done by workers that are gone: {cut}"] if cut else ()


def run(kills: int, seed: int, *, seconds: float = inf, say: Callable[[str], None] = lambda _text: None) -> Findings:
    """See `kills.torment`."""
    return torment("kills of the agent of workers", Workshop, WorkCourse, kills, seed, seconds=seconds, say=say)
