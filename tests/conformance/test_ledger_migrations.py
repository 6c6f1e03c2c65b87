"""A database is migrated while engines of the version before read and write it, and by several engines at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from rebake.ledger.database import DatabaseLedger, open_ledger, schema
from rebake.ledger.database.engine import WRITES, make_engine
from rebake.ledger.ports import Draft

pytestmark = pytest.mark.real

# What rebake 0.1.0 sends at version 0001 of the database, statement by statement. Never to be brought up to date.
EARLIER_ENGINE = """
import sys, time
from sqlalchemy import text
from rebake.ledger import chain
from rebake.ledger.database.engine import WRITES, make_engine
from rebake.ledger.ports import Draft

engine = make_engine(sys.argv[1])
lock = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""
ENTRY = ("INSERT INTO entries (seq, at_ms, kind, service, environment, rollout, body, previous, hash)"
         " VALUES (:seq, :at_ms, :kind, :service, :environment, :rollout, :body, :previous, :hash)")
LEASE = ("INSERT INTO leases (key, owner, token, expires_ms) VALUES (:key, 'earlier', 1, :until)"
         " ON CONFLICT (key) DO UPDATE SET expires_ms = excluded.expires_ms")
number = 0
while True:
    with engine.connect().execution_options(**WRITES) as db, db.begin():
        head = db.execute(text("SELECT seq, hash FROM head WHERE id = 1" + lock)).one()
        db.execute(text(LEASE), {"key": "shop/" + str(number % 7), "until": number})
        found = db.execute(text("SELECT owner, token, expires_ms FROM leases WHERE key = 'shop/0'")).one()
        assert found[:2] == ("earlier", 1)
        (record,) = chain.extend(tuple(head), [Draft("note", "shop", "earlier", None, {"number": number})], number)
        db.execute(text(ENTRY), record._asdict())
        db.execute(text("UPDATE head SET seq = :seq, hash = :hash WHERE id = 1"), record._asdict())
    with engine.connect() as db, db.begin():
        query = "SELECT seq, at_ms, kind, service, environment, rollout, body, previous, hash FROM entries ORDER BY seq"
        rows = db.execute(text(query)).all()
        assert len(rows) == rows[-1].seq
    number += 1
    print(number, flush=True)
    time.sleep(0.002)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "home" / "state.db")
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def stamped(address: str) -> str:
    """A database of the first version, with a few entries in it."""
    engine = make_engine(address)
    with engine.connect().execution_options(**WRITES) as connection, connection.begin():
        schema.migrate(connection, schema.REVISIONS[0])
    engine.dispose()
    return address


@pytest.fixture
def earlier(stamped: str) -> Iterator[subprocess.Popen[str]]:
    """An engine of the version before, at work."""
    command = [sys.executable, "-c", EARLIER_ENGINE, stamped]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _progress(process: subprocess.Popen[str], steps: int) -> int:
    """Wait until it has gone that many steps further."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = ""
    for _ in range(steps):
        line = process.stdout.readline()
        assert line, process.stderr.read()
    return int(line)


def test_an_engine_of_the_version_before_goes_on_through_the_migration(
    earlier: subprocess.Popen[str], stamped: str
) -> None:
    before = _progress(earlier, 10)
    ledger = open_ledger(stamped)  # migrates
    assert _version(ledger) == schema.REVISIONS[-1]
    ledger.commit([Draft("note", "shop", "later", None, {})], at=1.0)
    fence = ledger.lease("shop/later", "later", at=1.0, ttl_seconds=10)
    assert fence is not None
    assert _progress(earlier, 20) >= before + 20, "it writes on"
    earlier.kill()
    earlier.wait()
    found = ledger.verify()
    assert found.faults == ()
    assert found.entries > before + 20
    assert ledger.lease("shop/0", "later", at=1e9, ttl_seconds=10) is not None, "its leases are taken over as any"
    ledger.close()


def test_engines_that_migrate_at_once_migrate_once(stamped: str) -> None:
    code = (
        "import sys; sys.stdin.readline(); from rebake.ledger.database import open_ledger; from rebake.ledger.ports "
        "import Draft; l = open_ledger(sys.argv[1]); l.commit([Draft('note', 's', 'e', None, {})], at=1.0)"
    )
    command = [sys.executable, "-c", code, stamped]
    starting = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in starting:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in starting]
    assert [process.returncode for process in starting] == [0, 0, 0, 0], said
    ledger = open_ledger(stamped)
    assert (ledger.verify().entries, ledger.verify().faults) == (4, ())
    assert _version(ledger) == schema.REVISIONS[-1]
    ledger.close()


def _version(ledger: DatabaseLedger) -> str | None:
    with ledger._reading() as connection:
        return schema.stored_revision(connection)


_ADDS = (
    r"CREATE TABLE \w+",
    r"CREATE INDEX \w+ ON \w+",
    r"ALTER TABLE \w+ ADD COLUMN (?!.*NOT NULL)",
    r"INSERT INTO head \(id, seq, hash\)",
    r"(INSERT INTO|UPDATE) alembic_version",
)


def test_migrations_only_ever_add(address: str) -> None:
    """What a migration sends to the database, watched: anything but an addition would break the version before."""
    from sqlalchemy import event

    engine = make_engine(address)
    sent: list[str] = []
    with engine.connect().execution_options(**WRITES) as connection, connection.begin():
        event.listen(connection, "before_cursor_execute", lambda *said: sent.append(" ".join(said[2].split())))
        schema.migrate(connection)
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    engine.dispose()
    changing = [s for s in sent if not re.match(r"SELECT|PRAGMA|show", s)]
    assert len(changing) >= 10
    assert [s for s in changing if not any(re.match(rule, s) for rule in _ADDS)] == []
