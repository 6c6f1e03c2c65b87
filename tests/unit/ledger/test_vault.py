"""Secrets in the ledger's database: opened with the key alone, and by whoever has it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebake.errors import Permanent, UsageError
from rebake.ledger.database import DatabaseLedger, open_ledger
from rebake.ledger.ports import Put
from rebake.ledger.vault import KIND, LedgerVault, key_from
from rebake.testing.simulated import ManualClock

KEY = b"k" * 32


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[DatabaseLedger]:
    opened = open_ledger(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def vault(ledger: DatabaseLedger, clock: ManualClock) -> LedgerVault:
    return LedgerVault(ledger, KEY, clock)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(value=st.text(st.characters(codec="utf-8"), max_size=100) | st.just("\udcff bytes of no text"))
def test_what_was_put_in_comes_out_by_its_version(vault: LedgerVault, value: str) -> None:
    version = vault.remember(value)
    assert version.startswith("hmac:")
    assert vault.remember(value) == version
    assert vault.secret(version) == value


def test_another_server_with_the_same_key_opens_it_and_one_with_another_key_does_not(
    vault: LedgerVault, ledger: DatabaseLedger, clock: ManualClock
) -> None:
    version = vault.remember("hunter2")
    assert LedgerVault(ledger, KEY, clock).secret(version) == "hunter2"
    stranger = LedgerVault(ledger, b"x" * 32, clock)
    with pytest.raises(Permanent) as refusal:
        stranger.secret(version)
    assert refusal.value.code == "secret-damaged"
    assert stranger.remember("hunter2") != version, "a guess cannot be tested without the key"


def test_the_database_shows_no_value(vault: LedgerVault, ledger: DatabaseLedger, tmp_path: Path) -> None:
    vault.remember("hunter2-of-ada")
    ledger.close()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"hunter2" not in data
        assert base64.b64encode(b"hunter2-of-ada")[:12] not in data


def test_a_box_under_another_name_is_damaged(vault: LedgerVault, ledger: DatabaseLedger) -> None:
    one, two = vault.remember("one"), vault.remember("two")
    ledger.commit([], [Put(KIND, one, ledger.get(KIND, two))], at=1.0)
    for version, doc in ((one, None), (two, {"box": "no base64"}), (two, {})):
        if doc is not None:
            ledger.commit([], [Put(KIND, two, doc)], at=1.0)
        with pytest.raises(Permanent) as refusal:
            vault.secret(version)
        assert refusal.value.code == "secret-damaged"


@pytest.mark.parametrize("version", ["hmac:" + "0" * 64, "hmac:", "../key", ""])
def test_a_version_that_nobody_keeps(vault: LedgerVault, version: str) -> None:
    with pytest.raises(Permanent) as refusal:
        vault.secret(version)
    assert refusal.value.code == "secret-unknown"


def test_what_no_revision_names_goes_after_an_hour(vault: LedgerVault, clock: ManualClock) -> None:
    named, dropped = vault.remember("named"), vault.remember("dropped")
    clock.advance(3599)
    young = vault.remember("young")
    assert vault.keep({named}) == 0
    clock.advance(2)
    assert vault.keep({named}) == 1
    assert (vault.secret(named), vault.secret(young)) == ("named", "young")
    with pytest.raises(Permanent):
        vault.secret(dropped)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as absent:
        key_from(tmp_path / "none")
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(UsageError) as short:
        key_from(tmp_path / "short")
    assert [refusal.value.code for refusal in (absent, short)] == ["secret-key-file"] * 2
    assert "openssl" in str(short.value.remedy)
