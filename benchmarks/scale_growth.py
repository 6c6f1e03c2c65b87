"""Memory over many finished rollouts: `python -m benchmarks.scale_growth ROLLOUTS` prints what each one left behind.

The real engine, judge and ledger (SQLite, in memory where the system has a folder for that, since only what the engine
keeps is on trial) over the light world; the clock is moved by hand, so that it is over soon.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.scale_engine import HERE, environment, memory_kib
from benchmarks.scale_world import LightPlatform, LightRouter
from rebake.core.codec import dump
from rebake.ledger.database import open_ledger
from rebake.ledger.ports import Ledger, Put
from rebake.rollout.engine import Engine, Ports
from rebake.rollout.plan import Strategy
from rebake.rollout.world import Command, Rollout
from rebake.testing.simulated import InlineJobs, ManualClock, simulated_release

FAST = Strategy("canary", steps=(5000,), hold_ms=500)


class Line:
    """One environment in which one rollout follows the other."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.clock = ledger, ManualClock()
        platform, self.router = LightPlatform(self.clock), LightRouter(self.clock)
        first = environment(0)
        platform.adopt(first)
        ledger.commit([], [Put("environment", first.key, dump(first))], at=self.clock.now())
        self.key = first.key
        self.router.visited.add(self.key)
        routers, places = {"light": self.router}, {"light": HERE}
        parts = ({"light": platform}, routers, InlineJobs(), self.clock, simulated_release, "home:p-bench", places)
        self.engine = Engine(Ports(ledger, *parts))
        self.number = 0

    def roll_out(self) -> None:
        """Begin one rollout and look until it is over."""
        stable, now = self.engine.memory(self.key).environment.stable, self.clock.now()
        assert stable is not None
        self.number += 1
        revision = replace(stable.revision, release=f"sha256:{self.number % 1000:064x}")
        plan = replace(stable.plan, strategy=FAST, soak_ms=1000)
        rollout = Rollout(f"r-{self.number:08}", "deploy", revision, plan, "ann", now)
        command = Command(f"c-{self.number:08}", "begin", "ann", now, rollout)
        self.ledger.commit([], [Put("command", f"{self.key}/{command.id}", dump(command))], at=now)
        until = now + 3600
        self.engine.tick(self.key)
        while self.engine.memory(self.key).environment.rollout is not None:
            assert self.clock.now() < until, "a rollout does not end"
            self.clock.advance(0.25)
            self.engine.tick(self.key, asked=False)
        self.clock.advance(60)  # an hour of users is remembered: sixty rollouts of it


def _kib(line: Line, rollouts: int) -> int:
    for _ in range(rollouts):
        line.roll_out()
    gc.collect()
    return memory_kib("Private_Dirty")


def main(rollouts: int) -> float:
    """KiB that each rollout left behind, after the first fifth of them."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as folder, closing(open_ledger(Path(folder, "state.db"))) as ledger:
        line = Line(ledger)
        first = rollouts // 5
        before = _kib(line, first)
        return (_kib(line, rollouts - first) - before) / (rollouts - first)


if __name__ == "__main__":
    print(json.dumps({"kib_a_rollout": main(int(sys.argv[1]))}))
