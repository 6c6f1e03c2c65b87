"""The ledger in PostgreSQL under the real command line: deploy, lose the server, go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebake.testing.postgresql import PostgresqlServer
from tests.e2e.site import CANARY, Site, alive, until

pytestmark = pytest.mark.real

PASSWORD = "hunter2-of-ada"


@pytest.fixture
def site(site: Site, postgresql: PostgresqlServer) -> Site:
    """The usual site, with its ledger in a database of a user who needs a password."""
    postgresql.sql("DROP DATABASE IF EXISTS ada WITH (FORCE)")
    postgresql.sql("DROP ROLE IF EXISTS ada")
    postgresql.sql(f"CREATE ROLE ada LOGIN PASSWORD '{PASSWORD}'")
    postgresql.sql("CREATE DATABASE ada OWNER ada")
    site.environ["REBAKE_DATABASE"] = postgresql.url("ada", "ada", PASSWORD)
    return site


def test_a_rollout_outlives_a_restart_of_the_database_and_a_kill_of_the_agent(
    site: Site, postgresql: PostgresqlServer
) -> None:
    site.describe(CANARY)
    assert site.deploy().code == 0
    assert not (site.home / "state.db").exists()
    site.edit('TEXT = "one"', 'TEXT = "two"')
    with site.load(100) as load:
        assert site.rebake("deploy", "production", "--detach").code == 0
        until(lambda: (site.status()["rollout"] or {}).get("state") in ("holding", "shifting"))
        postgresql.stop()
        try:
            away = site.rebake("status", "production")
        finally:
            postgresql.start()
        site.kill_agent()
        joined = site.deploy()
        report = load.stop()
    assert away.code == 5
    assert "ledger-unreachable" in away.err
    assert joined.code == 0, joined.err
    assert (report.lost, report.errors) == (0, 0)
    assert site.rebake("ledger", "verify").code == 0
    _no_password_in(site, away.out + away.err + joined.out + joined.err)


def _no_password_in(site: Site, said: str) -> None:
    """Neither said, nor kept in a file of the home, nor handed to a process that was started."""
    assert PASSWORD not in said
    kept = [p for p in site.home.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]
    assert kept == []
    agent = site.agent
    environs = [p for p in site.processes() if p != agent and alive(p)]
    assert environs
    assert [p for p in environs if PASSWORD.encode() in Path(f"/proc/{p}/environ").read_bytes()] == []


def test_the_home_stays_with_its_database(site: Site) -> None:
    assert site.deploy().code == 0
    assert site.rebake("agent", "stop").code == 0
    url = site.environ.pop("REBAKE_DATABASE")
    lost = site.rebake("status", "production")
    assert lost.code == 2
    assert "REBAKE_DATABASE is not set" in lost.err
    assert PASSWORD not in lost.err
    site.environ["REBAKE_DATABASE"] = url.replace(PASSWORD, "wrong-one")
    wrong = site.rebake("status", "production")
    assert wrong.code == 5
    assert "database-refused" in wrong.err
    assert "wrong-one" not in wrong.err
    site.environ["REBAKE_DATABASE"] = url
    assert site.status()["stable"]["healthy"] == 2
