from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError

from rebake.core.home import Home
from rebake.errors import Permanent, RebakeError, Transient, UsageError
from rebake.ledger.database import DatabaseLedger, open_ledger, schema, spans
from rebake.ledger.database.engine import make_engine
from rebake.ledger.database.faults import translate
from rebake.ledger.database.statements import after_prefix
from rebake.ledger.ports import Draft, Put, Verification

Tamper = Callable[[str], None]


def _draft(number: int) -> Draft:
    return Draft("intent", "shop", "production", f"r{number}", {"number": number})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Home(tmp_path / "home").database


@pytest.fixture(params=["by one process", "by several"])
def ledger(path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[DatabaseLedger]:
    """Whatever is found of a chain is found by one process, and by several."""
    if request.param == "by several":
        monkeypatch.setattr(spans, "WORTH_ENTRIES", 1)
        monkeypatch.setattr(spans, "processes", lambda: 2)
    ledger = open_ledger(path)
    ledger.commit([_draft(n) for n in range(1, 7)], at=1.0)
    yield ledger
    ledger.close()


@pytest.fixture
def tamper(ledger: DatabaseLedger, path: Path) -> Tamper:
    """Change the file behind the ledger's back, as somebody with the sqlite3 program can."""

    def run(script: str) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(script)
        connection.close()

    return run


def _problems(found: Verification) -> list[tuple[int, str]]:
    return [(fault.seq, fault.problem.partition(":")[0]) for fault in found.faults]


def test_an_edited_body_is_found(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper('UPDATE entries SET body = \'{"number":3,"by":"nobody"}\' WHERE seq = 3')
    assert _problems(ledger.verify()) == [(3, "changed")]


def test_a_column_with_another_type_is_found_and_does_not_stop_the_verification(
    ledger: DatabaseLedger, tamper: Tamper
) -> None:
    tamper("UPDATE entries SET at_ms = 'never' WHERE seq = 2; UPDATE entries SET body = x'ff' WHERE seq = 4")
    assert _problems(ledger.verify()) == [(2, "changed"), (4, "changed")]


@pytest.mark.parametrize("column", ["at_ms", "kind", "service", "environment", "rollout", "body", "previous", "hash"])
def test_the_same_bytes_of_another_type_are_found_in_every_column(
    ledger: DatabaseLedger, tamper: Tamper, column: str
) -> None:
    tamper(f"UPDATE entries SET {column} = CAST({column} AS BLOB) WHERE seq = 3")
    assert (3, "changed") in _problems(ledger.verify())


def test_a_deleted_row_is_found(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper("DELETE FROM entries WHERE seq = 3")
    assert _problems(ledger.verify()) == [(3, "missing")]


def test_swapped_rows_are_found(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper(
        "UPDATE entries SET seq = 99 WHERE seq = 2; UPDATE entries SET seq = 5 - 3 WHERE seq = 5;"
        "UPDATE entries SET seq = 5 WHERE seq = 99"
    )
    assert {(2, "reordered"), (5, "reordered")} <= set(_problems(ledger.verify()))


def test_an_edited_head_is_found(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper("UPDATE head SET hash = 'sha256:' || hex(zeroblob(32))")
    assert [fault.seq for fault in ledger.verify().faults] == [6]


def test_a_truncated_chain_is_found_by_the_head(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper("DELETE FROM entries WHERE seq > 4")
    assert _problems(ledger.verify()) == [(5, "cut off at the end")]


def test_a_chain_truncated_with_its_head_is_found_by_a_hash_kept_elsewhere(
    ledger: DatabaseLedger, tamper: Tamper
) -> None:
    _, kept = ledger.head()
    tamper("DELETE FROM entries WHERE seq > 4;UPDATE head SET seq = 4, hash = (SELECT hash FROM entries WHERE seq = 4)")
    assert ledger.verify().faults == ()
    assert _problems(ledger.verify(expect_head=kept)) == [(4, "cut short or rewritten")]


def test_a_lost_head_stops_writing_instead_of_beginning_a_second_chain(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper("DELETE FROM head")
    with pytest.raises(Permanent) as refused:
        ledger.commit([_draft(7)], at=2.0)
    assert refused.value.code == "ledger-damaged"
    assert [fault.problem for fault in ledger.verify().faults] == ["the stored head is missing"]


def test_an_entry_with_a_broken_body_is_named_when_it_is_read(ledger: DatabaseLedger, tamper: Tamper) -> None:
    tamper("UPDATE entries SET body = '{' WHERE seq = 3")
    with pytest.raises(Permanent, match="entry 3 was changed") as refused:
        ledger.entries()
    assert refused.value.code == "ledger-damaged"


def test_a_commit_is_flushed_to_the_disk_before_it_returns(ledger: DatabaseLedger) -> None:
    with ledger._reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_full_disk_is_said_and_leaves_a_whole_chain(path: Path) -> None:
    engine = make_engine(path)
    event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count=60").close())
    ledger = DatabaseLedger(engine)

    def fill() -> None:
        for number in range(500):
            ledger.commit([_draft(number)], [Put("log", str(number), {"text": "x" * 5000})], at=1.0)

    with pytest.raises(Permanent) as refused:
        fill()
    assert refused.value.code == "disk-full"
    assert refused.value.remedy
    found = ledger.verify()
    assert found.faults == ()
    assert found.entries == len(ledger.list("log")) > 0
    ledger.close()


def test_a_database_that_may_not_be_written_says_so_and_is_still_read(ledger: DatabaseLedger, path: Path) -> None:
    engine = make_engine(path)
    event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA query_only=ON").close())
    reader = DatabaseLedger(engine)
    assert reader.verify().entries == 6
    with pytest.raises(Permanent) as refused:
        reader.commit([_draft(7)], at=1.0)
    assert refused.value.code == "store-read-only"
    reader.close()


def test_a_writer_that_another_program_keeps_waiting_is_told_to_try_again(path: Path, ledger: DatabaseLedger) -> None:
    engine = make_engine(path)
    event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=20").close())
    waiting = DatabaseLedger(engine)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Transient) as refused:
        waiting.commit([_draft(7)], at=1.0)
    assert refused.value.code == "ledger-busy"
    assert waiting.head()[0] == 6, "readers do not wait for writers"
    other.execute("ROLLBACK")
    other.close()
    assert waiting.commit([_draft(7)], at=1.0)[0].seq == 7
    waiting.close()


@pytest.mark.parametrize("content", [b"this is no database, but a letter to the reader " * 100])
def test_a_file_that_is_no_database_is_said_to_be_damaged(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Permanent) as refused:
        open_ledger(path)
    assert refused.value.code == "ledger-damaged"
    assert str(path) in str(refused.value.remedy)
    assert path.read_bytes() == content, "left as it was found"


def test_a_file_with_overwritten_pages_is_said_to_be_damaged(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.commit([_draft(n) for n in range(2000)], at=1.0)
    ledger.close()
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xaa" * (len(data) - 8192)
    path.write_bytes(bytes(data))
    with pytest.raises(Permanent) as refused:
        open_ledger(path).verify()
    assert refused.value.code == "ledger-damaged"


def test_a_folder_that_cannot_be_made_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Permanent) as refused:
        open_ledger(tmp_path / "file" / "state.db")
    assert refused.value.code == "ledger-unavailable"
    assert "state.db" in str(refused.value.where)


def test_a_disk_that_is_full_is_called_so_whatever_the_database_calls_it() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    told = translate(error, "there")
    assert told.code == "disk-full"
    assert "the disk is full" in told.problem
    assert "while the agent runs, `rebake gc`" in (told.remedy or "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), "disk-full"),
        (OSError(30, "Read-only file system"), "store-read-only"),
        (TimeoutError("QueuePool limit"), "ledger-busy"),
        (sqlite3.OperationalError("Could not decode to UTF-8 column"), "ledger-damaged"),
        (RuntimeError("connection refused"), "ledger-unreachable"),
    ],
)
def test_errors_without_a_code_of_the_database_are_translated_too(error: Exception, code: str) -> None:
    assert translate(error, "there").code == code


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("53100", "disk-full"),
        ("25006", "store-read-only"),
        ("40001", "ledger-busy"),
        ("55P03", "ledger-busy"),
        ("08006", "ledger-unreachable"),
        ("57P01", "ledger-unreachable"),
        ("XX001", "ledger-damaged"),
        ("42P01", "ledger-unavailable"),
    ],
)
def test_postgresql_states_are_translated(state: str, code: str) -> None:
    error = RuntimeError("said by the server")
    error.sqlstate = state  # type: ignore[attr-defined]
    assert translate(error, "there").code == code


def test_the_file_is_its_owners_alone(ledger: DatabaseLedger, path: Path) -> None:
    modes = {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_codes_list_of_migrations_is_alembics(path: Path) -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(schema._MIGRATIONS))
    assert [revision.revision for revision in script.walk_revisions()][::-1] == list(schema.REVISIONS)
    assert script.get_heads() == [schema.REVISIONS[-1]]


def test_the_migrations_make_the_tables_that_the_code_uses(ledger: DatabaseLedger) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from rebake.ledger.database.tables import METADATA

    with ledger._reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_database_of_a_newer_rebake_is_refused_untouched(path: Path, tamper: Tamper) -> None:
    tamper("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Permanent) as refused:
        open_ledger(path)
    assert refused.value.code == "database-newer"
    assert "upgrade" in str(refused.value.remedy)


def test_a_migration_that_fails_half_way_leaves_nothing_behind(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE leases (x)")  # the last table of the migration is already there
    connection.commit()
    with pytest.raises(RebakeError):
        open_ledger(path)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables == {"leases"}


def test_several_first_users_at_once_make_one_database(path: Path) -> None:
    barrier, failures = threading.Barrier(4), []

    def first_use() -> None:
        barrier.wait(timeout=30)
        try:
            ledger = open_ledger(path)
            ledger.commit([_draft(0)], at=1.0)
            ledger.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=first_use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    ledger = open_ledger(path)
    assert ledger.verify().entries == 4
    ledger.close()


def test_whoever_is_refused_the_log_because_another_is_about_to_write_asks_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses WAL on the spot then, without regard to its time for waiting."""
    path.parent.mkdir(parents=True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def the_other_ends(seconds: float) -> None:
        waits.append(seconds)
        other.close()

    monkeypatch.setattr("rebake.ledger.database.engine.time.sleep", the_other_ends)
    ledger = open_ledger(path)
    assert len(waits) == 1
    ledger.commit([_draft(0)], at=1.0)
    ledger.close()


def test_opening_an_up_to_date_ledger_does_not_load_alembic(ledger: DatabaseLedger, path: Path) -> None:
    script = (
        "import sys; from rebake.ledger.database import open_ledger; l = open_ledger(sys.argv[1]);"
        "print(l.head()[0], 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["6", "False"]


def test_the_pure_rooms_of_the_ledger_do_not_load_sqlalchemy() -> None:
    script = "import sys, rebake.ledger.chain, rebake.ledger.ports; print('sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_a_path_and_its_url_are_the_same_ledger(ledger: DatabaseLedger, path: Path) -> None:
    for where in (str(path), f"sqlite:///{path}", os.path.relpath(path)):
        same = open_ledger(where)
        assert same.head() == ledger.head()
        same.close()


@pytest.mark.parametrize("where", ["mysql://u@h/d", "://", "postgresql://h:port/d"])
def test_a_url_that_is_no_ledger_is_refused_without_showing_it(where: str) -> None:
    with pytest.raises(UsageError) as refused:
        make_engine(where)
    assert refused.value.code == "database-url"


def test_after_a_prefix_comes_the_next_code_point_that_is_text() -> None:
    assert after_prefix("a") == "b"
    assert after_prefix("a\ud7ff") == "a\ue000"
    assert after_prefix("a\U0010ffff\U0010ffff") == "b"


def test_only_what_a_power_cut_may_take_back_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path / "state.db")) as ledger:
        levels = list[int]()

        def note(connection: Any) -> None:
            levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())

        event.listen(ledger._engine, "commit", note)
        ledger.commit([Draft("note", "shop", "production", None, {})], at=1.0)
        ledger.commit([], [Put("judging", "r-1", {})], at=1.0, durable=False)
        ledger.lease("shop/production", "me", at=1.0, ttl_seconds=15.0)
        ledger.commit([], [Put("environment", "shop/production", {})], at=1.0)
        assert levels == [2, 1, 1, 2]  # Source: SQLite manual, PRAGMA synchronous: 1 is NORMAL, 2 is FULL
