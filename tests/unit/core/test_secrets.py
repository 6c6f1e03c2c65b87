from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rebake.core.home import Home
from rebake.core.secrets import GRACE_SECONDS, SecretVault
from rebake.errors import Permanent


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def _age(home: Home, version: str) -> None:
    path = home.secrets / version.removeprefix("hmac:")
    then = path.stat().st_mtime - GRACE_SECONDS - 1
    os.utime(path, (then, then))


@pytest.mark.parametrize("value", ["hunter2", "", "two\nlines\n", "pässwörd 🔑", "not\udcffutf8", "x" * 100_000])
def test_a_remembered_value_comes_back_by_its_version(home: Home, value: str) -> None:
    version = SecretVault(home).remember(value)
    assert SecretVault(home).secret(version) == value


def test_equal_values_have_one_version_and_different_values_two(home: Home) -> None:
    vault = SecretVault(home)
    assert vault.remember("a") == vault.remember("a")
    assert vault.remember("a") != vault.remember("b")


def test_the_version_says_nothing_to_somebody_without_this_homes_key(tmp_path: Path) -> None:
    one, other = (SecretVault(Home(tmp_path / name)).remember("hunter2") for name in ("one", "other"))
    assert one != other


def test_only_the_owner_can_read_anything(home: Home) -> None:
    home.secrets.mkdir(parents=True, mode=0o755)
    SecretVault(home).remember("hunter2")
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(path.stat().st_mode) for path in home.secrets.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("version", ["hmac:" + "0" * 64, "hmac:../../etc/passwd", "hmac:key", "", "key"])
def test_an_unknown_version_is_refused_also_when_it_names_another_file(home: Home, version: str) -> None:
    vault = SecretVault(home)
    vault.remember("hunter2")
    with pytest.raises(Permanent) as refused:
        vault.secret(version)
    assert refused.value.code == "secret-unknown"


def test_a_value_changed_on_the_disk_is_refused(home: Home) -> None:
    vault = SecretVault(home)
    version = vault.remember("hunter2")
    (home.secrets / version.removeprefix("hmac:")).write_text("changed")
    with pytest.raises(Permanent) as refused:
        vault.secret(version)
    assert refused.value.code == "secret-damaged"


def test_a_cut_off_key_is_refused_instead_of_giving_other_versions(home: Home) -> None:
    vault = SecretVault(home)
    vault.remember("hunter2")
    (home.secrets / "key").write_bytes(b"short")
    with pytest.raises(Permanent) as refused:
        vault.remember("hunter2")
    assert refused.value.code == "secret-key-damaged"


def test_what_no_revision_needs_goes_and_the_rest_stays(home: Home) -> None:
    vault = SecretVault(home)
    kept, dropped = vault.remember("kept"), vault.remember("dropped")
    _age(home, kept)
    _age(home, dropped)
    assert vault.keep({kept}) == 1
    assert vault.secret(kept) == "kept"
    with pytest.raises(Permanent):
        vault.secret(dropped)
    assert vault.remember("dropped") == dropped, "the key stays"


def test_a_value_remembered_just_now_survives_a_collection_that_does_not_know_it(home: Home) -> None:
    vault = SecretVault(home)
    first = vault.remember("rolled out in a moment")
    _age(home, first)
    again = vault.remember("rolled out in a moment")
    assert vault.keep(set()) == 0
    assert vault.secret(again) == "rolled out in a moment"


def test_what_a_killed_writer_left_half_written_is_collected(home: Home) -> None:
    vault = SecretVault(home)
    vault.remember("hunter2")
    rest = home.secrets / ".abc.half"
    rest.write_text("hun")
    os.utime(rest, (0, 0))
    assert vault.keep(set()) == 1
    assert not rest.exists()


def test_keeping_in_a_home_without_secrets_makes_nothing(home: Home) -> None:
    assert SecretVault(home).keep(set()) == 0
    assert not home.root.exists()


def test_two_first_users_at_once_agree_on_the_key(home: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = set(pool.map(lambda _: SecretVault(home).remember("hunter2"), range(16)))
    assert len(versions) == 1
