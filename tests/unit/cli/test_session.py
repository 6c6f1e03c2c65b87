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


def test_what_is_asked_for_has_a_name_and_is_asked_for_again_in_the_same_words(
    open_session: Open, started: list[Home]
) -> None:
    session, line = open_session(1)
    assert session.post("/v1/environments/shop/production/approve", {"requested_by": "ann"}) == {"answer": 2}
    first, second = line.asked
    assert first == second
    assert first is not None
    assert str(first["id"]).startswith("q-")
    assert len(started) == 1


def test_who_chose_a_name_keeps_it(open_session: Open) -> None:
    session, line = open_session(0)
    session.post("/v1/rollouts", {"id": "r-01k9zq3m2hxr"})
    assert line.asked == [{"id": "r-01k9zq3m2hxr"}]


class Replicas:
    """A team's server: what it tells, one reply after the other; an error ends a reply, the last one stays."""

    def __init__(self, *replies: list[Any]) -> None:
        self.replies = list(replies)
        self.asked: list[dict[str, Any] | None] = []

    def lines(self, _target: str) -> Iterator[Any]:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        for one in reply:
            if isinstance(one, Exception):
                raise one
            yield one

    def call(self, _method: str, target: str, doc: dict[str, Any] | None = None, **_: Any) -> Any:
        self.asked.append(doc)
        return next(self.lines(target))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Replicas], Session]:
    monkeypatch.setenv("REBAKE_SERVER", "https://rebake.example")
    monkeypatch.setenv("REBAKE_TOKEN", "5ec7e7" * 8)
    clock = ManualClock()

    def opened(replicas: Replicas) -> Session:
        session = Session(Home(tmp_path), now=clock.now, pause=clock.advance)
        monkeypatch.setattr(session, "_client", replicas)
        return session

    return opened


@pytest.fixture
def watch(team: Callable[[Replicas], Session]) -> Callable[[Replicas], Iterator[Any]]:
    return lambda replicas: team(replicas).follow("r-01k9zq3m2hxr", "ended")


def test_what_a_replica_did_not_answer_is_asked_of_the_next_by_the_same_name(
    team: Callable[[Replicas], Session],
) -> None:
    away = Transient("server-away", "the server cannot be reached: Connection refused")
    replicas = Replicas([AgentLost("server")], *[[away] for _ in range(20)], [{"state": "stopped"}])
    assert team(replicas).post("/v1/environments/shop/production/stop", {}) == {"state": "stopped"}
    assert len(replicas.asked) == 22
    assert all(doc == replicas.asked[0] for doc in replicas.asked)


def test_a_server_that_was_never_reached_is_not_waited_for(team: Callable[[Replicas], Session]) -> None:
    replicas = Replicas([Transient("server-away", "Connection refused")])
    with pytest.raises(Transient):
        team(replicas).post("/v1/environments/shop/production/stop", {})
    assert len(replicas.asked) == 1


@pytest.mark.parametrize("code", ["server-away", "ledger-unreachable"])
def test_a_watch_goes_on_at_the_next_replica(watch: Callable[[Replicas], Iterator[Any]], code: str) -> None:
    refused = [[Transient(code, "Connection refused")] for _ in range(20)]
    seen = watch(Replicas([{"state": "holding"}, AgentLost("server")], *refused, [{"ended": True}]))
    assert list(seen) == [{"state": "holding"}, {"ended": True}]


def test_a_watch_of_a_server_that_stays_away_ends_and_says_so(watch: Callable[[Replicas], Iterator[Any]]) -> None:
    pauses = watch(Replicas([Transient("server-away", "Connection refused")]))
    with pytest.raises(Transient) as ended:
        next(pauses)
    assert ended.value.code == "server-away"
    assert AWAY_SECONDS >= 15, "another replica leads by then"
