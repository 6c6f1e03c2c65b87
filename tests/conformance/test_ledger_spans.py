"""A long chain verified by several processes, each over a span of it; on SQLite and on PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from rebake.core.home import Home
from rebake.ledger import chain
from rebake.ledger.database import DatabaseLedger, open_ledger, spans
from rebake.ledger.entries import unhashed
from rebake.ledger.ports import Draft

pytestmark = pytest.mark.real

ENTRIES = 30


def _draft(number: int) -> Draft:
    """Also in words that databases quote in other ways."""
    return Draft(
        "intent", "shop", "production", None if number % 3 else f"r-{number}", {"text": '\u00e9 "\\ ' * number}
    )


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseLedger]:
    monkeypatch.setattr(spans, "WORTH_ENTRIES", ENTRIES)
    monkeypatch.setattr(spans, "processes", lambda: 3)
    sqlite = request.param == "SQLite"
    where = Home(tmp_path / "home").database if sqlite else request.getfixturevalue("postgresql_url")
    ledger = open_ledger(where)
    ledger.commit([_draft(n) for n in range(1, ENTRIES + 1)], at=1.0)
    yield ledger
    ledger.close()


def _tamper(ledger: DatabaseLedger, *statements: str) -> None:
    with ledger._writing() as connection:
        for statement in statements:
            connection.execute(text(statement))


def _careful(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries the one careful reader was shown."""
    step_over, shown = chain.Reader.step_over, list[int]()

    def counted(self: chain.Reader, proofs: list[tuple[int, str, str, bytes | None]]) -> bool:
        shown.append(len(proofs))
        return step_over(self, proofs)

    monkeypatch.setattr(chain.Reader, "step_over", counted)
    return shown


def test_what_is_whole_is_found_whole_by_the_processes_alone(
    ledger: DatabaseLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, read = _careful(monkeypatch), list[int]()
    found = ledger.verify(progress=read.append)
    assert (found.entries, found.head, found.faults) == (ENTRIES, ledger.head()[1], ())
    assert shown == []
    assert read[-1] == ENTRIES


@pytest.mark.parametrize("seq", [1, 20, 30])
def test_an_expected_head_is_met_in_whatever_span_it_is(ledger: DatabaseLedger, seq: int) -> None:
    kept = ledger.entries(after=seq - 1, limit=1)[0].hash
    assert ledger.verify(expect_head=kept).faults == ()
    (fault,) = ledger.verify(expect_head="sha256:" + "0" * 64).faults
    assert "no entry has the expected hash" in fault.problem


@pytest.mark.parametrize("seq", [1, 11, 25, 30])
@pytest.mark.parametrize("column", ["rollout", "previous", "hash"])
def test_a_changed_entry_is_named_wherever_it_is(ledger: DatabaseLedger, seq: int, column: str) -> None:
    _tamper(ledger, f"UPDATE entries SET {column} = 'forged' WHERE seq = {seq}")
    assert (seq, "changed") in [(f.seq, f.problem.partition(":")[0]) for f in ledger.verify().faults]


@pytest.mark.parametrize("seq", [1, 10, 30])
def test_a_missing_entry_is_named_wherever_it_is(ledger: DatabaseLedger, seq: int) -> None:
    _tamper(ledger, f"DELETE FROM entries WHERE seq = {seq}")
    assert seq in [fault.seq for fault in ledger.verify().faults]


def test_two_spans_that_are_whole_and_do_not_join_are_found(ledger: DatabaseLedger) -> None:
    """Somebody wrote a whole second chain in the place of the last span, and its head."""
    forged = chain.extend((20, "sha256:" + "f" * 64), [_draft(n) for n in range(21, ENTRIES + 1)], 1000)
    assert forged[0]._replace(hash="") == unhashed(_draft(21), seq=21, at_ms=1000, previous="sha256:" + "f" * 64)
    for record in forged:
        _tamper(
            ledger,
            f"UPDATE entries SET previous = '{record.previous}', hash = '{record.hash}' WHERE seq = {record.seq}",
        )
    _tamper(ledger, f"UPDATE head SET hash = '{forged[-1].hash}'")
    assert [(f.seq, f.problem.partition(":")[0]) for f in ledger.verify().faults] == [(21, "does not follow entry 20")]


@pytest.mark.parametrize("number", [0, -5, ENTRIES + 1])
def test_an_entry_beyond_the_chain_is_found(ledger: DatabaseLedger, number: int) -> None:
    columns = "at_ms, kind, service, environment, rollout, body, previous, hash"
    _tamper(ledger, f"INSERT INTO entries (seq, {columns}) SELECT {number}, {columns} FROM entries WHERE seq = 5")
    assert ledger.verify().faults


def test_an_edited_head_is_found(ledger: DatabaseLedger) -> None:
    _tamper(ledger, "UPDATE head SET hash = 'sha256:forged'")
    (fault,) = ledger.verify().faults
    assert (fault.seq, "the stored head has the hash" in fault.problem) == (ENTRIES, True)


@pytest.mark.parametrize("command", [("/nowhere",), (sys.executable, "-c", "raise SystemExit(1)")])
def test_where_processes_cannot_do_it_one_does(
    ledger: DatabaseLedger, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(spans, "COMMAND", command)
    shown = _careful(monkeypatch)
    assert (ledger.verify().entries, ledger.verify().faults) == (ENTRIES, ())
    assert sum(shown) == 2 * ENTRIES


def test_a_short_chain_is_not_worth_a_process(ledger: DatabaseLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "WORTH_ENTRIES", ENTRIES + 1)
    shown = _careful(monkeypatch)
    assert ledger.verify().faults == ()
    assert sum(shown) == ENTRIES
