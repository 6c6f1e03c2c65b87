"""What a command does when the agent goes away in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rebake.cli import agent_process
from rebake.cli.client import AgentLost
from rebake.cli.session import Session
from rebake.core.home import Home


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
