"""The PostgreSQL ledger passes the suite that every ledger passes, on a server that the tests start themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.ports import Ledger
from rebake.testing.conformance.ledger import LedgerConformance, OpenLedger, SharedLedgerConformance

pytestmark = pytest.mark.real


class TestPostgresqlLedger(LedgerConformance):
    @pytest.fixture
    def open_ledger(self, postgresql_url: str) -> Iterator[OpenLedger]:
        opened: list[DatabaseLedger] = []

        def opening() -> Ledger:
            opened.append(open_ledger(postgresql_url))
            return opened[-1]

        yield opening
        for ledger in opened:
            ledger.close()


class TestPostgresqlLedgerShared(SharedLedgerConformance):
    opener = "rebake.ledger.database:open_ledger"

    @pytest.fixture
    def address(self, postgresql_url: str) -> str:
        return postgresql_url
