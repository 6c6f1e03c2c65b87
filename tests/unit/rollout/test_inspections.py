"""Inspections beside the ticks: each environment once, a hanging one holds up nobody, a failing one ends nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from rebake.errors import Permanent
from rebake.platforms.model import Drift, Instance
from rebake.rollout.inspections import MOST_JOBS, Inspections
from rebake.rollout.jobs import ThreadJobs
from rebake.rollout.world import Environment

DEADLINE = 20.0


class Inspected:
    """A platform of which only inspections are asked."""

    def __init__(self, look: Callable[[str], Sequence[Instance]]) -> None:
        self.look = look

    def inspect(self, service: str, environment: str) -> Sequence[Instance]:
        return self.look(environment)


def place(name: str) -> Environment:
    return Environment("shop", name)


@pytest.fixture
def jobs() -> Iterator[ThreadJobs]:
    with closing(ThreadJobs()) as jobs:
        yield jobs


def test_an_inspection_that_hangs_holds_up_nobody_else(jobs: ThreadJobs) -> None:
    hangs, inspected = threading.Event(), threading.Semaphore(0)

    def look(name: str) -> Sequence[Instance]:
        if name == "hangs":
            assert hangs.wait(DEADLINE)
        else:
            inspected.release()
        return ()

    platform: Any = Inspected(look)
    inspections = Inspections(jobs, lambda _key: None)
    try:
        for name in ("hangs", *(f"place-{number}" for number in range(10))):
            inspections.ask(place(name), platform)
        for _ in range(10):
            assert inspected.acquire(timeout=DEADLINE)
    finally:
        hangs.set()


def test_what_waits_already_is_not_inspected_twice(jobs: ThreadJobs) -> None:
    hangs, seen, done = threading.Event(), list[str](), threading.Event()

    def look(name: str) -> Sequence[Instance]:
        if name.startswith("hangs"):
            assert hangs.wait(DEADLINE)
        elif name == "last":
            done.set()
        seen.append(name)
        return ()

    platform: Any = Inspected(look)
    inspections = Inspections(jobs, lambda _key: None)
    for number in range(MOST_JOBS):
        inspections.ask(place(f"hangs-{number}"), platform)
    for name in ("again", "again", "again", "last"):
        inspections.ask(place(name), platform)
    hangs.set()
    assert done.wait(DEADLINE)
    assert seen.count("again") == 1


def test_drift_is_told_though_the_inspection_before_failed(jobs: ThreadJobs) -> None:
    told, found = list[str](), threading.Event()

    def look(name: str) -> Sequence[Instance]:
        if name == "unreadable":
            raise Permanent("store-unreadable", "the disk refuses")
        if name == "broken":
            raise ValueError("a defect")
        drift = (Drift("file-changed", "app.py"),) if name == "drifted" else ()
        return [Instance(f"{name}-1", name, "", "running", drift=drift)]

    def tell(key: str) -> None:
        told.append(key)
        found.set()

    platform: Any = Inspected(look)
    inspections = Inspections(jobs, tell)
    for name in ("unreadable", "broken", "clean", "drifted"):
        inspections.ask(place(name), platform)
    assert found.wait(DEADLINE)
    assert told == ["shop/drifted"]


def test_nothing_is_remembered_of_inspections_that_ended(jobs: ThreadJobs) -> None:
    ended = threading.Semaphore(0)

    def look(_name: str) -> Sequence[Instance]:
        ended.release()
        return ()

    platform: Any = Inspected(look)
    inspections = Inspections(jobs, lambda _key: None)
    for number in range(50):
        inspections.ask(place(f"place-{number}"), platform)
    for _ in range(50):
        assert ended.acquire(timeout=DEADLINE)
    jobs._pool.shutdown(wait=True)
    assert jobs.results("") == {}
