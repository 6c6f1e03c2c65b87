"""The loop: nobody is looked at twice at once, what is asked for is done at once, and idle looks stay on one thread."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rebake.core.clock import Clock, SystemClock
from rebake.errors import Transient
from rebake.rollout.loop import HANGS_SECONDS, Loop, Tick
from rebake.testing.simulated import ManualClock

LATER = 3600.0
DEADLINE = 20.0


@contextmanager
def running(tick: Tick, *keys: str, clock: Clock | None = None) -> Iterator[Loop]:
    loop = Loop(tick, clock or SystemClock())
    loop.start(keys)
    try:
        yield loop
    finally:
        loop.close()


def test_a_wake_during_a_look_brings_another_look_and_never_two_at_once() -> None:
    began, go_on, again = threading.Event(), threading.Event(), threading.Event()
    inside: list[str] = []

    def tick(key: str, _asked: bool) -> float:
        assert not inside
        inside.append(key)
        (again if began.is_set() else began).set()
        assert go_on.wait(DEADLINE)
        inside.clear()
        return time.time() + LATER

    with running(tick, "shop/a") as loop:
        assert began.wait(DEADLINE)
        loop.wake("shop/a")
        assert not again.is_set()
        go_on.set()
        assert again.wait(DEADLINE)


def test_a_look_that_hangs_holds_up_nobody_else() -> None:
    hangs, others = threading.Event(), threading.Semaphore(0)

    def tick(key: str, _asked: bool) -> float:
        if key == "shop/a":
            assert hangs.wait(DEADLINE)
        else:
            others.release()
        return time.time() + LATER

    with running(tick, "shop/a", "shop/b", "shop/c"):
        try:
            assert others.acquire(timeout=DEADLINE)
            assert others.acquire(timeout=DEADLINE)
        finally:
            hangs.set()


def test_looks_that_are_due_together_are_done_one_after_the_other_by_one_thread() -> None:
    clock = ManualClock()
    threads: set[int] = set()
    first, second = threading.Semaphore(0), threading.Semaphore(0)

    def tick(_key: str, _asked: bool) -> float:
        if clock.now() < moment:
            first.release()
            return moment
        threads.add(threading.get_ident())
        second.release()
        return clock.now() + LATER

    keys, moment = [f"shop/{number}" for number in range(8)], clock.now() + 0.1
    with running(tick, *keys, clock=clock):
        for _ in keys:
            assert first.acquire(timeout=DEADLINE)
        clock.advance(0.1)
        for _ in keys:
            assert second.acquire(timeout=DEADLINE)
    assert len(threads) < 4


def test_a_look_comes_when_it_is_due_and_a_wake_brings_it_forward() -> None:
    seen: list[float] = []
    looked = threading.Semaphore(0)

    def tick(_key: str, _asked: bool) -> float:
        seen.append(time.time())
        looked.release()
        return seen[0] + (0.05 if len(seen) == 1 else LATER)

    with running(tick, "shop/a") as loop:
        assert looked.acquire(timeout=DEADLINE)
        assert looked.acquire(timeout=DEADLINE)
        assert seen[1] >= seen[0] + 0.05
        loop.wake("shop/a")
        assert looked.acquire(timeout=DEADLINE)


def test_a_look_that_fails_is_tried_again_and_ends_nothing() -> None:
    looks: list[str] = []
    done = threading.Event()

    def tick(key: str, _asked: bool) -> float:
        looks.append(key)
        if len(looks) == 1:
            raise ValueError("a defect")
        done.set()
        return time.time() + LATER

    with running(tick, "shop/a"):
        assert done.wait(DEADLINE)
    assert looks == ["shop/a", "shop/a"]


def test_closing_ends_every_thread() -> None:
    looked = threading.Event()

    def tick(_key: str, _asked: bool) -> float:
        looked.set()
        return time.time() + LATER

    with running(tick, "shop/a") as loop:
        assert looked.wait(DEADLINE)
    assert not any(thread.is_alive() for thread in loop._threads)


def test_what_was_planned_by_a_clock_that_was_set_back_is_due() -> None:
    """Otherwise an environment would not be looked at for as long as the clock was set back."""
    clock = ManualClock()
    looked = threading.Semaphore(0)

    def tick(_key: str, _asked: bool) -> float:
        looked.release()
        return clock.now() + LATER

    with running(tick, "shop/a", "shop/b", clock=clock) as loop:
        assert looked.acquire(timeout=DEADLINE)
        assert looked.acquire(timeout=DEADLINE)
        clock.at -= LATER
        loop.wake("shop/c")
        for _ in ("shop/a", "shop/b", "shop/c"):
            assert looked.acquire(timeout=DEADLINE)


def test_the_pulse_tells_looks_failures_and_a_look_that_hangs() -> None:
    began, go_on, done = threading.Event(), threading.Event(), threading.Semaphore(0)

    def tick(key: str, _asked: bool) -> float:
        if key == "shop/a":
            began.set()
            assert go_on.wait(DEADLINE)
        done.release()
        if key == "shop/b":
            raise Transient("ledger-busy", "the ledger is busy")
        return time.time() + LATER

    with running(tick, "shop/a", "shop/b") as loop:
        assert began.wait(DEADLINE)
        assert done.acquire(timeout=DEADLINE)
        before = loop.pulse()
        hanging = dataclasses.replace(before, oldest=("shop/a", HANGS_SECONDS + 1))
        go_on.set()
        assert done.acquire(timeout=DEADLINE)
    assert before.oldest is not None
    assert before.oldest[0] == "shop/a"
    assert before.problem is None
    assert hanging.problem == "a look at shop/a takes 121 s"
    after = loop.pulse()
    assert (after.looks >= 2, after.failed >= 1, after.oldest) == (True, True, None)
    assert after.problem == "a thread of the engine has ended"
