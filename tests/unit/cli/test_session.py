"""What a command does when the agent goes away in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rebake.cli import agent_process
from rebake.cli.client import AgentLost
from rebake.cli.session import AWAY_SECONDS, Session
from rebake.core.home import Home
from rebake.errors import Transient
from rebake.testing.simulated import ManualClock


class Line:
    """A client whose agent dies before its first answers."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.asked: list[Mapping[str, Any] | None] = []

    def call(self, _method: str, _target: str, doc: Mapping[str, Any] | None = None, **_more: Any) -> Any:
        self.asked.append(doc)
        if len(self.asked) <= self.deaths:
            raise AgentLost("agent.sock")
        return {"answer": len(self.asked)}


Open = Callable[[int], tuple[Session, Line]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Home]:
    """Homes whose agent was started."""
    found: list[Home] = []
    monkeypatch.setattr(agent_process, "start", found.append)
    return found


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.delenv("REBAKE_SERVER", raising=False)

    def opened(deaths: int) -> tuple[Session, Line]:
        session, line = Session(Home(tmp_path)), Line(deaths)
        monkeypatch.setattr(session, "_client", line)
        return session, line

    return opened


def test_what_may_be_repeated_is_asked_for_again_in_the_same_words(open_session: Open, started: list[Home]) -> None:
    session, line = open_session(1)
    assert session.post("/v1/rollouts", {"id": "r-01k9zq3m2hxr"}, repeatable=True) == {"answer": 2}
    assert line.asked == [{"id": "r-01k9zq3m2hxr"}] * 2
    assert len(started) == 1


def test_what_may_have_acted_is_not_repeated(open_session: Open, started: list[Home]) -> None:
    session, line = open_session(1)
    with pytest.raises(AgentLost):
        session.post("/v1/environments/shop/production/approve", {"requested_by": "ann"})
    assert len(line.asked) == 1
    assert not started


class Replicas:
    """A team's server: what it tells a watch, one reply after the other; an error ends a reply, the last one stays."""

    def __init__(self, *replies: list[Any]) -> None:
        self.replies = list(replies)

    def lines(self, _target: str) -> Iterator[Any]:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        for one in reply:
            if isinstance(one, Exception):
                raise one
            yield one


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Replicas], Iterator[Any]]:
    monkeypatch.setenv("REBAKE_SERVER", "https://rebake.example")
    monkeypatch.setenv("REBAKE_TOKEN", "5ec7e7" * 8)
    clock = ManualClock()

    def opened(replicas: Replicas) -> Iterator[Any]:
        session = Session(Home(tmp_path), now=clock.now, pause=clock.advance)
        monkeypatch.setattr(session, "_client", replicas)
        return session.follow("r-01k9zq3m2hxr", "ended")

    return opened


def test_a_watch_goes_on_at_the_next_replica(watch: Callable[[Replicas], Iterator[Any]]) -> None:
    away = Transient("server-away", "the server cannot be reached: Connection refused")
    refused = [[away] for _ in range(20)]
    seen = watch(Replicas([{"state": "holding"}, AgentLost("server")], *refused, [{"ended": True}]))
    assert list(seen) == [{"state": "holding"}, {"ended": True}]


def test_a_watch_of_a_server_that_stays_away_ends_and_says_so(watch: Callable[[Replicas], Iterator[Any]]) -> None:
    pauses = watch(Replicas([Transient("server-away", "Connection refused")]))
    with pytest.raises(Transient) as ended:
        next(pauses)
    assert ended.value.code == "server-away"
    assert AWAY_SECONDS >= 15, "another replica leads by then"
