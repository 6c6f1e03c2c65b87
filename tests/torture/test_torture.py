"""A few of the kills of `make torture`, quick enough for every change. REBAKE_SEED chooses others."""

from __future__ import annotations

import os

import pytest

from tests.torture import kills

pytestmark = pytest.mark.real
SEED = int(os.environ.get("REBAKE_SEED", "3"))


def test_the_agent_is_killed_at_eight_instants(capsys: pytest.CaptureFixture[str]) -> None:
    findings = kills.run(8, SEED)
    with capsys.disabled():
        print(f"\nseed {SEED}: {findings.line()}")
    assert not findings.violations, "\n".join([f"seed {SEED}", *findings.violations])
