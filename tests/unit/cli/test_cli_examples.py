"""The examples in the docstrings of the command line and the server are true."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = [
    "rebake.cli.agent_process",
    "rebake.cli.session",
    "rebake.cli.verbs.logs",
    "rebake.cli.words",
    "rebake.server.dashboard",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
