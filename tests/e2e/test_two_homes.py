"""Two homes, each with an agent, an edge and instances of its own, on one database."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from rebake.rollout.engine import LEASE_SECONDS
from rebake.testing.postgresql import PostgresqlServer
from rebake.tour.stage import free_ports
from tests.e2e.site import CANARY, Site, alive, until

pytestmark = pytest.mark.real

STAGING = """\
  staging:
    platform: local
    instances: 1
    listen: 127.0.0.1:{port}
    strategy: blue-green
    soak: 0s
"""


@pytest.fixture
def homes(site: Site, postgresql: PostgresqlServer) -> Iterator[tuple[Site, Site]]:
    """The same service, deployed from two homes: production from the first, staging from the second."""
    postgresql.sql("DROP DATABASE IF EXISTS shared WITH (FORCE)")
    postgresql.sql("CREATE DATABASE shared")
    site.environ["REBAKE_DATABASE"] = postgresql.url("shared")
    site.describe(CANARY + STAGING.format(port=free_ports(1)[0]))
    second = copy.copy(site)
    second.home = site.root / "second"
    second.environ = {**site.environ, "REBAKE_HOME": str(second.home)}
    yield site, second
    if second.home.exists():
        second.rebake("down", "staging", "--yes")
        second.rebake("agent", "stop")


def _intents(site: Site, environment: str) -> Counter[str]:
    entries = site.rebake("ledger", "show", "--json", "-e", environment, "-n", "5000").doc["entries"]
    return Counter(e["body"]["action"] for e in entries if e["kind"] == "intent")


def _state(site: Site) -> str | None:
    rollout = site.status()["rollout"]
    return None if rollout is None else str(rollout["state"])


def test_an_environment_is_in_one_home_and_can_be_stopped_from_the_other(homes: tuple[Site, Site]) -> None:
    first, second = homes
    assert first.deploy().code == 0
    seen = second.status()
    assert seen["home"] == {"host": os.uname().nodename, "folder": str(first.home), "here": False}
    assert seen["stable"]["healthy"] is None
    told = second.rebake("status", "production")
    assert f"it is in the home {first.home}" in told.out
    for words in (("logs", "production"), ("drift", "production"), ("deploy", "production")):
        refused = second.rebake(*words)
        assert refused.code == 2, refused.out
        assert "environment-elsewhere" in refused.err
    first.edit('TEXT = "one"', 'TEXT = "two"')
    with first.load(100) as load:
        assert first.rebake("deploy", "production", "--detach").code == 0
        until(lambda: _state(first) in ("holding", "shifting"))
        stopped = second.rebake("stop", "production", "--json")
        report = load.stop()
    assert stopped.code == 0, stopped.err
    assert stopped.doc["last"]["outcome"] == "stopped"
    assert first.status()["last"]["outcome"] == "stopped"
    assert (report.lost, report.errors) == (0, 0)


def test_an_engine_that_stands_still_or_dies_leaves_nothing_done_twice_and_nothing_lost(
    homes: tuple[Site, Site],
) -> None:
    first, second = homes
    assert first.deploy().code == 0
    first.edit('TEXT = "one"', 'TEXT = "two"')
    with first.load(100) as load:
        assert first.rebake("deploy", "production", "--detach").code == 0
        until(lambda: _state(first) in ("holding", "shifting"))
        agent, stopped_at = first.agent, time.monotonic()
        os.kill(agent, signal.SIGSTOP)
        try:
            assert second.rebake("deploy", "staging", "--json").code == 0
            before = second.status()
            until(lambda: time.monotonic() - stopped_at > LEASE_SECONDS + 1, LEASE_SECONDS + 30)
            assert second.status()["rollout"]["state"] == before["rollout"]["state"]
        finally:
            os.kill(agent, signal.SIGCONT)
        first.kill_agent()
        assert not alive(agent)
        assert second.rebake("status").code == 0
        joined = first.deploy()
        report = load.stop()
    assert joined.code == 0, joined.err
    assert (report.lost, report.errors) == (0, 0)
    for environment in ("production", "staging"):
        launches = {action: n for action, n in _intents(second, environment).items() if action.startswith("launch:")}
        assert launches
        assert set(launches.values()) == {1}
    assert second.rebake("ledger", "verify").code == 0
