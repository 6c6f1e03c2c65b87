"""The PostgreSQL ledger passes the suite that every ledger passes. Opt-in: it needs a server and `psycopg`.

Run it with `REBAKE_TEST_POSTGRESQL=postgresql://user@host/postgres`, a user who may create databases.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url, text

from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.ports import Ledger
from rebake.testing.conformance.ledger import LedgerConformance, OpenLedger, SharedLedgerConformance

_SERVER = os.environ.get("REBAKE_TEST_POSTGRESQL", "")

pytestmark = pytest.mark.skipif(not _SERVER, reason="set REBAKE_TEST_POSTGRESQL to the URL of a server to run these")


@pytest.fixture
def address() -> Iterator[str]:
    """The URL of an empty database of its own."""
    url = make_url(_SERVER).set(drivername="postgresql+psycopg")
    name = f"rebake_test_{uuid.uuid4().hex}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


class TestPostgresqlLedger(LedgerConformance):
    @pytest.fixture
    def open_ledger(self, address: str) -> Iterator[OpenLedger]:
        opened: list[DatabaseLedger] = []

        def opening() -> Ledger:
            opened.append(open_ledger(address))
            return opened[-1]

        yield opening
        for ledger in opened:
            ledger.close()


class TestPostgresqlLedgerShared(SharedLedgerConformance):
    opener = "rebake.ledger.database:open_ledger"

    @pytest.fixture
    def address(self, address: str) -> str:
        return address
