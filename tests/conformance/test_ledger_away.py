"""A PostgreSQL that is away, refuses or may not be written: each has its own sentence, and none shows a password."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import pytest

from rebake.errors import RebakeError
from rebake.ledger.database import DatabaseLedger, open_ledger, place
from rebake.ledger.ports import Draft
from rebake.testing.postgresql import PostgresqlServer

pytestmark = pytest.mark.real

PASSWORD = "hunter2/@x"
WRONG = "corr3ct-horse"


@pytest.fixture
def guarded(postgresql: PostgresqlServer) -> Iterator[Callable[[str], str]]:
    """URLs of one database of a user who needs a password, by the password given."""
    postgresql.sql(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
    postgresql.sql("CREATE DATABASE guarded OWNER guarded")
    yield lambda password: postgresql.url("guarded", "guarded", password)
    postgresql.sql("DROP DATABASE guarded WITH (FORCE)")
    postgresql.sql("DROP ROLE guarded")


def _refused(call: Callable[[], object], code: str) -> RebakeError:
    with pytest.raises(RebakeError) as raised:
        call()
    error = raised.value
    assert error.code == code, error.problem
    assert error.remedy
    assert "\n" not in error.problem
    told = "".join(traceback.format_exception(error)) + str(error.to_json())
    assert PASSWORD not in told
    assert WRONG not in told
    return error


def _note(ledger: DatabaseLedger) -> object:
    return ledger.commit([Draft("note", "shop", "production", None, {})], at=1.0)


def test_a_wrong_password_is_told_and_not_shown(guarded: Callable[[str], str]) -> None:
    open_ledger(guarded(PASSWORD)).close()
    assert "~/.pgpass" in str(_refused(lambda: open_ledger(guarded(WRONG)), "database-refused").remedy)
    beside = guarded("").replace(":@", "@") + f"&password={WRONG}"
    assert "guarded" in str(_refused(lambda: open_ledger(beside), "database-refused").where)


def test_a_database_that_does_not_exist_is_told(postgresql: PostgresqlServer) -> None:
    error = _refused(lambda: open_ledger(postgresql.url("nowhere")), "database-absent")
    assert "CREATE DATABASE" in str(error.remedy)


def test_a_database_that_may_only_be_read_is_told_and_still_read(
    postgresql: PostgresqlServer, guarded: Callable[[str], str]
) -> None:
    ledger = open_ledger(guarded(PASSWORD))
    _note(ledger)
    ledger.close()
    postgresql.sql("ALTER DATABASE guarded SET default_transaction_read_only = on")
    reader = open_ledger(guarded(PASSWORD))
    assert reader.verify().entries == 1
    assert "replica" in str(_refused(lambda: _note(reader), "store-read-only").remedy)
    reader.close()


def test_a_user_without_rights_is_told_who_must_own_the_database(
    postgresql: PostgresqlServer, guarded: Callable[[str], str]
) -> None:
    postgresql.sql("ALTER DATABASE guarded OWNER TO owner")
    postgresql.sql("REVOKE ALL ON SCHEMA public FROM PUBLIC", "guarded")
    error = _refused(lambda: open_ledger(guarded(PASSWORD)), "store-read-only")
    assert "OWNER TO" in str(error.remedy)


def test_a_full_disk_of_the_server_is_told_and_leaves_a_whole_chain(
    postgresql: PostgresqlServer, guarded: Callable[[str], str]
) -> None:
    """The server says it as on a full disk; only why it says so is ours."""
    ledger = open_ledger(guarded(PASSWORD))
    _note(ledger)
    raising = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END"
    postgresql.sql(f"CREATE FUNCTION out_of_space() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$", "guarded")
    postgresql.sql("CREATE TRIGGER out_of_space BEFORE UPDATE ON head EXECUTE FUNCTION out_of_space()", "guarded")
    error = _refused(lambda: _note(ledger), "disk-full")
    assert "database server" in str(error.remedy)
    postgresql.sql("DROP TRIGGER out_of_space ON head", "guarded")
    _note(ledger)
    found = ledger.verify()
    assert (found.entries, found.faults) == (2, ())
    ledger.close()


def test_a_server_that_is_too_old_is_told(guarded: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebake.ledger.database.engine.OLDEST_SERVER", 99_00_00)
    error = _refused(lambda: open_ledger(guarded(PASSWORD)), "database-too-old")
    assert "PostgreSQL 99 or newer" in error.problem


def test_a_server_that_is_away_is_told_and_met_again(
    postgresql: PostgresqlServer, guarded: Callable[[str], str]
) -> None:
    ledger = open_ledger(guarded(PASSWORD))
    _note(ledger)
    postgresql.stop()
    try:
        _refused(lambda: _note(ledger), "ledger-unreachable")
        _refused(lambda: open_ledger(guarded(PASSWORD)), "ledger-unreachable")
    finally:
        postgresql.start()
    _note(ledger)
    found = ledger.verify()
    assert (found.entries, found.faults) == (2, ())
    ledger.close()


def test_a_writer_that_stands_still_inside_a_transaction_does_not_keep_the_others_from_writing(
    postgresql_url: str,
) -> None:
    stopped, other = open_ledger(postgresql_url), open_ledger(postgresql_url)

    def stand_still() -> None:
        with stopped._writing() as connection:
            stopped._locked_head(connection)
            _note(other)  # waits until the server ends the transaction that stands still
            connection.exec_driver_sql("SELECT 1")

    _refused(stand_still, "ledger-unreachable")
    _note(stopped)
    assert other.verify().entries == 2
    stopped.close()
    other.close()


@pytest.mark.parametrize(
    "url",
    ["postgresql://ada:{}@db/rebake", "postgres://ada@db/rebake?password={}", "postgresql+psycopg://ada:{}@db/rebake"],
)
def test_the_place_of_a_ledger_is_named_without_its_password(url: str) -> None:
    assert place(url.format(WRONG)) == "postgresql://ada@db/rebake"


def test_a_connection_that_the_server_forgot_is_made_anew(
    postgresql: PostgresqlServer, guarded: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was not used for a while. One used a moment ago is used unasked: that is told, and then it works."""
    ledger = open_ledger(guarded(PASSWORD))
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'guarded'"
    _note(ledger)
    postgresql.sql(end)
    _refused(ledger.head, "ledger-unreachable")
    assert ledger.head()[0] == 1
    postgresql.sql(end)
    monkeypatch.setattr("rebake.ledger.database.engine.PROVEN_SECONDS", 0.0)
    assert ledger.head()[0] == 1
    _note(ledger)
    assert ledger.head()[0] == 2
    ledger.close()
