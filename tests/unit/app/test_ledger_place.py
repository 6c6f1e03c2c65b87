from __future__ import annotations

from pathlib import Path

import pytest

from rebake.app.ledger_place import keep_ledger_place, take_ledger_place
from rebake.core.home import Home
from rebake.errors import UsageError

URL = "postgresql://ada:secret@db/rebake"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_without_the_variable_the_ledger_is_in_the_home(home: Home) -> None:
    assert take_ledger_place(home, {}) == home.database
    keep_ledger_place(home, home.database)
    assert not home.ledger_place.exists()


def test_the_variable_is_taken_out_and_its_password_is_written_nowhere(home: Home) -> None:
    environ = {"REBAKE_DATABASE": URL, "PATH": "/bin"}
    keep_ledger_place(home, take_ledger_place(home, environ))
    assert environ == {"PATH": "/bin"}
    assert home.ledger_place.read_text() == "postgresql://ada@db/rebake\n"
    assert take_ledger_place(home, {"REBAKE_DATABASE": "postgresql://ada:changed@db/rebake"})


@pytest.mark.parametrize("told", [{}, {"REBAKE_DATABASE": "postgresql://ada:secret@elsewhere/rebake"}])
def test_a_home_does_not_begin_a_second_ledger(home: Home, told: dict[str, str]) -> None:
    keep_ledger_place(home, URL)
    with pytest.raises(UsageError) as refused:
        take_ledger_place(home, told)
    assert refused.value.code == "another-database"
    assert "export REBAKE_DATABASE=postgresql://ada@db/rebake" in str(refused.value.remedy)
    assert "secret" not in str(refused.value.to_json())


def test_a_home_with_a_ledger_of_its_own_does_not_leave_it(home: Home) -> None:
    home.database.touch()
    with pytest.raises(UsageError) as refused:
        take_ledger_place(home, {"REBAKE_DATABASE": URL})
    assert refused.value.code == "another-database"
    assert "unset REBAKE_DATABASE" in str(refused.value.remedy)
