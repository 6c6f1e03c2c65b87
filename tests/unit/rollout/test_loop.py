"""The loop looks at every environment when it is due, and at once when it is woken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from rebake.errors import Transient
from rebake.rollout.loop import Loop
from rebake.testing.simulated import ManualClock

DEADLINE_SECONDS = 20.0


@dataclass
class Ticks:
    """What a loop looked at; each look asks for the next one `again` seconds later."""

    clock: ManualClock
    again: float
    seen: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def tick(self, key: str) -> float:
        with self.changed:
            self.seen.append(key)
            self.changed.notify_all()
        if key == "failing":
            raise Transient("away", "nobody answers", retry_after_seconds=0.1)
        return self.clock.now() + self.again

    def wait(self, met: Callable[[list[str]], bool]) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: met(self.seen), DEADLINE_SECONDS)


def _run(ticks: Ticks, keys: list[str]) -> Loop:
    loop = Loop(ticks.tick, ticks.clock, threads=2)
    loop.start(keys)
    return loop


def test_what_was_planned_by_a_clock_that_was_set_back_is_due() -> None:
    """Otherwise an environment would not be looked at for as long as the clock was set back."""
    ticks = Ticks(ManualClock(), again=5.0)
    loop = _run(ticks, ["a", "b"])
    assert ticks.wait(lambda seen: {"a", "b"} <= set(seen))
    ticks.clock.at -= 3600
    ticks.seen.clear()
    loop.wake("c")
    assert ticks.wait(lambda seen: {"a", "b", "c"} <= set(seen))
    loop.close()


def test_a_look_that_fails_keeps_no_other_from_its_turn() -> None:
    ticks = Ticks(ManualClock(), again=1000.0)
    loop = _run(ticks, ["failing"])
    assert ticks.wait(lambda seen: "failing" in seen)
    loop.wake("a")
    assert ticks.wait(lambda seen: "a" in seen)
    loop.close()
