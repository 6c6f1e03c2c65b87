"""The SQLite ledger passes the suite that every ledger passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.ports import Ledger
from rebake.testing.conformance.ledger import LedgerConformance, OpenLedger, SharedLedgerConformance


class TestSqliteLedger(LedgerConformance):
    @pytest.fixture
    def open_ledger(self, tmp_path: Path) -> Iterator[OpenLedger]:
        opened: list[DatabaseLedger] = []

        def opening() -> Ledger:
            opened.append(open_ledger(tmp_path / "home" / "state.db"))
            return opened[-1]

        yield opening
        for ledger in opened:
            ledger.close()


class TestSqliteLedgerShared(SharedLedgerConformance):
    opener = "rebake.ledger.database:open_ledger"

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return str(tmp_path / "home" / "state.db")
