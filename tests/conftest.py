from __future__ import annotations

from collections.abc import Iterator

import pytest

from rebake.testing.postgresql import NotInstalled, PostgresqlServer


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A real PostgreSQL, started when the first test asks for it and ended with the session."""
    try:
        server = PostgresqlServer()
    except NotInstalled as absent:
        pytest.skip(str(absent))
    with server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: PostgresqlServer) -> Iterator[str]:
    """The URL of an empty database of this test alone."""
    with postgresql.database() as url:
        yield url
