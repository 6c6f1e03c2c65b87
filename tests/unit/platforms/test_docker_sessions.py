"""Health commands as exec sessions: what each end means, and what a slow one costs."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from rebake.errors import Transient
from rebake.platforms.docker.sessions import HealthSessions, Place
from rebake.release.manifest import Health


class Engine:
    """Sessions that end as the test says. `ends`: the exit code of all; None: they run on."""

    def __init__(self) -> None:
        self.ends: int | None = 0
        self.begun: list[str] = []
        self.error: Exception | None = None
        self.gone = False

    def begin_session(self, container: str, command: list[str]) -> str:
        if self.error is not None:
            raise self.error
        self.begun.append(f"{container}: {' '.join(command)}")
        return str(len(self.begun))

    def session(self, exec_id: str) -> dict[str, Any] | None:
        return None if self.gone else {"Running": self.ends is None, "ExitCode": self.ends}


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def sessions(engine: Engine) -> Iterator[HealthSessions]:
    made = HealthSessions(lambda name: Place(engine, name, ["well", "?"]) if name != "gone" else None)
    yield made
    made.close()


def answer(sessions: HealthSessions, instance: str = "w-1", timeout_ms: int = 20) -> str | None:
    told: queue.Queue[str | None] = queue.Queue()
    sessions.ask(instance, Health(path="", command=("well", "?"), timeout_ms=timeout_ms), told.put)
    return told.get(timeout=20)


def test_each_end_has_its_sentence(sessions: HealthSessions, engine: Engine) -> None:
    assert answer(sessions) is None
    assert engine.begun == ["w-1: well ?"]
    engine.ends = 3
    assert answer(sessions) == "health command: exit 3"
    engine.gone = True
    assert answer(sessions) == "health command: its exit code is unknown"
    assert answer(sessions, "gone") == "health command: the instance is gone"
    engine.error = Transient("docker-unreachable", "no Docker engine answers: nobody")
    assert answer(sessions) == "health command: no Docker engine answers: nobody"


def test_a_slow_one_is_told_and_no_other_is_begun_beside_it(sessions: HealthSessions, engine: Engine) -> None:
    engine.ends = None
    assert [answer(sessions) for _ in range(3)] == ["health command: not done within 0.02s"] * 3
    assert len(engine.begun) == 1
    assert answer(sessions, "w-2") == "health command: not done within 0.02s"
    assert len(engine.begun) == 2
    engine.ends = 0
    assert answer(sessions) is None
    assert len(engine.begun) == 3, "the slow one ended, so the question is asked anew"


def test_nothing_is_told_after_the_end(engine: Engine) -> None:
    engine.ends = None
    told: list[str | None] = []
    sessions = HealthSessions(lambda name: Place(engine, name, []))
    sessions.ask("w-1", Health(path="", timeout_ms=60_000), told.append)
    sessions.close()
    sessions.ask("w-1", Health(path="", timeout_ms=60_000), told.append)
    assert told == []
