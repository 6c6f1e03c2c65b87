"""The command line against a team's server: over TLS, with a token, and never with an agent of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Terminal
from tests.cli.fake import FakeApplication, served

from rebake.cli.remote import remote_from
from rebake.core.home import Home
from rebake.errors import UsageError
from rebake.server.wanted import Wanted
from rebake.testing.registry_server import Certificate

TOKEN = "c0ffee" * 8


@pytest.fixture
def server(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApplication]:
    """A server in a home of its own, which this command line is told of."""
    tls = Certificate.make(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ada {TOKEN}\n")
    fake = FakeApplication()
    with served(tmp_path / "far", fake, Wanted("127.0.0.1:0", tls.file, tls.key, tokens)) as agent:
        monkeypatch.setenv("REBAKE_SERVER", agent.urls[0])
        monkeypatch.setenv("REBAKE_TOKEN", TOKEN)
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.file))
        yield fake
    assert not home.agent_log.exists(), "an agent was started here"


def test_reading_and_acting_go_to_the_server(server: FakeApplication, terminal: Terminal) -> None:
    assert terminal("status", "production", "--json").doc["service"] == "guestbook"
    stopped = terminal("stop", "production")
    assert stopped.code == 0, stopped.err
    verb, _, _, document = server.calls[-1]
    assert verb == "stop"
    assert document["requested_by"].startswith("ada, who says ")
    assert document["from_afar"] is True


def test_the_dashboard_is_for_the_machine_of_the_server(server: FakeApplication, terminal: Terminal) -> None:
    refused = terminal("dashboard")
    assert (refused.code, "server-only-there" in refused.err) == (4, True)


def test_agent_commands_mean_this_machine(server: FakeApplication, terminal: Terminal) -> None:
    assert terminal("agent", "status", "--json").doc["running"] is False


def test_a_wrong_token_says_whom_to_ask(
    server: FakeApplication, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBAKE_TOKEN", "d" * 32)
    refused = terminal("status")
    assert (refused.code, "server-token" in refused.err, "d" * 32 in refused.err) == (4, True, False)


def test_the_token_may_stand_in_a_file(
    server: FakeApplication, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REBAKE_TOKEN")
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("REBAKE_TOKEN_FILE", str(tmp_path / "token"))
    assert terminal("status").code == 0
    monkeypatch.setenv("REBAKE_TOKEN_FILE", str(tmp_path / "none"))
    assert "no-token" in terminal("status").err


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    server: FakeApplication, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    refused = terminal("status")
    assert (refused.code, "server-not-trusted" in refused.err) == (2, True), refused.err
    assert server.calls == []


def test_a_server_that_is_away_is_said_to_be_and_no_agent_is_started(
    home: Home, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBAKE_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("REBAKE_TOKEN", TOKEN)
    away = terminal("status")
    assert (away.code, "server-away" in away.err) == (5, True), away.err
    assert not home.agent_log.exists()


@pytest.mark.parametrize(
    "said", ["rebake.example", "http://rebake.example:8443", "https://", "https://h:x", "ftp://h", "https://h/path"]
)
def test_an_address_that_would_show_the_token_or_is_none_is_refused(said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        remote_from({"REBAKE_SERVER": said, "REBAKE_TOKEN": TOKEN})
    assert refusal.value.code == "wrong-server"


def test_addresses() -> None:
    def at(said: str) -> str:
        return str(remote_from({"REBAKE_SERVER": said, "REBAKE_TOKEN": TOKEN}))

    assert at("https://rebake.example") == "https://rebake.example:443"
    assert at("https://rebake.example:8443/") == "https://rebake.example:8443"
    assert at("http://[::1]:8080") == "http://[::1]:8080"
    assert remote_from({}) is None
    assert TOKEN not in repr(remote_from({"REBAKE_SERVER": "https://h", "REBAKE_TOKEN": TOKEN}))


@pytest.mark.parametrize("token", ["", "two\nlines", "ünicode"])
def test_no_token_is_said_before_anything_is_sent(token: str) -> None:
    with pytest.raises(UsageError) as refusal:
        remote_from({"REBAKE_SERVER": "https://h", "REBAKE_TOKEN": token})
    assert refusal.value.code == "no-token"


def test_a_server_wants_a_supervisor(home: Home, terminal: Terminal) -> None:
    refused = terminal("agent", "start", "--probes", "127.0.0.1:0")
    assert (refused.code, "server-in-foreground" in refused.err) == (2, True)
