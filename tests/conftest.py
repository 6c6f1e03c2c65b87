from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rebake.testing.docker_engine import DockerEngine, NoEngine
from rebake.testing.postgresql import NotInstalled, PostgresqlServer
from rebake.testing.registry_server import NoRegistry, RegistryServer

# The same examples in every run, so that a change is judged by itself; other examples: REBAKE_EXPLORE=1 make test.
settings.register_profile("same", derandomize=True)
if not os.environ.get("REBAKE_EXPLORE"):
    settings.load_profile("same")


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


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """A real Docker engine of our own, started when the first test asks for it and ended with the session."""
    try:
        engine = DockerEngine()
    except NoEngine as absent:
        pytest.skip(str(absent))
    with engine:
        yield engine


@pytest.fixture(scope="session")
def registry() -> Iterator[RegistryServer]:
    """A real registry without a password, started when the first test asks for it and ended with the session."""
    try:
        server = RegistryServer()
    except NoRegistry as absent:
        pytest.skip(str(absent))
    with server:
        yield server
